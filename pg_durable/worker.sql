-- Statements of the worker on its own connection, as the owner of df.

-- name: load_snapshot
-- The graph of an instance as it was started; no row means that the instance was deleted.
select s.graph
from df._snapshots as s
where s.instance_id = %(instance_id)s and s.hash = %(hash)s

-- name: read_install
-- Which installation this is; no row or no table means that there is none.
select i.install_id::text, current_user::text from df._install as i order by i.installed_at desc limit 1

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
    %(waiter_key)s, %(instance_id)s, %(name)s, %(after_seq)s, %(engine_id)s, %(mode)s
)

-- name: unclaim_signal
-- Give a wait up; false means that the answer is on its way to the queue.
select df._unclaim_signal_v1(%(waiter_key)s, %(instance_id)s)

-- name: may_call
-- Whether a role may execute a function now; no row means that role or function is gone.
select has_function_privilege(r.oid, to_regprocedure(%(signature)s), 'EXECUTE')
from pg_roles as r
where r.rolname = %(role)s and to_regprocedure(%(signature)s) is not null
