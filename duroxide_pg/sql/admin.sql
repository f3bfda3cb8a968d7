-- What people and their tools ask.

-- name: list_instances
-- Newest first.
select s.instance_id, s.current_execution_id, s.orchestration_name, s.orchestration_version, s.status,
       s.output, s.custom_status, s.custom_status_version,
       floor(extract(epoch from s.created_at) * 1000)::bigint,
       floor(extract(epoch from s.updated_at) * 1000)::bigint,
       floor(extract(epoch from s.completed_at) * 1000)::bigint,
       s.parent_instance_id,
       floor(extract(epoch from s.suspended_at) * 1000)::bigint
  from {schema}.instances as s
 where %(status)s::text is null or s.status = %(status)s
 order by s.created_at desc, s.instance_id desc
 limit %(limit)s;

-- name: list_page
-- From the place where the last page ended, in microseconds since 1970, which are exact in a timestamp.
select s.instance_id, s.current_execution_id, s.orchestration_name, s.orchestration_version, s.status,
       s.output, s.custom_status, s.custom_status_version,
       floor(extract(epoch from s.created_at) * 1000)::bigint,
       floor(extract(epoch from s.updated_at) * 1000)::bigint,
       floor(extract(epoch from s.completed_at) * 1000)::bigint,
       s.parent_instance_id,
       floor(extract(epoch from s.suspended_at) * 1000)::bigint,
       (extract(epoch from s.created_at) * 1000000)::bigint
  from {schema}.instances as s
 where (%(statuses)s::text[] is null or s.status = any(%(statuses)s::text[]))
   and (%(names)s::text[] is null or s.orchestration_name = any(%(names)s::text[]))
   and (%(parent)s::text is null or s.parent_instance_id = %(parent)s)
   and (not %(roots)s::boolean or s.parent_instance_id is null)
   and (not %(suspended)s::boolean or s.suspended_at is not null)
   and (%(from_ms)s::bigint is null
        or s.created_at >= timestamptz 'epoch' + %(from_ms)s::bigint * interval '1 millisecond')
   and (%(before_ms)s::bigint is null
        or s.created_at < timestamptz 'epoch' + %(before_ms)s::bigint * interval '1 millisecond')
   and (%(created)s::bigint is null
        or (s.created_at, s.instance_id)
           < (timestamptz 'epoch' + %(created)s::bigint * interval '1 microsecond', %(instance_id)s::text))
 order by s.created_at desc, s.instance_id desc
 limit %(limit)s;

-- name: list_executions
-- Oldest first. An unfinished count of events comes from the instance, the others from their turns.
select e.execution_id, e.status, e.output,
       floor(extract(epoch from e.started_at) * 1000)::bigint,
       floor(extract(epoch from e.completed_at) * 1000)::bigint,
       coalesce((
           select sum(h.last_event_id - h.first_event_id + 1)::bigint
             from {schema}.history_log as h
            where h.instance_id = e.instance_id and h.execution_id = e.execution_id
       ), 0)
  from {schema}.executions as e
 where e.instance_id = %(instance_id)s
 order by e.execution_id;

-- name: list_children
-- Oldest first.
select s.instance_id
  from {schema}.instances as s
 where s.parent_instance_id = %(instance_id)s
 order by s.created_at, s.instance_id;

-- name: instance_tree
-- Parents before their children. One that is below itself, as its parent's id was taken anew, ends the walk: each
-- has one parent, so there is no other way round.
with recursive tree as (
    select %(instance_id)s::text as instance_id, 0 as depth
    union all
    select s.instance_id, t.depth + 1
      from tree as t join {schema}.instances as s on s.parent_instance_id = t.instance_id
     where s.instance_id <> %(instance_id)s
)
select t.instance_id from tree as t order by t.depth, t.instance_id;

-- name: delete_instances
select * from {schema}.delete_instances_v1(%(instance_ids)s, %(force)s, %(slice_events)s);

-- name: delete_ended_trees
select * from {schema}.delete_ended_trees_v1(
    %(instance_ids)s, %(completed_before_ms)s, %(after_us)s, %(after_id)s, %(limit)s, %(page)s,
    %(slice_events)s);

-- name: prune_executions
select * from {schema}.prune_executions_v1(
    %(instance_ids)s, %(completed_before_ms)s, %(after_us)s, %(after_id)s, %(limit)s, %(keep_last)s,
    %(ended_before_ms)s, %(slice_events)s);

-- name: system_metrics
select * from {schema}.system_metrics_v1(%(pages)s);

-- name: queue_depths
-- What could be taken now: visible, and not leased by anybody; and the timers that are still to come. Counted up
-- to a limit: that there are more is all that matters then.
with clock as (
    select coalesce(to_timestamp(%(now)s::bigint / 1000.0), clock_timestamp()) as ts
)
select (
           select count(*) from (
               select from {schema}.orchestrator_queue as q
                where q.visible_at <= (select ts from clock)
                  and not exists (
                      select from {schema}.instance_locks as l
                       where l.instance_id = q.instance_id
                         and l.locked_until > floor(extract(epoch from (select ts from clock)) * 1000)
                         and (q.id = any (l.msg_ids) or l.lock_token = '')
                      offset 0
                  )
                order by q.visible_at, q.id
                limit %(most)s
           ) as ready
       ),
       (
           select count(*) from (
               select from {schema}.worker_queue as q
                where q.visible_at <= (select ts from clock)
                  and q.locked_until <= floor(extract(epoch from (select ts from clock)) * 1000)
                limit %(most)s
           ) as ready
       ),
       (
           select count(*) from (
               select from {schema}.orchestrator_queue as q
                where q.visible_at > (select ts from clock)
                  and q.kind = 4
                  and q.held_visible_at is null
                order by q.visible_at, q.id
                limit %(most)s
           ) as timers
       );

-- name: instance_stats
-- Of the current execution; no row means that there is no such instance.
select s.history_events::bigint, s.history_bytes,
       (select count(*) from {schema}.orchestrator_queue as q
         where q.instance_id = s.instance_id
           and q.kind = 6),
       (select count(*)
          from (select key from {schema}.kv_store where instance_id = s.instance_id
                union
                select key from {schema}.kv_delta where instance_id = s.instance_id) as k
         where not exists (
             select from {schema}.kv_delta as d
              where d.instance_id = s.instance_id and d.key = k.key and d.value is null
         )),
       (select coalesce(sum(octet_length(coalesce(d.value, k.value)))
                            filter (where d.key is null or d.value is not null), 0)::bigint
          from (select * from {schema}.kv_store where instance_id = s.instance_id) as k
          full join (select * from {schema}.kv_delta where instance_id = s.instance_id) as d
            on d.key = k.key)
  from {schema}.instances as s
 where s.instance_id = %(instance_id)s;

-- name: cleanup_sessions
-- Those that nobody holds and that have nothing to do.
with clock as (
    select coalesce(%(now)s::bigint, floor(extract(epoch from clock_timestamp()) * 1000)::bigint) as now
),
gone as (
    delete from {schema}.sessions as s
     using clock
     where s.locked_until <= clock.now
       and not exists (select from {schema}.worker_queue as q where q.session_id = s.session_id)
    returning 1
)
select count(*) from gone;

-- name: suspend_instances
select * from {schema}.suspend_instances_v1(%(instance_ids)s, %(now)s);

-- name: resume_instances
select * from {schema}.resume_instances_v1(%(instance_ids)s);

-- name: list_dead_letters
-- Oldest first, from an id on.
select d.id, d.instance_id, d.kind, d.work_item, d.reason, d.attempt_count,
       floor(extract(epoch from d.buried_at) * 1000)::bigint
  from {schema}.dead_letters as d
 where (%(instance_id)s::text is null or d.instance_id = %(instance_id)s)
   and d.id > %(after)s
 order by d.id
 limit %(limit)s;

-- name: requeue
-- Null: the instance can't be reopened like that.
select {schema}.requeue_v1(
    %(instance_id)s, %(execution)s, %(events)s, %(keep)s,
    %(a_activity)s, %(a_body)s, %(a_tag)s, %(a_session)s,
    %(m_instance)s, %(m_kind)s, %(m_body)s, %(m_visible)s, %(m_timer_execution)s, %(m_timer)s,
    %(now)s);

-- name: discard_dead_letters
with gone as (
    delete from {schema}.dead_letters as d where d.instance_id = %(instance_id)s returning 1
)
select count(*) from gone;
