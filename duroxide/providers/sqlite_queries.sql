-- The statements of the embedded store. They run on one connection at a time, inside a transaction
-- that began with BEGIN IMMEDIATE: what is read is still true when it is written.

-- name: due_instances
-- Due messages, the oldest first, of instances that nobody holds; read only as far as needed.
select m.instance_id, e.engine_major, e.engine_minor, e.engine_patch
from messages as m
left join leases as l on l.instance_id = m.instance_id
left join instances as i on i.instance_id = m.instance_id
left join executions as e
    on e.instance_id = i.instance_id and e.execution_id = i.execution_id
where m.visible_at_ms <= :now and (l.instance_id is null or l.expires_at_ms <= :now)
  and i.suspended_at_ms is null
order by m.visible_at_ms, m.message_id;

-- name: resume_cancelled
-- Suspended instances that are to be cancelled, and so have to run once more.
update instances set suspended_at_ms = null
where suspended_at_ms is not null and exists (
    select 1 from messages as m
    where m.instance_id = instances.instance_id and m.visible_at_ms <= :now and m.kind = :cancel
);

-- name: suspend
update instances set suspended_at_ms = :now where instance_id = :instance_id;

-- name: resume
update instances set suspended_at_ms = null where instance_id = ?;

-- name: forgive_delivery
-- What the lease of an instance was given counts as not delivered.
update messages set token = null, attempt_count = attempt_count - 1
where instance_id = :instance_id and token = (
    select l.token from leases as l where l.instance_id = :instance_id
);

-- name: take_lease
insert into leases (instance_id, token, expires_at_ms, worker)
values (:instance_id, :token, :expires, :worker)
on conflict (instance_id) do update
set token = excluded.token, expires_at_ms = excluded.expires_at_ms, worker = excluded.worker;

-- name: deliver
-- All visible messages of the instance that this lease was not given yet.
update messages set token = :token, attempt_count = attempt_count + 1
where instance_id = :instance_id and visible_at_ms <= :now and token is not :token
returning message_id, kind, body, attempt_count, visible_at_ms;

-- name: held_lease
select instance_id, expires_at_ms from leases where token = :token and expires_at_ms > :now;

-- name: lease_of
select token, expires_at_ms from leases where instance_id = ?;

-- name: extend_lease
update leases set expires_at_ms = ? where instance_id = ?;

-- name: end_lease
delete from leases where instance_id = ?;

-- name: renew_lease
update leases set expires_at_ms = :expires where token = :token and expires_at_ms > :now;

-- name: current
select
    i.name, i.version, i.execution_id, i.parent_instance_id, i.last_turn,
    e.status, e.event_count, i.incarnation
from instances as i
join executions as e on e.instance_id = i.instance_id and e.execution_id = i.execution_id
where i.instance_id = ?;

-- name: history
select events, first_event_id from history
where instance_id = ? and execution_id = ? and last_event_id > ?
order by first_event_id;

-- name: add_history
insert into history (instance_id, execution_id, first_event_id, last_event_id, events)
values (?, ?, ?, ?, ?);

-- name: key_values
select key, value, updated_at_ms from key_values where instance_id = ?;

-- name: live_key_values
select key, value, updated_at_ms from key_value_changes
where instance_id = :instance_id and value is not null
union all
select key, value, updated_at_ms from key_values as k
where instance_id = :instance_id and not exists (
    select 1 from key_value_changes as c
    where c.instance_id = k.instance_id and c.key = k.key
);

-- name: begin_instance
insert into instances (
    instance_id, name, version, execution_id, parent_instance_id, created_at_ms, updated_at_ms,
    incarnation
)
values (:instance_id, :name, :version, :execution_id, :parent, :now, :now, :token)
on conflict (instance_id) do update
set name = excluded.name,
    version = excluded.version,
    execution_id = excluded.execution_id,
    parent_instance_id = coalesce(parent_instance_id, excluded.parent_instance_id);

-- name: begin_execution
insert into executions (
    instance_id, execution_id, status, engine_major, engine_minor, engine_patch,
    event_count, event_bytes, started_at_ms
)
values (:instance_id, :execution_id, 'Running', :major, :minor, :patch, 0, 0, :now)
on conflict (instance_id, execution_id) do update
set engine_major = excluded.engine_major,
    engine_minor = excluded.engine_minor,
    engine_patch = excluded.engine_patch;

-- name: advance_instance
update instances
set updated_at_ms = :now,
    last_turn = :last_turn,
    custom_status = case when :has_status then :custom_status else custom_status end,
    custom_status_version = custom_status_version + :has_status
where instance_id = :instance_id;

-- name: advance_execution
update executions
set event_count = event_count + :count, event_bytes = event_bytes + :bytes
where instance_id = :instance_id and execution_id = :execution_id;

-- name: end_execution
-- Only a running execution can end; no row means that it had ended before.
update executions
set status = :status, output = :output, completed_at_ms = :now
where instance_id = :instance_id and execution_id = :execution_id and status = 'Running';

-- name: set_key_value
insert into key_value_changes (instance_id, key, value, updated_at_ms) values (?, ?, ?, ?)
on conflict (instance_id, key) do update
set value = excluded.value, updated_at_ms = excluded.updated_at_ms;

-- name: clear_key_values
insert into key_value_changes (instance_id, key, value, updated_at_ms)
select :instance_id, key, null, :now from (
    select key from key_values where instance_id = :instance_id
    union
    select key from key_value_changes where instance_id = :instance_id
) where true
on conflict (instance_id, key) do update
set value = null, updated_at_ms = excluded.updated_at_ms;

-- name: merge_key_values_1
insert into key_values (instance_id, key, value, updated_at_ms)
select instance_id, key, value, updated_at_ms from key_value_changes
where instance_id = ? and value is not null
on conflict (instance_id, key) do update
set value = excluded.value, updated_at_ms = excluded.updated_at_ms;

-- name: merge_key_values_2
delete from key_values
where instance_id = :instance_id and key in (
    select key from key_value_changes where instance_id = :instance_id and value is null
);

-- name: merge_key_values_3
delete from key_value_changes where instance_id = ?;

-- name: enqueue
insert into messages (
    instance_id, kind, body, visible_at_ms, timer_execution_id, timer_event_id
) values (?, ?, ?, ?, ?, ?);

-- name: consume
delete from messages where message_id = ? and instance_id = ?;

-- name: cancel_timer
delete from messages where instance_id = ? and timer_execution_id = ? and timer_event_id = ?;

-- name: has_visible
select 1 from messages where instance_id = ? and visible_at_ms <= ? limit 1;

-- name: abandon_messages
-- Only what that lease was given; what came later is not delayed.
update messages
set visible_at_ms = case when :delay > 0 then :now + :delay else visible_at_ms end,
    attempt_count = max(attempt_count - :forgiven, 0),
    token = null
where instance_id = :instance_id and token = :token;

-- name: add_activity
insert into activities (
    instance_id, execution_id, activity_id, body, tag, session_id,
    visible_at_ms, attempt_count, token, expires_at_ms, worker
) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: cancel_activity
delete from activities where instance_id = ? and execution_id = ? and activity_id = ?;

-- name: leased_activity
select number, instance_id, session_id from activities
where token = ? and expires_at_ms > ?;

-- name: drop_activity
delete from activities where number = ?;

-- name: abandon_activity
update activities
set token = null,
    expires_at_ms = 0,
    visible_at_ms = :visible_at,
    attempt_count = max(attempt_count - :forgiven, 0)
where number = :number;

-- name: renew_activity
update activities set expires_at_ms = :expires
where token = :token and expires_at_ms > :now
returning session_id;

-- name: heartbeat
-- Only under a live lease; a trigger deletes it together with the activity.
insert into heartbeats (number, data)
select number, :data from activities where token = :token and expires_at_ms > :now
on conflict (number) do update set data = excluded.data;

-- name: lease_activity
update activities
set token = :token, expires_at_ms = :expires, worker = :worker, attempt_count = attempt_count + 1
where number = :number;

-- name: free_activities
-- {tags} is a condition on the tag. Read only as far as needed.
select
    a.number, a.instance_id, a.execution_id, a.activity_id, a.body, a.tag, a.session_id,
    a.attempt_count, s.owner, s.expires_at_ms, h.data, a.visible_at_ms
from activities as a
left join sessions as s on s.session_id = a.session_id
left join heartbeats as h on h.number = a.number
where {tags} and a.visible_at_ms <= :now and a.expires_at_ms <= :now
order by a.number;

-- name: claim_session
insert into sessions (session_id, owner, expires_at_ms, last_activity_ms)
values (:session_id, :owner, :expires, :now)
on conflict (session_id) do update
set owner = excluded.owner,
    expires_at_ms = excluded.expires_at_ms,
    last_activity_ms = excluded.last_activity_ms;

-- name: touch_session
update sessions set last_activity_ms = :now where session_id = :session_id and expires_at_ms > :now;

-- name: renew_sessions
update sessions set expires_at_ms = :now + :lease
where owner = :owner and expires_at_ms > :now and :now - last_activity_ms < :idle;

-- name: cleanup_sessions
delete from sessions
where expires_at_ms <= :now and not exists (
    select 1 from activities as a where a.session_id = sessions.session_id
);

-- name: next_message
select min(visible_at_ms) from messages where visible_at_ms > ?;

-- name: next_lease
select min(expires_at_ms) from leases where expires_at_ms > ?;

-- name: next_activity
select min(t) from (
    select min(visible_at_ms) as t from activities where visible_at_ms > :now
    union all
    select min(expires_at_ms) from activities where expires_at_ms > :now
    union all
    select min(expires_at_ms) from sessions where expires_at_ms > :now
);

-- name: status
select
    i.instance_id, i.execution_id, i.name, i.version, e.status, e.output, i.custom_status,
    i.custom_status_version, i.created_at_ms, i.updated_at_ms, e.completed_at_ms,
    i.parent_instance_id, i.suspended_at_ms
from instances as i
join executions as e on e.instance_id = i.instance_id and e.execution_id = i.execution_id
where i.instance_id = ?;

-- name: list_instances
select i.instance_id from instances as i
join executions as e on e.instance_id = i.instance_id and e.execution_id = i.execution_id
where :status is null or e.status = :status
order by i.created_at_ms desc, i.instance_id desc
limit :limit;

-- name: list_page
-- By the index on age, from the place where the last page ended; sets come as JSON arrays.
select
    i.instance_id, i.execution_id, i.name, i.version, e.status, e.output, i.custom_status,
    i.custom_status_version, i.created_at_ms, i.updated_at_ms, e.completed_at_ms,
    i.parent_instance_id, i.suspended_at_ms
from instances as i
join executions as e on e.instance_id = i.instance_id and e.execution_id = i.execution_id
where
    (:statuses is null or e.status in (select value from json_each(:statuses)))
    and (:names is null or i.name in (select value from json_each(:names)))
    and (:parent is null or i.parent_instance_id = :parent)
    and (not :roots or i.parent_instance_id is null)
    and (not :suspended or i.suspended_at_ms is not null)
    and (:from is null or i.created_at_ms >= :from)
    and (:before is null or i.created_at_ms < :before)
    and (:created is null or (i.created_at_ms, i.instance_id) < (:created, :id))
order by i.created_at_ms desc, i.instance_id desc
limit :limit;

-- name: list_executions
select execution_id, status, output, started_at_ms, completed_at_ms, event_count
from executions where instance_id = ? order by execution_id;

-- name: children
select instance_id from instances where parent_instance_id = ? order by created_at_ms, instance_id;

-- name: roots
-- Ended instances without a parent; {ids} is a condition on the id.
select i.instance_id from instances as i
join executions as e on e.instance_id = i.instance_id and e.execution_id = i.execution_id
where {ids} and i.parent_instance_id is null and e.status in ('Completed', 'Failed')
  and (:before is null or e.completed_at_ms < :before)
order by i.created_at_ms, i.instance_id;

-- name: selected
select i.instance_id from instances as i
join executions as e on e.instance_id = i.instance_id and e.execution_id = i.execution_id
where {ids} and (:before is null or e.completed_at_ms < :before)
order by i.created_at_ms, i.instance_id
limit :limit;

-- name: metrics
select
    count(*),
    coalesce(sum(e.status = 'Running'), 0),
    coalesce(sum(e.status = 'Completed'), 0),
    coalesce(sum(e.status = 'Failed'), 0)
from instances as i
join executions as e on e.instance_id = i.instance_id and e.execution_id = i.execution_id;

-- name: execution_metrics
select count(*), coalesce(sum(event_count), 0) from executions;

-- name: depths
select
    (
        select count(*) from messages as m
        left join leases as l on l.instance_id = m.instance_id and l.expires_at_ms > :now
        left join instances as i on i.instance_id = m.instance_id
        where m.visible_at_ms <= :now and (l.token is null or m.token is not l.token)
          and i.suspended_at_ms is null
    ),
    (select count(*) from activities where visible_at_ms <= :now and expires_at_ms <= :now),
    (select count(*) from messages where visible_at_ms > :now and kind = :timer);

-- name: stats
select
    e.event_count, e.event_bytes,
    (select count(*) from messages as m where m.instance_id = i.instance_id and m.kind = :queue)
from instances as i
join executions as e on e.instance_id = i.instance_id and e.execution_id = i.execution_id
where i.instance_id = :instance_id;

-- name: bury
insert into dead_letters (
    instance_id, kind, body, timer_execution_id, timer_event_id, attempt_count, reason, buried_at_ms
)
select instance_id, kind, body, timer_execution_id, timer_event_id, attempt_count, :reason, :now
from messages where message_id = :message_id and instance_id = :instance_id;

-- name: dead_letters
select letter_id, instance_id, kind, body, reason, attempt_count, buried_at_ms
from dead_letters
where (:instance_id is null or instance_id = :instance_id) and letter_id > :after
order by letter_id
limit :limit;

-- name: requeue
insert into messages (instance_id, kind, body, visible_at_ms, timer_execution_id, timer_event_id)
select instance_id, kind, body, :now, timer_execution_id, timer_event_id
from dead_letters where instance_id = :instance_id
order by letter_id;

-- name: discard_letters
delete from dead_letters where instance_id = ?;

-- name: cut_history
delete from history where instance_id = ? and execution_id = ? and first_event_id > ?;

-- name: kept_history
select coalesce(max(last_event_id), 0), coalesce(sum(length(cast(events as blob))), 0)
from history where instance_id = ? and execution_id = ?;

-- name: reopen_execution
update executions
set status = 'Running', output = null, completed_at_ms = null,
    event_count = :count, event_bytes = :bytes
where instance_id = :instance_id and execution_id = :execution_id;

-- name: drop_execution
delete from executions where instance_id = ? and execution_id = ?;

-- name: reopen_instance
-- The current execution is the newest that is left; without any the instance never was.
update instances
set updated_at_ms = :now, last_turn = null,
    execution_id = coalesce((
        select max(e.execution_id) from executions as e where e.instance_id = :instance_id
    ), 0)
where instance_id = :instance_id;

-- name: drop_unbegun
delete from instances where instance_id = ? and execution_id = 0;
