-- What clients look at. Plain reads; none of them waits for anybody.

-- name: read_status
select s.instance_id, s.current_execution_id, s.orchestration_name, s.orchestration_version, s.status,
       s.output, s.custom_status, s.custom_status_version,
       floor(extract(epoch from s.created_at) * 1000)::bigint,
       floor(extract(epoch from s.updated_at) * 1000)::bigint,
       floor(extract(epoch from s.completed_at) * 1000)::bigint,
       s.parent_instance_id,
       floor(extract(epoch from s.suspended_at) * 1000)::bigint
  from {schema}.instances as s
 where s.instance_id = any (%(instance_ids)s);

-- name: read_history
-- One row per turn; none if the execution is unknown. Without an execution, the current one.
select h.first_event_id, h.last_event_id, h.events
  from {schema}.history_log as h
 where h.instance_id = %(instance_id)s
   and h.execution_id = coalesce(%(execution_id)s::bigint, (
       select s.current_execution_id from {schema}.instances as s
        where s.instance_id = %(instance_id)s
   ))
 order by h.first_event_id;

-- name: read_histories
-- Of the current executions of leased instances, which therefore stand still.
select h.instance_id, array_agg(h.events order by h.first_event_id)
  from {schema}.instances as s
  join {schema}.history_log as h
    on h.instance_id = s.instance_id and h.execution_id = s.current_execution_id
 where s.instance_id = any (%(instance_ids)s)
 group by h.instance_id;

-- name: read_key_values
-- The running execution's changes over what was there when it began; a null hides a key.
select coalesce(d.key, s.key), d.key is not null, d.value, s.value,
       coalesce(d.last_updated_at_ms, s.last_updated_at_ms)
  from (select * from {schema}.kv_store where instance_id = %(instance_id)s) as s
  full join (select * from {schema}.kv_delta where instance_id = %(instance_id)s) as d
    on d.key = s.key;
