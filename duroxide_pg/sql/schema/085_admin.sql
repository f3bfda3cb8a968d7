-- Deleting and pruning, in slices: a call is a transaction that removes about p_events events, and o_more asks
-- for another one. Executions that continue-as-new has superseded go first, from the oldest on, which leaves
-- each instance as if it had been pruned; what is left of an instance, or of a whole tree, goes at once. So
-- nothing is ever seen half, wherever it stops. Deleting an instance makes its leases and messages void.

-- Delete these instances, all or none. o_problem says why none: unknown, running and not forced, or a
-- child that is not among them. With o_more, only superseded executions are gone yet.
create function {schema}.delete_instances_v1(
    p_instances text[],
    p_force boolean,
    p_events bigint,
    out o_problem text,
    out o_instances bigint,
    out o_executions bigint,
    out o_events bigint,
    out o_messages bigint,
    out o_more boolean
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
        select d.o_instances, d.o_executions, d.o_events, d.o_messages, d.o_more
          into o_instances, o_executions, o_events, o_messages, o_more
          from {schema}._delete_sliced_v1(p_instances, p_events) as d;
    end if;
end;
$$;

create function {schema}._delete_sliced_v1(
    p_instances text[],
    p_events bigint,
    out o_instances bigint,
    out o_executions bigint,
    out o_events bigint,
    out o_messages bigint,
    out o_more boolean
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_executions bigint;
    v_events bigint;
begin
    select p.o_executions, p.o_events, p.o_more into v_executions, v_events, o_more
      from {schema}._prune_v1(p_instances, 1, null, p_events) as p;
    if o_more then
        o_instances := 0;
        o_executions := v_executions;
        o_events := v_events;
        o_messages := 0;
        return;
    end if;
    select d.o_instances, d.o_executions + v_executions, d.o_events + v_events, d.o_messages
      into o_instances, o_executions, o_events, o_messages
      from {schema}._delete_v1(p_instances) as d;
end;
$$;

-- Remove superseded executions of these instances, from the oldest on, until about p_events events are gone:
-- not the newest p_keep_last of an instance (the current one counts), and, with p_ended_before_ms, only those
-- that ended before. An execution goes as a whole, and counts as one event more, for its row.
create function {schema}._prune_v1(
    p_instances text[],
    p_keep_last integer,
    p_ended_before_ms bigint,
    p_events bigint,
    out o_executions bigint,
    out o_events bigint,
    out o_more boolean
)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
    v_before constant timestamptz := to_timestamp(p_ended_before_ms / 1000.0);
    v_left bigint := p_events;
    v_instance text;
    v_newest bigint;
    v_executions bigint;
    v_events bigint;
begin
    o_executions := 0;
    o_events := 0;
    o_more := false;
    for v_instance, v_newest in
        select i, k.execution_id
          from unnest(p_instances) as i
         cross join lateral (
             select e.execution_id
               from {schema}.executions_done as e
              where e.instance_id = i
              order by e.execution_id desc
             offset greatest(coalesce(p_keep_last, 1), 1) - 1
              limit 1
         ) as k
    loop
        loop
            o_more := v_left <= 0;
            exit when o_more;
            with due as materialized (
                select e.execution_id,
                       1 + coalesce((
                           select h.last_event_id
                             from {schema}.history_log as h
                            where h.instance_id = v_instance and h.execution_id = e.execution_id
                            order by h.first_event_id desc
                            limit 1
                       ), 0) as size
                  from {schema}.executions_done as e
                 where e.instance_id = v_instance
                   and e.execution_id <= v_newest
                   and (v_before is null or e.completed_at < v_before)
                 order by e.execution_id
                 limit 1000
            ),
            taken as materialized (
                select r.execution_id
                  from (
                    select d.execution_id,
                           sum(d.size) over (order by d.execution_id) - d.size as before
                      from due as d
                  ) as r
                 where r.before < v_left
            ),
            gone as (
                delete from {schema}.executions_done as e
                 using taken as t
                 where e.instance_id = v_instance and e.execution_id = t.execution_id
            ),
            turns as (
                delete from {schema}.history_log as h
                 using taken as t
                 where h.instance_id = v_instance and h.execution_id = t.execution_id
                returning h.last_event_id - h.first_event_id + 1 as events
            )
            select count(*), (select coalesce(sum(t.events), 0) from turns as t)
              into v_executions, v_events
              from taken;
            exit when v_executions = 0;
            o_executions := o_executions + v_executions;
            o_events := o_events + v_events;
            v_left := v_left - v_executions - v_events;
        end loop;
        exit when o_more;
    end loop;
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

-- A slice of a deletion: look at the next p_page instances in the order of their creation, and delete up to
-- p_limit ended roots among them with their whole trees; a tree in which anything still runs stays. The
-- next slice goes on after o_last; with o_more from there, else null: there is nothing behind it that could
-- have ended in time.
create function {schema}.delete_ended_trees_v1(
    p_instances text[],
    p_completed_before_ms bigint,
    p_after_us bigint,
    p_after_id text,
    p_limit integer,
    p_page integer,
    p_events bigint,
    out o_roots bigint,
    out o_instances bigint,
    out o_executions bigint,
    out o_events bigint,
    out o_messages bigint,
    out o_more boolean,
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
    v_ids text[];
    v_us bigint[];
    v_members text[] := '{}';
    v_events bigint := 0;
    v_tree text[];
    v_size bigint;
begin
    with page as materialized (
        select s.instance_id, s.created_at, s.completed_at, s.status, s.parent_instance_id
          from {schema}.instances as s
         where (p_after_us is null or (s.created_at, s.instance_id) > (v_after, p_after_id))
           and (v_before is null or s.created_at < v_before)
           and (p_instances is null or s.instance_id = any (p_instances))
         order by s.created_at, s.instance_id
         limit p_page
    ),
    root as (
        select p.instance_id, p.created_at
          from page as p
         where p.parent_instance_id is null
           and p.status in ('Completed', 'Failed')
           and (v_before is null or p.completed_at < v_before)
    ),
    last as (
        select p.created_at, p.instance_id
          from page as p order by p.created_at, p.instance_id offset p_page - 1 limit 1
    )
    select array_agg(r.instance_id order by r.created_at, r.instance_id),
           array_agg((extract(epoch from r.created_at) * 1000000)::bigint
                     order by r.created_at, r.instance_id),
           (select (extract(epoch from l.created_at) * 1000000)::bigint from last as l),
           (select l.instance_id from last as l)
      into v_ids, v_us, o_last_us, o_last_id
      from root as r;
    o_roots := 0;
    for v_place in 1 .. coalesce(cardinality(v_ids), 0) loop
        select t.o_members, t.o_events into v_tree, v_size
          from {schema}._ended_tree_v1(v_ids[v_place], v_before) as t;
        continue when v_tree is null;
        if o_roots > 0 and v_events + v_size > p_events then
            o_last_us := v_us[v_place - 1];
            o_last_id := v_ids[v_place - 1];
            exit;
        end if;
        v_members := v_members || v_tree;
        v_events := v_events + v_size;
        o_roots := o_roots + 1;
        if o_roots = p_limit then
            o_last_us := v_us[v_place];
            o_last_id := v_ids[v_place];
            exit;
        end if;
    end loop;
    select d.o_instances, d.o_executions, d.o_events, d.o_messages, d.o_more
      into o_instances, o_executions, o_events, o_messages, o_more
      from {schema}._delete_sliced_v1(v_members, p_events) as d;
    if o_more then
        o_roots := 0;
        o_last_us := p_after_us;
        o_last_id := p_after_id;
    end if;
end;
$$;

-- Lock a root that has ended in time, if nobody has it locked. Returns its whole tree, and how many events the
-- current executions of that are; null: it is not one, or something below it runs.
create function {schema}._ended_tree_v1(
    p_root text, p_before timestamptz, out o_members text[], out o_events bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_has_ended boolean;
begin
    select x.history_events + 1 into o_events
      from {schema}.instances as x
     where x.instance_id = p_root
       and x.parent_instance_id is null
       and x.status in ('Completed', 'Failed')
       and (p_before is null or x.completed_at < p_before)
       for update skip locked;
    if not found then
        return;
    end if;
    with recursive below as (
        select c.instance_id, c.status, c.history_events
          from {schema}.instances as c where c.parent_instance_id = p_root
        union all
        select c.instance_id, c.status, c.history_events
          from below as b join {schema}.instances as c on c.parent_instance_id = b.instance_id
    )
    select p_root || coalesce(array_agg(b.instance_id), '{}'),
           o_events + coalesce(sum(b.history_events + 1), 0),
           coalesce(bool_and(b.status in ('Completed', 'Failed')), true)
      into o_members, o_events, v_has_ended
      from below as b;
    if not v_has_ended then
        o_members := null;
    end if;
end;
$$;

-- Remove superseded executions, as _prune_v1 does: a slice of the next p_limit instances in the order of their
-- creation. The current execution and key-values always stay. The next slice goes on after o_last, if
-- that is not null; with o_more from there, and none of these instances counts as processed yet.
create function {schema}.prune_executions_v1(
    p_instances text[],
    p_completed_before_ms bigint,
    p_after_us bigint,
    p_after_id text,
    p_limit integer,
    p_keep_last integer,
    p_ended_before_ms bigint,
    p_events bigint,
    out o_instances bigint,
    out o_executions bigint,
    out o_events bigint,
    out o_more boolean,
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
    select p.o_executions, p.o_events, p.o_more into o_executions, o_events, o_more
      from {schema}._prune_v1(v_instances, p_keep_last, p_ended_before_ms, p_events) as p;
    if o_more then
        o_instances := 0;
        o_last_us := p_after_us;
        o_last_id := p_after_id;
    end if;
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
