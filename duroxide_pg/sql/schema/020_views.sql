-- The shapes that people know: one row per execution, one row per event.

create view {schema}.executions as
select instance_id, execution_id, status, output, started_at, completed_at,
       (pinned_version >> 40)::integer as duroxide_version_major,
       (pinned_version >> 20 & 1048575)::integer as duroxide_version_minor,
       (pinned_version & 1048575)::integer as duroxide_version_patch
  from {schema}.executions_done
union all
select instance_id, current_execution_id, status, output, started_at, completed_at,
       (pinned_version >> 40)::integer,
       (pinned_version >> 20 & 1048575)::integer,
       (pinned_version & 1048575)::integer
  from {schema}.instances;

-- Raises for a row whose text is not JSON; the engine never reads through it.
create view {schema}.history as
select h.instance_id, h.execution_id,
       (e.value ->> 'event_id')::bigint as event_id,
       e.value ->> 'type' as event_type,
       e.value::text as event_data,
       h.created_at
  from {schema}.history_log as h
 cross join lateral json_array_elements(h.events::json) as e (value);
