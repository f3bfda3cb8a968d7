-- Statements of the worker on its own connection, as the owner of df.

-- name: load_snapshot
-- The graph of an instance as it was started; no row means that the instance was deleted.
select s.graph
from df._snapshots as s
where s.instance_id = %(instance_id)s and s.hash = %(hash)s

-- name: read_install
-- Which installation this is, and where; no row or no table means that there is none.
select i.install_id::text, current_user::text, current_database()::text
from df._install as i order by i.installed_at desc limit 1

-- name: heartbeat
-- Tell that this worker lives, and learn which installation this is. Inserted again if somebody cleaned
-- up too eagerly.
with beat as (
    insert into df._workers as w (worker_id, hostname, pid, version, draining)
    values (%(worker_id)s, %(hostname)s, %(pid)s, %(version)s, %(draining)s)
    on conflict (worker_id) do update set last_seen_at = now(), draining = excluded.draining
)
select i.install_id::text from df._install as i order by i.installed_at desc limit 1

-- name: sign_off
-- This worker is gone, and so are those that have not been seen for a day.
delete from df._workers as w
where w.worker_id = %(worker_id)s or w.last_seen_at < now() - interval '1 day'

-- name: backend_exists
-- Whether a server process of that number exists; another one may have taken the number over.
select exists (select from pg_stat_activity as a where a.pid = %(pid)s)

-- name: claim_signal
-- Begin to wait for a signal; the answer if it is there already. Repeating it changes nothing.
select df._claim_signal_v1(
    %(waiter_key)s, %(instance_id)s, %(name)s, %(after_seq)s, %(engine_id)s, %(mode)s, %(prune)s
)

-- name: unclaim_signal
-- Give a wait up; false means that the answer is on its way to the queue.
select df._unclaim_signal_v1(%(waiter_key)s, %(instance_id)s)

-- name: relay_pause
-- Tell a child of a workflow whether that is paused, as things are now; repeating it changes nothing.
select df._relay_pause_v1(%(instance_id)s, %(engine_id)s)

-- name: submitter
-- The role that started a workflow as it is called now, and whether it is a superuser; no name means that
-- it was dropped, no row that the instance is gone.
select r.rolname::text, coalesce(r.rolsuper, false)
from df.instances as i
left join pg_roles as r on r.oid = i.submitted_by
where i.id = %(instance_id)s

-- name: is_superuser
-- Whether the worker's own role is one.
select r.rolsuper from pg_roles as r where r.rolname = current_user

-- name: begin_attempt
-- Say that a step whose effect does not commit with its record is begun, and how often it was.
insert into df._attempts as a (instance_id, node_id, step, attempt)
values (%(instance_id)s, %(node_id)s, %(step)s, 1)
on conflict (instance_id, node_id) do update
set step = excluded.step, started_at = now(),
    attempt = case when a.step = excluded.step then a.attempt + 1 else 1 end
returning a.attempt

-- name: end_attempt
-- The step is recorded: it will not be delivered again.
delete from df._attempts as a
where a.instance_id = %(instance_id)s and a.node_id = %(node_id)s and a.step = %(step)s

-- name: rights
-- The role that started a workflow as it is called now, whether it is a superuser, and whether it may
-- execute a function; no name means that it was dropped.
select r.rolname::text, coalesce(r.rolsuper, false),
    coalesce(has_function_privilege(r.oid, to_regprocedure(%(signature)s), 'EXECUTE'), false)
from df.instances as i
left join pg_roles as r on r.oid = i.submitted_by
where i.id = %(instance_id)s

-- name: try_lock
-- One worker at a time does what must not be done twice; the lock ends with the session at the latest.
select pg_try_advisory_lock(hashtextextended(%(name)s, 0))

-- name: unlock
select pg_advisory_unlock(hashtextextended(%(name)s, 0))

-- name: expired_instances
-- Instances that ended before the retention time, or are not among the newest to keep. When users last
-- wrote to a row does not count.
with ended as (
    select i.id, coalesce(i.completed_at, i.created_at) as at,
        row_number() over (order by coalesce(i.completed_at, i.created_at) desc, i.id desc) as place
    from df.instances as i
    where i.status in ('completed', 'failed', 'cancelled')
)
select e.id
from ended as e
where e.at < now() - make_interval(days => df._setting('retention_days')::int)
    or e.place > df._setting('retain_instances')::bigint
order by e.at
limit %(at_most)s

-- name: repair
-- End instances that the engine has ended or lost; no row means that all is well.
select r.instance_id, r.status, r.error from df._repair_v1(%(at_most)s) as r

-- name: delete_instances
-- All that df holds of these instances. Nodes and instances refer to each other; that is checked at the
-- end of the statement's transaction.
with nodes as (delete from df.nodes as n where n.instance_id = any (%(ids)s)),
snapshots as (delete from df._snapshots as s where s.instance_id = any (%(ids)s)),
waiters as (delete from df._signal_waiters as w where w.instance_id = any (%(ids)s)),
signals as (delete from df._signals as s where s.instance_id = any (%(ids)s)),
attempts as (delete from df._attempts as a where a.instance_id = any (%(ids)s)),
mailboxes as (delete from df._mailboxes as m where m.instance_id = any (%(ids)s))
delete from df.instances as i where i.id = any (%(ids)s)

-- name: note_refusal
-- Why a worker could not take an instance further; it stays unless the instance ends in another way.
update df.instances as i
set error_details = jsonb_build_object('reason', %(reason)s::text, 'hint', %(hint)s::text)
where i.id = %(instance_id)s and i.status in ('pending', 'running')

-- name: setting
-- A setting of this installation.
select df._setting(%(name)s)
