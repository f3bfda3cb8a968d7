-- Deleting and pruning, as sets. Deleting an instance makes its leases and messages void.

-- Delete these instances, all or none. o_problem says why none: unknown, running and not forced, or a
-- child that is not among them.
create function {schema}.delete_instances_v1(
    p_instances text[],
    p_force boolean,
    out o_problem text,
    out o_instances bigint,
    out o_executions bigint,
    out o_events bigint,
    out o_messages bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_known text[];
begin
    perform s.instance_id from {schema}.instances as s
      where s.instance_id = any (p_instances) order by s.instance_id for update;
    select coalesce(array_agg(s.instance_id), '{}') into v_known
      from {schema}.instances as s where s.instance_id = any (p_instances);
    select format('instance %L not found', i) into o_problem
      from unnest(p_instances) as i where i <> all (v_known) limit 1;
    if o_problem is null and not p_force then
        select format('instance %L is running; cancel it first, or delete it with force', s.instance_id)
          into o_problem
          from {schema}.instances as s
         where s.instance_id = any (p_instances) and s.status not in ('Completed', 'Failed')
         limit 1;
    end if;
    if o_problem is null then
        select format('instance %L would be an orphan: its parent %L is to be deleted and it is not; '
                      'delete the whole tree', s.instance_id, s.parent_instance_id)
          into o_problem
          from {schema}.instances as s
         where s.parent_instance_id = any (p_instances) and s.instance_id <> all (p_instances)
         limit 1;
    end if;
    if o_problem is null then
        select d.o_instances, d.o_executions, d.o_events, d.o_messages
          into o_instances, o_executions, o_events, o_messages
          from {schema}._delete_v1(p_instances) as d;
    end if;
end;
$$;

create function {schema}._delete_v1(
    p_instances text[],
    out o_instances bigint,
    out o_executions bigint,
    out o_events bigint,
    out o_messages bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rows bigint;
begin
    delete from {schema}.instance_locks as l where l.instance_id = any (p_instances);
    with gone as (
        delete from {schema}.history_log as h
         where h.instance_id = any (p_instances)
        returning h.last_event_id - h.first_event_id + 1 as events
    )
    select coalesce(sum(gone.events), 0) into o_events from gone;
    delete from {schema}.executions_done as e where e.instance_id = any (p_instances);
    get diagnostics o_executions = row_count;
    delete from {schema}.orchestrator_queue as q where q.instance_id = any (p_instances);
    get diagnostics o_messages = row_count;
    delete from {schema}.worker_queue as q where q.instance_id = any (p_instances);
    get diagnostics v_rows = row_count;
    o_messages := o_messages + v_rows;
    delete from {schema}.dead_letters as d where d.instance_id = any (p_instances);
    delete from {schema}.kv_store as k where k.instance_id = any (p_instances);
    delete from {schema}.kv_delta as k where k.instance_id = any (p_instances);
    delete from {schema}.instances as s where s.instance_id = any (p_instances);
    get diagnostics o_instances = row_count;
    o_executions := o_executions + o_instances;
end;
$$;

-- One slice of a deletion: look at the next p_page instances in the order of their creation, and delete up to
-- p_limit ended roots among them with their whole trees; a tree in which anything still runs stays. The
-- next slice goes on after o_last; null: there is nothing behind it that could have ended in time.
create function {schema}.delete_ended_trees_v1(
    p_instances text[],
    p_completed_before_ms bigint,
    p_after_us bigint,
    p_after_id text,
    p_limit integer,
    p_page integer,
    out o_roots bigint,
    out o_instances bigint,
    out o_executions bigint,
    out o_events bigint,
    out o_messages bigint,
    out o_last_us bigint,
    out o_last_id text
)
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
    v_before constant timestamptz := to_timestamp(p_completed_before_ms / 1000.0);
    v_after constant timestamptz := timestamptz 'epoch' + p_after_us * interval '1 microsecond';
    v_members text[];
begin
    with recursive page as materialized (
        select s.instance_id, s.created_at
          from {schema}.instances as s
         where (p_after_us is null or (s.created_at, s.instance_id) > (v_after, p_after_id))
           and (v_before is null or s.created_at < v_before)
           and (p_instances is null or s.instance_id = any (p_instances))
         order by s.created_at, s.instance_id
         limit p_page
    ),
    root as materialized (
        select s.instance_id, s.created_at
          from page as p
         cross join lateral (
             select x.instance_id, x.created_at
               from {schema}.instances as x
              where x.instance_id = p.instance_id
                and x.parent_instance_id is null
                and x.status in ('Completed', 'Failed')
                and (v_before is null or x.completed_at < v_before)
                and not exists (
                    with recursive below as (
                        select c.instance_id, c.status
                          from {schema}.instances as c
                         where c.parent_instance_id = x.instance_id
                        union all
                        select c.instance_id, c.status
                          from below as b
                          join {schema}.instances as c on c.parent_instance_id = b.instance_id
                    )
                    select from below as b where b.status not in ('Completed', 'Failed')
                )
             offset 0
                for update skip locked
         ) as s
         order by s.created_at, s.instance_id
         limit p_limit
    ),
    tree as (
        select r.instance_id from root as r
        union all
        select s.instance_id
          from tree as t join {schema}.instances as s on s.parent_instance_id = t.instance_id
    ),
    last as (
        -- Where the limit was reached, or else where the page ends.
        (select r.created_at, r.instance_id from root as r offset p_limit - 1 limit 1)
        union all
        (select p.created_at, p.instance_id from page as p offset p_page - 1 limit 1)
        limit 1
    )
    select (select count(*) from root), array_agg(t.instance_id order by t.instance_id),
           (select (extract(epoch from l.created_at) * 1000000)::bigint from last as l),
           (select l.instance_id from last as l)
      into o_roots, v_members, o_last_us, o_last_id
      from tree as t;
    select d.o_instances, d.o_executions, d.o_events, d.o_messages
      into o_instances, o_executions, o_events, o_messages
      from {schema}._delete_v1(coalesce(v_members, '{}')) as d;
end;
$$;

-- Remove superseded executions: not the newest p_keep_last (the current one counts), and, with
-- p_ended_before_ms, only those that ended before. The current execution and key-values always stay. One
-- slice, of the next p_limit instances in the order of their creation; the next one goes on after o_last,
-- if that is not null.
create function {schema}.prune_executions_v1(
    p_instances text[],
    p_completed_before_ms bigint,
    p_after_us bigint,
    p_after_id text,
    p_limit integer,
    p_keep_last integer,
    p_ended_before_ms bigint,
    out o_instances bigint,
    out o_executions bigint,
    out o_events bigint,
    out o_last_us bigint,
    out o_last_id text
)
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
    v_before constant timestamptz := to_timestamp(p_completed_before_ms / 1000.0);
    v_after constant timestamptz := timestamptz 'epoch' + p_after_us * interval '1 microsecond';
    v_instances text[];
begin
    with page as materialized (
        select s.instance_id, s.created_at
          from {schema}.instances as s
         where (p_after_us is null or (s.created_at, s.instance_id) > (v_after, p_after_id))
           and (v_before is null or (s.created_at < v_before and s.completed_at < v_before))
           and (p_instances is null or s.instance_id = any (p_instances))
         order by s.created_at, s.instance_id
         limit p_limit
    )
    select coalesce(array_agg(p.instance_id order by p.created_at, p.instance_id), '{}'),
           (array_agg((extract(epoch from p.created_at) * 1000000)::bigint
                      order by p.created_at, p.instance_id))[p_limit]
      into v_instances, o_last_us
      from page as p;
    o_instances := cardinality(v_instances);
    o_last_id := v_instances[p_limit];
    with ranked as (
        select e.instance_id, e.execution_id, e.completed_at,
               row_number() over (partition by e.instance_id order by e.execution_id desc) + 1 as place
          from {schema}.executions_done as e
         where e.instance_id = any (v_instances)
    ),
    gone as (
        delete from {schema}.executions_done as e
         using ranked as r
         where e.instance_id = r.instance_id
           and e.execution_id = r.execution_id
           and r.place > greatest(coalesce(p_keep_last, 1), 1)
           and (p_ended_before_ms is null
                or r.completed_at < to_timestamp(p_ended_before_ms / 1000.0))
        returning e.instance_id, e.execution_id
    ),
    turns as (
        delete from {schema}.history_log as h
         using gone as g
         where h.instance_id = g.instance_id and h.execution_id = g.execution_id
        returning h.last_event_id - h.first_event_id + 1 as events
    )
    select (select count(*) from gone), (select coalesce(sum(t.events), 0) from turns as t)
      into o_executions, o_events;
end;
$$;

-- How many of everything there are. Of a table with more than p_pages pages that many are looked at, picked at
-- random, and the counts are estimates: whoever watches a store must not read all of it each time.
create function {schema}.system_metrics_v1(
    p_pages bigint,
    out o_instances bigint,
    out o_executions bigint,
    out o_running bigint,
    out o_completed bigint,
    out o_failed bigint,
    out o_events bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
declare
    v_percent double precision;
begin
    v_percent := {schema}._percent_v1('instances', p_pages);
    select round(count(*) * 100 / v_percent),
           round(count(*) filter (where s.status = 'Running') * 100 / v_percent),
           round(count(*) filter (where s.status = 'Completed') * 100 / v_percent),
           round(count(*) filter (where s.status = 'Failed') * 100 / v_percent)
      into o_instances, o_running, o_completed, o_failed
      from {schema}.instances as s tablesample system (v_percent);
    v_percent := {schema}._percent_v1('executions_done', p_pages);
    select o_instances + round(count(*) * 100 / v_percent) into o_executions
      from {schema}.executions_done as e tablesample system (v_percent);
    v_percent := {schema}._percent_v1('history_log', p_pages);
    select coalesce(round(sum(h.last_event_id - h.first_event_id + 1)::bigint * 100 / v_percent), 0)
      into o_events
      from {schema}.history_log as h tablesample system (v_percent);
end;
$$;

create function {schema}._percent_v1(p_table text, p_pages bigint) returns double precision
language sql
set search_path = pg_catalog, pg_temp
as $$
    select least(100.0, 100.0 * p_pages * current_setting('block_size')::bigint
                        / greatest(pg_relation_size(format('%I.%I', '{channel}', p_table)), 1));
$$;
