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

-- Raises for a row whose text is not JSON; the engine never reads through it. No operator of JSON looks
-- into the events: all of them refuse a whole event for a NUL in one of its texts. Inside a text every
-- quote has a backslash before it, so that only the key itself is found.
create view {schema}.history as
select h.instance_id, h.execution_id,
       h.first_event_id + e.place - 1 as event_id,
       substring(e.value::text from '"type": *"([^"]+)"') as event_type,
       e.value::text as event_data,
       h.created_at
  from {schema}.history_log as h
 cross join lateral json_array_elements(h.events::json) with ordinality as e (value, place);
