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

-- Delete up to p_limit ended roots with their whole trees; a tree in which anything still runs stays.
create function {schema}.delete_ended_trees_v1(
    p_instances text[],
    p_completed_before_ms bigint,
    p_limit integer,
    out o_roots bigint,
    out o_instances bigint,
    out o_executions bigint,
    out o_events bigint,
    out o_messages bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_members text[];
begin
    with recursive root as materialized (
        select s.instance_id
          from {schema}.instances as s
         where s.parent_instance_id is null
           and s.status in ('Completed', 'Failed')
           and (p_instances is null or s.instance_id = any (p_instances))
           and (p_completed_before_ms is null
                or s.completed_at < to_timestamp(p_completed_before_ms / 1000.0))
           and not exists (
               with recursive below as (
                   select c.instance_id, c.status
                     from {schema}.instances as c
                    where c.parent_instance_id = s.instance_id
                   union all
                   select c.instance_id, c.status
                     from below as b
                     join {schema}.instances as c on c.parent_instance_id = b.instance_id
               )
               select from below as b where b.status not in ('Completed', 'Failed')
           )
         order by s.created_at, s.instance_id
         limit p_limit
           for update skip locked
    ),
    tree as (
        select r.instance_id from root as r
        union all
        select s.instance_id
          from tree as t join {schema}.instances as s on s.parent_instance_id = t.instance_id
    )
    select (select count(*) from root), array_agg(t.instance_id order by t.instance_id)
      into o_roots, v_members
      from tree as t;
    select d.o_instances, d.o_executions, d.o_events, d.o_messages
      into o_instances, o_executions, o_events, o_messages
      from {schema}._delete_v1(coalesce(v_members, '{}')) as d;
end;
$$;

-- Remove superseded executions: not the newest p_keep_last (the current one counts), and, with
-- p_ended_before_ms, only those that ended before. The current execution and key-values always stay.
create function {schema}.prune_executions_v1(
    p_instances text[],
    p_completed_before_ms bigint,
    p_limit integer,
    p_keep_last integer,
    p_ended_before_ms bigint,
    out o_instances bigint,
    out o_executions bigint,
    out o_events bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_instances text[];
begin
    select coalesce(array_agg(w.instance_id), '{}') into v_instances
      from (
        select s.instance_id
          from {schema}.instances as s
         where (p_instances is null or s.instance_id = any (p_instances))
           and (p_completed_before_ms is null
                or s.completed_at < to_timestamp(p_completed_before_ms / 1000.0))
         order by s.created_at, s.instance_id
         limit p_limit
      ) as w;
    o_instances := cardinality(v_instances);
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
