-- Put the dead letters of an instance back on its queue, as never delivered, after having reopened it if
-- p_execution is given: its history is cut after p_keep of its p_events events (0: as if that execution had
-- never begun), and what its last turn gave up is put back. o_letters is null where it can't be reopened like
-- that; nothing is changed then. Wakes workers when it commits.
create function {schema}.requeue_v1(
    p_instance text,
    p_execution bigint,
    p_events bigint,
    p_keep bigint,
    a_activity bigint[],
    a_body text[],
    a_tag text[],
    a_session text[],
    m_instance text[],
    m_kind bigint[],
    m_body text[],
    m_visible bigint[],
    m_timer_execution bigint[],
    m_timer bigint[],
    p_now bigint default null,
    out o_letters bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    v_ts constant timestamptz := coalesce(to_timestamp(p_now / 1000.0), clock_timestamp());
begin
    if p_execution is not null
       and not {schema}._reopen_v1(p_instance, p_execution, p_events, p_keep, v_ts) then
        return;
    end if;
    insert into {schema}.worker_queue
           (instance_id, execution_id, activity_id, tag_key, session_id, work_item, visible_at,
            created_at)
    select p_instance, p_execution, a.activity_id, coalesce(a.tag, ''), a.session, a.body, v_ts, v_ts
      from unnest(a_activity, a_body, a_tag, a_session) with ordinality
           as a (activity_id, body, tag, session, ordinal)
     order by a.ordinal;
    with letter as materialized (
        delete from {schema}.dead_letters as d where d.instance_id = p_instance returning d.*
    )
    insert into {schema}.orchestrator_queue
           (instance_id, kind, work_item, visible_at, timer_execution_id, timer_id, created_at)
    select l.instance_id, l.kind, l.work_item, v_ts, l.timer_execution_id, l.timer_id, v_ts
      from letter as l
     order by l.id;
    get diagnostics o_letters = row_count;
    insert into {schema}.orchestrator_queue
           (instance_id, kind, work_item, visible_at, timer_execution_id, timer_id, created_at)
    select m.instance_id, m.kind, m.body, coalesce(to_timestamp(m.visible / 1000.0), v_ts),
           m.timer_execution, m.timer, v_ts
      from unnest(m_instance, m_kind, m_body, m_visible, m_timer_execution, m_timer) with ordinality
           as m (instance_id, kind, body, visible, timer_execution, timer, ordinal)
     order by m.ordinal;
    perform pg_notify('{channel}', 'turns');
    perform pg_notify('{channel}', 'activities');
end;
$$;

-- Whether the instance was reopened. Leases before instances, as everywhere.
create function {schema}._reopen_v1(
    p_instance text, p_execution bigint, p_events bigint, p_keep bigint, p_ts timestamptz
) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    v_bytes bigint;
begin
    perform from {schema}.instance_locks as l where l.instance_id = p_instance for update;
    perform from {schema}.instances as s
      where s.instance_id = p_instance
        and s.current_execution_id = p_execution
        and s.status = 'Failed'
        and s.next_event_id = p_events + 1
        for update;
    if not found or exists (
        select from {schema}.history_log as h
         where h.instance_id = p_instance
           and h.execution_id = p_execution
           and h.first_event_id <= p_keep
           and h.last_event_id > p_keep
    ) then
        return false;
    end if;
    delete from {schema}.instance_locks as l where l.instance_id = p_instance;
    delete from {schema}.history_log as h
     where h.instance_id = p_instance and h.execution_id = p_execution and h.first_event_id > p_keep;
    if p_keep > 0 then
        select coalesce(sum(octet_length(h.events)), 0) into v_bytes
          from {schema}.history_log as h
         where h.instance_id = p_instance and h.execution_id = p_execution;
        update {schema}.instances as s
           set status = 'Running', output = null, completed_at = null, next_event_id = p_keep + 1,
               last_commit = '', history_events = p_keep, history_bytes = v_bytes,
               updated_at = p_ts
         where s.instance_id = p_instance;
        return true;
    end if;
    with before as (
        delete from {schema}.executions_done as e
         where e.instance_id = p_instance and e.execution_id = p_execution - 1
        returning e.*
    )
    update {schema}.instances as s
       set current_execution_id = b.execution_id, status = b.status, output = b.output,
           pinned_version = b.pinned_version, started_at = b.started_at,
           completed_at = b.completed_at, last_commit = '', updated_at = p_ts,
           (next_event_id, history_events, history_bytes) = (
               select coalesce(max(h.last_event_id), 0) + 1, coalesce(max(h.last_event_id), 0),
                      coalesce(sum(octet_length(h.events)), 0)
                 from {schema}.history_log as h
                where h.instance_id = p_instance and h.execution_id = b.execution_id
           )
      from before as b
     where s.instance_id = p_instance;
    if not found then
        delete from {schema}.instances as s where s.instance_id = p_instance;
    end if;
    return true;
end;
$$;
