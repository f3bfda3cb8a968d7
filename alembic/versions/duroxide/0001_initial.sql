-- The tables of one engine schema. docs/reference/postgres.md explains every choice.
--
-- Every key begins with instance_id. Rows of the queues are inserted and deleted, hardly ever updated;
-- what is updated is in no index, so that the updates stay on their page.
-- Leases are Unix milliseconds; what people look at is timestamptz.

create table {schema}.instances (
    instance_id text primary key,
    orchestration_name text not null,
    orchestration_version text,
    current_execution_id bigint not null default 1,
    parent_instance_id text,
    status text not null default 'Running',
    output text,
    next_event_id bigint not null default 1,
    pinned_version bigint,
    last_commit text,
    flags integer not null default 0,
    custom_status text,
    custom_status_version integer not null default 0,
    history_events integer not null default 0,
    history_bytes bigint not null default 0,
    started_at timestamptz not null,
    completed_at timestamptz,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    suspended_at timestamptz,
    incarnation text not null default ''
) with (fillfactor = 60);
create index instances_parent on {schema}.instances (parent_instance_id)
    where parent_instance_id is not null;
create index instances_created on {schema}.instances (created_at, instance_id);
create index instances_suspended on {schema}.instances (instance_id) where suspended_at is not null;

comment on table {schema}.instances is
    'One row per instance, with the state of its current execution.';
comment on column {schema}.instances.next_event_id is
    'The event that the next turn has to begin with; guards history against a stale writer.';
comment on column {schema}.instances.pinned_version is
    'Engine version of the current execution: major << 40 | minor << 20 | patch; null: any.';
comment on column {schema}.instances.last_commit is
    'Names the last turn that was applied, so that repeating it is recognised.';
comment on column {schema}.instances.incarnation is
    'The lease of its first turn: tells it from one of the same id that was deleted before.';
comment on column {schema}.instances.flags is '1: kv_store has rows; 2: kv_delta has rows.';

create table {schema}.executions_done (
    instance_id text not null,
    execution_id bigint not null,
    status text not null,
    output text,
    pinned_version bigint,
    started_at timestamptz not null,
    completed_at timestamptz not null,
    primary key (instance_id, execution_id)
);
comment on table {schema}.executions_done is
    'Executions that continue-as-new has superseded; the current one is in instances.';

create table {schema}.history_log (
    instance_id text not null,
    execution_id bigint not null,
    first_event_id bigint not null,
    last_event_id bigint not null,
    events text not null,
    created_at timestamptz not null,
    primary key (instance_id, execution_id, first_event_id)
) with (autovacuum_vacuum_insert_scale_factor = 0.05);
comment on table {schema}.history_log is
    'One row per turn; events is a JSON array with one event a line, opaque to the engine''s functions.';

create table {schema}.orchestrator_queue (
    instance_id text not null,
    id bigint generated always as identity,
    kind smallint not null,
    work_item text not null,
    visible_at timestamptz not null,
    attempt_count integer not null default 0,
    timer_execution_id bigint,
    timer_id bigint,
    created_at timestamptz not null default clock_timestamp(),
    held_visible_at timestamptz,
    primary key (instance_id, id)
) with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 2000000000
);
create index orchestrator_queue_ready on {schema}.orchestrator_queue (visible_at, id)
    include (instance_id);
comment on table {schema}.orchestrator_queue is 'Messages to instances, in the order of arrival.';
comment on column {schema}.orchestrator_queue.kind is
    '1 start, 2 continue-as-new, 3 activity, 4 timer, 5 event, 6 queue message, 7 child, 8 cancel.';
comment on column {schema}.orchestrator_queue.attempt_count is 'Deliveries that failed.';
comment on column {schema}.orchestrator_queue.held_visible_at is
    'What visible_at was: the message waits for its suspended instance, out of the way of polls.';

create table {schema}.worker_queue (
    instance_id text not null,
    id bigint generated always as identity,
    execution_id bigint not null,
    activity_id bigint not null,
    tag_key text not null default '',
    session_id text,
    work_item text not null,
    visible_at timestamptz not null,
    lock_token text,
    locked_until bigint not null default 0,
    owner text,
    attempt_count integer not null default 0,
    created_at timestamptz not null default clock_timestamp(),
    heartbeat text,
    primary key (instance_id, id)
) with (
    fillfactor = 60,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 2000000000
);
create index worker_queue_ready on {schema}.worker_queue (tag_key, visible_at, id)
    where session_id is null;
create index worker_queue_session on {schema}.worker_queue (session_id, visible_at, id)
    where session_id is not null;
comment on table {schema}.worker_queue is
    'Activities to run. The lock columns are in no index and in no index predicate.';
comment on column {schema}.worker_queue.tag_key is 'The tag; empty: untagged.';
comment on column {schema}.worker_queue.attempt_count is
    'Deliveries, the current one included.';
comment on column {schema}.worker_queue.heartbeat is 'The last word of a delivery, for the next one.';

create table {schema}.dead_letters (
    instance_id text not null,
    id bigint generated always as identity,
    kind smallint not null,
    work_item text not null,
    timer_execution_id bigint,
    timer_id bigint,
    attempt_count integer not null,
    reason text not null,
    buried_at timestamptz not null,
    primary key (instance_id, id)
);
create index dead_letters_by_age on {schema}.dead_letters (id);
comment on table {schema}.dead_letters is
    'Messages that were taken from the queue without having had their effect; requeue_v1 puts them back.';

create table {schema}.late_cancellations (
    instance_id text not null,
    id bigint not null,
    primary key (instance_id, id)
);
comment on table {schema}.late_cancellations is
    'Activities that were cancelled while their last transaction was open: if it rolls back, the '
    'activity must not run again. Nearly always empty.';

create table {schema}.instance_locks (
    instance_id text primary key,
    lock_token text not null,
    owner text not null,
    locked_until bigint not null,
    locked_at bigint not null,
    msg_ids bigint[] not null default '{}'
) with (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 2000000000
);
comment on table {schema}.instance_locks is 'Who runs which instance, until when.';
comment on column {schema}.instance_locks.msg_ids is 'The messages that the holder was given.';
comment on column {schema}.instance_locks.lock_token is
    'The secret of the lease; empty: the instance is suspended, which nobody''s lease outlives.';

create table {schema}.sessions (
    session_id text primary key,
    owner text not null,
    locked_until bigint not null,
    last_activity_at bigint not null
) with (fillfactor = 50);
create index sessions_owner on {schema}.sessions (owner);
comment on table {schema}.sessions is 'Which worker has the activities of which session.';

create table {schema}.kv_store (
    instance_id text not null,
    key text not null,
    value text not null,
    execution_id bigint not null,
    last_updated_at_ms bigint not null,
    primary key (instance_id, key)
) with (fillfactor = 60);
comment on table {schema}.kv_store is 'Key-values as they were when the current execution began.';

create table {schema}.kv_delta (
    instance_id text not null,
    key text not null,
    value text,
    last_updated_at_ms bigint not null,
    primary key (instance_id, key)
) with (fillfactor = 50);
comment on table {schema}.kv_delta is
    'What the current execution changed; a null value hides a key of kv_store.';

create table {schema}.writers (
    writer text primary key,
    seq bigint not null,
    turn_codes smallint[],
    finish_codes smallint[],
    abandon_codes smallint[],
    updated_at timestamptz not null
) with (fillfactor = 50);
comment on table {schema}.writers is
    'The last batch of each process, so that repeating it after a lost reply changes nothing.';

create unlogged table {schema}.wake_waiters (
    topic text not null,
    waiter text not null,
    until_ms bigint not null,
    primary key (topic, waiter)
);
comment on table {schema}.wake_waiters is
    'Who wants to be told about what. Hints only: losing them costs one poll.';

create table {schema}._worker_ready (
    sentinel boolean primary key default true,
    schema_version integer not null,
    initialized_at timestamptz not null default now(),
    constraint only_one_sentinel check (sentinel)
);
comment on table {schema}._worker_ready is 'One row once the schema can be used; for scripts to poll.';
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
-- Lease up to p_want instances that have something to do, and return all that a turn needs.
--
-- The statements are separate on purpose: each has its own snapshot, so that what is read after the
-- lease was taken is not older than the lease. One statement that locks and reads would return
-- messages that somebody consumed in between.
--
-- Every access by key stands in a subquery with OFFSET 0, and rows are written by their instance and ctid: so
-- each plan is index probes, one per row of the batch, whatever the statistics of these ever-changing tables
-- say. A ctid alone would do on one machine; where tables are spread by instance, each machine has its own.
-- The instance is compared by bytes (collate "C"): equal is equal in any collation, and only the ctid is left
-- to find the row by. The index is in another order, and it would be walked through while the table is
-- small, or searched for all rows of the instance.
--
-- History is left out of an instance whose last turn was written by p_cached_by: that process has it in
-- its cache, as a rule, and asks for it in the rare case that it has not.
--
-- The first row has no instance: the store's clock, when the next message becomes visible, and whether
-- visible messages were passed over because their instance is leased (1: by p_worker, 2: by others, 3: both).
create function {schema}.poll_turns_v1(
    p_worker text,
    p_nonce text,
    p_want integer,
    p_lease_ms bigint,
    p_low_versions bigint[],
    p_high_versions bigint[],
    p_cached_by text,
    p_held_ids text[],
    p_held_nonces text[],
    p_now bigint default null,
    p_try_locks boolean default true
) returns table (
    o_instance_id text,
    o_nonce text,
    o_expires bigint,
    o_execution_id bigint,
    o_next_event_id bigint,
    o_attempt integer,
    o_status text,
    o_name text,
    o_version text,
    o_parent text,
    o_message_ids bigint[],
    o_kinds smallint[],
    o_bodies text[],
    o_history text[],
    o_history_omitted boolean,
    o_keys text[],
    o_values text[],
    o_value_times bigint[],
    o_incarnation text,
    o_waited bigint,
    o_now bigint,
    o_next_due bigint,
    o_blocked smallint
)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_ts constant timestamptz := coalesce(to_timestamp(p_now / 1000.0), clock_timestamp());
    v_now constant bigint := coalesce(p_now, floor(extract(epoch from v_ts) * 1000)::bigint);
    v_space constant integer := hashtext('{channel}');
    v_leased text[] := '{}';
    v_held text[] := '{}';
    v_want integer := p_want;
    v_page_ids text[];
    v_last_ts timestamptz := '-infinity';
    v_last_id bigint := 0;
    v_page_size integer := greatest(4 * p_want, 32);
    v_page_rows integer;
    v_blocked smallint := 0;
    v_page_blocked smallint;
    v_candidates integer;
    v_redelivered boolean;
    v_rows integer;
begin
    -- What arrived under leases that the caller has kept.
    if cardinality(p_held_ids) > 0 then
        select coalesce(array_agg(held.instance_id), '{}') into v_held
          from (
            select l.instance_id
              from unnest(p_held_ids, p_held_nonces) as h (instance_id, nonce)
             cross join lateral (
                 select k.instance_id
                   from {schema}.instance_locks as k
                  where k.instance_id = h.instance_id
                    and k.lock_token = h.nonce
                    and k.locked_until > v_now
                    and exists (
                        select from {schema}.orchestrator_queue as q
                         where q.instance_id = k.instance_id
                           and q.visible_at <= v_ts
                           and q.id <> all (k.msg_ids)
                        offset 0
                    )
                 offset 0
                    for update skip locked
             ) as l
             limit p_want
          ) as held;
        v_want := p_want - cardinality(v_held);
    end if;

    -- Candidates, by the oldest visible message. Pages, so that instances at the head that can't be
    -- taken do not hide later ones.
    for v_page in 1 .. 8 loop
        exit when cardinality(v_leased) >= v_want;
        with page as materialized (
            select q.instance_id, q.visible_at, q.id
              from {schema}.orchestrator_queue as q
             where (q.visible_at, q.id) > (v_last_ts, v_last_id) and q.visible_at <= v_ts
             order by q.visible_at, q.id
             limit v_page_size
        ),
        seen as materialized (
            select p.instance_id, p.visible_at, p.id,
                   case when l.locked_until <= v_now or l.instance_id is null then 0
                        when p.id = any (l.msg_ids) then -1
                        when l.lock_token = '' then 4
                        when l.owner = p_worker then 1
                        else 2 end as blocked,
                   s.pinned_version
              from page as p
              left join lateral (
                  select k.* from {schema}.instance_locks as k
                   where k.instance_id = p.instance_id
                  offset 0
              ) as l on true
              left join lateral (
                  select i.pinned_version from {schema}.instances as i
                   where i.instance_id = p.instance_id
                  offset 0
              ) as s on p_low_versions is not null
        ),
        candidate as materialized (
            select c.instance_id
              from seen as c
             where c.blocked = 0
               and c.instance_id <> all (v_leased)
               and (
                   p_low_versions is null
                   or c.pinned_version is null
                   or exists (
                       select from unnest(p_low_versions, p_high_versions) as v (low, high)
                        where c.pinned_version between v.low and v.high
                   )
               )
             group by c.instance_id
             order by min(c.visible_at), min(c.id)
             limit v_want - cardinality(v_leased)
        ),
        -- A try-lock in memory, so that nobody waits for another poll's uncommitted lease. Only for
        -- that: where a server has no such locks, the rows decide.
        mine as materialized (
            select c.instance_id from candidate as c
             where not p_try_locks or pg_try_advisory_xact_lock(v_space, hashtext(c.instance_id))
        )
        select (select array_agg(m.instance_id order by m.instance_id) from mine as m),
               (select count(*) from candidate),
               (select count(*) from page),
               coalesce((select bit_or(c.blocked) from seen as c where c.blocked > 0), 0),
               last.visible_at, last.id
          into v_page_ids, v_candidates, v_page_rows, v_page_blocked, v_last_ts, v_last_id
          from (select) as one
          left join lateral (
              select p.visible_at, p.id from page as p order by p.visible_at desc, p.id desc limit 1
          ) as last on true;
        if v_page_blocked & 4 > 0 then
            if {schema}._hold_messages_v1(v_ts) then  -- some are candidates now: look from the beginning
                v_last_ts := '-infinity';
                v_last_id := 0;
                continue;
            end if;
            v_page_blocked := v_page_blocked & 3;
        end if;
        v_blocked := v_blocked | v_page_blocked;
        if v_candidates > coalesce(cardinality(v_page_ids), 0) then
            v_blocked := 2;
        end if;

        if v_page_ids is not null then
            -- msg_ids stays what it was, for the account of failed deliveries below.
            with leased as (
                insert into {schema}.instance_locks as l
                       (instance_id, lock_token, owner, locked_until, locked_at)
                select i, p_nonce, p_worker, v_now + p_lease_ms, v_now from unnest(v_page_ids) as i
                on conflict (instance_id) do update
                   set lock_token = excluded.lock_token,
                       owner = excluded.owner,
                       locked_until = excluded.locked_until,
                       locked_at = excluded.locked_at
                 where l.locked_until <= v_now
                returning l.instance_id, l.msg_ids
            )
            select v_leased || coalesce(array_agg(leased.instance_id), '{}'),
                   coalesce(bool_or(leased.msg_ids <> '{}'), false)
              into v_leased, v_redelivered
              from leased;
            if v_redelivered then
                update {schema}.orchestrator_queue as q
                   set attempt_count = q.attempt_count + 1
                  from (
                    select m.instance_id collate "C" as instance_id, m.row_id
                      from unnest(v_page_ids) as i
                     cross join lateral (
                         select l.msg_ids from {schema}.instance_locks as l
                          where l.instance_id = i and l.lock_token = p_nonce
                         offset 0
                     ) as l
                     cross join lateral (
                         select x.instance_id, x.ctid as row_id
                           from {schema}.orchestrator_queue as x
                          where x.instance_id = i and x.id = any (l.msg_ids)
                         offset 0
                     ) as m
                  ) as y
                 where q.instance_id = y.instance_id and q.ctid = y.row_id;
                update {schema}.instance_locks as l
                   set msg_ids = '{}'
                  from (
                    select x.instance_id collate "C" as instance_id, x.row_id
                      from unnest(v_page_ids) as i
                     cross join lateral (
                         select k.instance_id, k.ctid as row_id
                           from {schema}.instance_locks as k
                          where k.instance_id = i and k.lock_token = p_nonce and k.msg_ids <> '{}'
                         offset 0
                     ) as x
                  ) as y
                 where l.instance_id = y.instance_id and l.ctid = y.row_id;
            end if;
        end if;

        exit when v_page_rows < v_page_size;
        v_page_size := 2 * v_page_size;
    end loop;

    return query
    select null::text, null::text, null::bigint, null::bigint, null::bigint, null::integer, null::text,
           null::text, null::text, null::text, null::bigint[], null::smallint[], null::text[],
           null::text[], null::boolean, null::text[], null::text[], null::bigint[], null::text, null::bigint, v_now,
           (
               select ceil(extract(epoch from q.visible_at) * 1000)::bigint
                 from {schema}.orchestrator_queue as q
                where q.visible_at > v_ts
                order by q.visible_at, q.id
                limit 1
           ),
           v_blocked;

    v_leased := v_leased || v_held;
    if cardinality(v_leased) = 0 then
        return;
    end if;
    return query
    with message as materialized (
        select q.instance_id,
               array_agg(q.id order by q.id) as ids,
               array_agg(q.kind order by q.id) as kinds,
               array_agg(q.work_item order by q.id) as bodies,
               max(q.attempt_count) + 1 as attempt,
               min(q.visible_at) as since
          from unnest(v_leased) as i
         cross join lateral (
             select k.msg_ids from {schema}.instance_locks as k where k.instance_id = i offset 0
         ) as l
         cross join lateral (
             select x.* from {schema}.orchestrator_queue as x
              where x.instance_id = i and x.visible_at <= v_ts and x.id <> all (l.msg_ids)
             offset 0
         ) as q
         group by q.instance_id
    ),
    handed as (
        update {schema}.instance_locks as l
           set msg_ids = l.msg_ids || m.ids
          from (
            select y.ids, y.kinds, y.bodies, y.attempt, y.since,
                   x.instance_id collate "C" as instance_id, x.row_id
              from message as y
             cross join lateral (
                 select k.instance_id, k.ctid as row_id
                   from {schema}.instance_locks as k
                  where k.instance_id = y.instance_id
                 offset 0
             ) as x
          ) as m
         where l.instance_id = m.instance_id and l.ctid = m.row_id
        returning l.instance_id, l.lock_token, l.locked_until,
                  m.ids, m.kinds, m.bodies, m.attempt, m.since
    )
    select h.instance_id, h.lock_token, h.locked_until,
           coalesce(s.current_execution_id, 1), coalesce(s.next_event_id, 1), h.attempt,
           coalesce(s.status, 'Running'), s.orchestration_name, s.orchestration_version,
           s.parent_instance_id, h.ids, h.kinds, h.bodies, past.events,
           coalesce(left(s.last_commit, 12) = p_cached_by, false),
           kv.keys, kv.vals, kv.times, coalesce(s.incarnation, h.lock_token),
           greatest(floor(extract(epoch from v_ts - h.since) * 1000)::bigint, 0), null::bigint, null::bigint, null::smallint
      from handed as h
      left join lateral (
          select i.* from {schema}.instances as i where i.instance_id = h.instance_id offset 0
      ) as s on true
      left join lateral (
          select array_agg(x.events order by x.first_event_id) as events
            from {schema}.history_log as x
           where x.instance_id = s.instance_id
             and x.execution_id = s.current_execution_id
             and left(s.last_commit, 12) is distinct from p_cached_by
      ) as past on true
      left join lateral (
          select array_agg(k.key) as keys,
                 array_agg(k.value) as vals,
                 array_agg(k.last_updated_at_ms) as times
            from {schema}.kv_store as k
           where k.instance_id = s.instance_id and s.flags & 1 = 1
      ) as kv on true
     order by h.since, h.ids[1];

    get diagnostics v_rows = row_count;
    if v_rows < cardinality(v_leased) then
        -- Consumed by somebody between the candidate's snapshot and the lease.
        delete from {schema}.instance_locks as l
         using (
            select x.instance_id collate "C" as instance_id, x.row_id
              from unnest(v_leased) as i
             cross join lateral (
                 select k.instance_id, k.ctid as row_id
                   from {schema}.instance_locks as k
                  where k.instance_id = i and k.lock_token = p_nonce and k.msg_ids = '{}'
                 offset 0
             ) as x
         ) as y
         where l.instance_id = y.instance_id and l.ctid = y.row_id;
    end if;
end;
$$;
-- Write a batch: turns, ended and abandoned activities, abandoned turns and messages, in one transaction.
--
-- Never raises for an expected condition; the codes say what became of each turn, ended activity and
-- abandoned lease: 0 applied, 1 lease lost, 2 history conflict, 3 applied before, 5 refused by the hook because
-- somebody has locked its rows; 4 is a first turn that says nothing about its execution. What is refused leaves the rest alone.
--
-- Order: the batch's number, classification without locks, the hook, then leases before everything else.
-- Each write repeats the condition that classification saw, and a count that differs raises 40001: the
-- caller sends the same batch again, which then sees what happened. Rows of each table are taken in
-- sorted order (the caller sorts), instance_locks before instances before worker_queue, so that two
-- batches can't wait for each other.
--
-- Arrays of one letter are columns of the same rows: t turns, c consumed messages, d turns whose consumed
-- messages become dead letters, a new activities,
-- n cancelled activities, f ended activities, m messages, r cancelled timers, k key-values, x abandoned turns,
-- y abandoned activities. A turn's rows name it by its instance: one turn of an instance per batch.
create function {schema}.commit_v1(
    p_writer text,
    p_seq bigint,
    p_nonce text,
    p_owner text,
    p_eager_lease_ms bigint,
    p_hook text,
    p_hook_wait boolean,
    t_instance text[],
    t_nonce text[],
    t_execution bigint[],
    t_first bigint[],
    t_last bigint[],
    t_events text[],
    t_key text[],
    t_name text[],
    t_version text[],
    t_pin bigint[],
    t_parent text[],
    t_status text[],
    t_output text[],
    t_keep bigint[],
    t_custom_set bigint[],
    t_custom text[],
    t_projection text[],
    c_instance text[],
    c_id bigint[],
    d_instance text[],
    d_reason text[],
    a_instance text[],
    a_execution bigint[],
    a_activity bigint[],
    a_body text[],
    a_tag text[],
    a_session text[],
    a_eager bigint[],
    n_instance text[],
    n_execution bigint[],
    n_activity bigint[],
    f_instance text[],
    f_id bigint[],
    f_nonce text[],
    f_turn text[],
    m_turn text[],
    m_finish bigint[],
    m_instance text[],
    m_kind bigint[],
    m_body text[],
    m_visible bigint[],
    m_timer_execution bigint[],
    m_timer bigint[],
    r_instance text[],
    r_execution bigint[],
    r_timer bigint[],
    k_instance text[],
    k_key text[],
    k_value text[],
    k_time bigint[],
    k_cleared text[],
    x_instance text[],
    x_nonce text[],
    x_delay bigint[],
    x_count bigint[],
    y_instance text[],
    y_id bigint[],
    y_nonce text[],
    y_delay bigint[],
    y_count bigint[],
    p_now bigint default null
) returns table (
    o_turn_codes smallint[],
    o_finish_codes smallint[],
    o_abandon_turn_codes smallint[],
    o_abandon_activity_codes smallint[],
    o_eager_ids bigint[],
    o_repeated boolean,
    o_more boolean,
    o_now bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_ts constant timestamptz := coalesce(to_timestamp(p_now / 1000.0), clock_timestamp());
    v_now constant bigint := coalesce(p_now, floor(extract(epoch from v_ts) * 1000)::bigint);
    v_turns constant integer := cardinality(t_instance);
    v_finishes constant integer := cardinality(f_id);
    v_all boolean := true;
    v_ok text[] := t_instance;
    v_old text[];
    v_new text[];
    v_superseding text[];
    v_ended text[];
    v_busy text[];
    v_told text[] := t_instance;  -- to the hook: all that goes well so far
    v_executions bigint[] := t_execution;
    v_names text[] := t_name;
    v_statuses text[] := t_status;
    v_outputs text[] := t_output;
    v_projections text[] := t_projection;
    v_lost_finishes integer;
    v_lost_ordinals bigint[];
    v_rows integer;
    v_expected integer;
begin
    o_now := v_now;
    o_repeated := false;
    o_more := false;

    -- The number of the batch. The same one again: it was applied; a smaller one: from a connection that
    -- was given up, whose batch has been decided since.
    insert into {schema}.writers as w (writer, seq, updated_at) values (p_writer, p_seq, v_ts)
    on conflict (writer) do update
       set seq = excluded.seq,
           turn_codes = null,
           finish_codes = null,
           abandon_codes = null,
           updated_at = excluded.updated_at
     where w.seq < excluded.seq;
    if not found then
        o_repeated := true;
        select w.turn_codes, w.finish_codes,
               w.abandon_codes[:cardinality(x_instance)], w.abandon_codes[cardinality(x_instance) + 1:]
          into o_turn_codes, o_finish_codes, o_abandon_turn_codes, o_abandon_activity_codes
          from {schema}.writers as w
         where w.writer = p_writer and w.seq = p_seq;
        if not found then
            raise exception 'batch % of writer % was given up', p_seq, p_writer
                using errcode = 'PD003';
        end if;
        select array_agg(q.id order by q.id) into o_eager_ids
          from (select distinct i from unnest(a_instance) as i) as a
         cross join lateral (
             select x.id from {schema}.worker_queue as x
              where x.instance_id = a.i and x.lock_token = p_nonce
             offset 0
         ) as q;
        o_more := true;
        return next;
        return;
    end if;

    -- Ended activities: all of them live, as a rule.
    if v_finishes > 0 then
        select v_finishes - count(*) into v_lost_finishes
          from unnest(f_instance, f_id, f_nonce) as f (instance_id, id, nonce)
         cross join lateral (
             select from {schema}.worker_queue as x
              where x.instance_id = f.instance_id
                and x.id = f.id
                and x.lock_token = f.nonce
                and x.locked_until > v_now
             offset 0
         ) as q;
        if v_lost_finishes > 0 then
            select array_agg(case when q.lock_token = f.nonce and q.locked_until > v_now then 0
                                  else 1 end::smallint order by f.ordinal)
              into o_finish_codes
              from unnest(f_instance, f_id, f_nonce) with ordinality
                   as f (instance_id, id, nonce, ordinal)
              left join lateral (
                  select x.lock_token, x.locked_until from {schema}.worker_queue as x
                   where x.instance_id = f.instance_id and x.id = f.id
                  offset 0
              ) as q on true;
            select array_agg(ordinal) into v_lost_ordinals
              from unnest(o_finish_codes) with ordinality as f (code, ordinal)
             where code <> 0;
        end if;
    end if;

    if v_turns > 0 then
        select array_agg(seen.code order by seen.ordinal),
               array_agg(seen.instance_id order by seen.ordinal) filter (where seen.code = 0),
               array_agg(seen.instance_id order by seen.ordinal)
                   filter (where seen.code = 0 and seen.is_old),
               array_agg(seen.instance_id order by seen.ordinal)
                   filter (where seen.code = 0 and not seen.is_old),
               array_agg(seen.instance_id order by seen.ordinal)
                   filter (where seen.code = 0 and seen.supersedes),
               array_agg(seen.instance_id order by seen.ordinal)
                   filter (where seen.code = 0 and seen.has_ended)
          into o_turn_codes, v_ok, v_old, v_new, v_superseding, v_ended
          from (
            select t.ordinal, t.instance_id,
                   s.instance_id is not null as is_old,
                   s.current_execution_id < t.execution_id as supersedes,
                   t.status <> 'Running'
                       and t.instance_id <> all (d_instance)  -- which may be reopened
                       and (s.status is distinct from t.status)
                       and (s.flags & 2 = 2 or cardinality(k_instance) > 0) as has_ended,
                   case
                       when substr(s.last_commit, 13) = t.key then 3
                       when l.lock_token is distinct from t.nonce or l.locked_until <= v_now then 1
                       when v_lost_ordinals is not null and exists (
                           select from unnest(v_lost_ordinals) as lost
                            where f_turn[lost] = t.instance_id
                       ) then 1
                       when s.instance_id is null then case
                           when t.execution_id <> 1 or t.first <> 1 then 2
                           when t.name is null and t.last >= t.first then 4
                           else 0 end
                       when t.execution_id = s.current_execution_id + 1
                           then case when t.first = 1 and t.name is not null then 0 else 2 end
                       when t.execution_id <> s.current_execution_id then 2
                       when t.first <> s.next_event_id then 2
                       when s.status <> 'Running' and t.last >= t.first then 2
                       when t.first = 1 and t.name is null and t.last >= t.first then 4
                       else 0
                   end::smallint as code
              from unnest(t_instance, t_nonce, t_execution, t_first, t_last, t_key, t_name, t_status)
                   with ordinality
                   as t (instance_id, nonce, execution_id, first, last, key, name, status, ordinal)
              left join lateral (
                  select k.lock_token, k.locked_until from {schema}.instance_locks as k
                   where k.instance_id = t.instance_id
                  offset 0
              ) as l on true
              left join lateral (
                  select i.* from {schema}.instances as i
                   where i.instance_id = t.instance_id
                  offset 0
              ) as s on true
          ) as seen;
        v_ok := coalesce(v_ok, '{}');
        v_all := cardinality(v_ok) = v_turns;
    end if;

    if p_hook is not null and cardinality(v_ok) > 0 then
        if not v_all then
            select array_agg(t.instance_id order by t.ordinal), array_agg(t.execution_id order by t.ordinal),
                   array_agg(t.name order by t.ordinal), array_agg(t.status order by t.ordinal),
                   array_agg(t.output order by t.ordinal), array_agg(t.projection order by t.ordinal)
              into v_told, v_executions, v_names, v_statuses, v_outputs, v_projections
              from unnest(t_instance, t_execution, t_name, t_status, t_output, t_projection)
                   with ordinality
                   as t (instance_id, execution_id, name, status, output, projection, ordinal)
             where t.instance_id = any (v_ok);
        end if;
        if array_position(v_names, null) is not null then  -- only first turns say a name
            select array_agg(coalesce(t.name, s.orchestration_name) order by t.ordinal) into v_names
              from unnest(v_told, v_names) with ordinality as t (instance_id, name, ordinal)
              left join lateral (
                  select i.orchestration_name from {schema}.instances as i
                   where i.instance_id = t.instance_id
                  offset 0
              ) as s on true;
        end if;
        execute format('select %s($1, $2, $3, $4, $5, $6, $7)', p_hook::regproc)
           into v_busy
          using v_told, v_executions, v_names, v_statuses, v_outputs, v_projections, p_hook_wait;
        v_busy := array_remove(v_busy, null);
        if cardinality(v_busy) > 0 then
            v_all := false;
            select array_agg(case when i = any (v_busy) then 5 else code end::smallint order by ordinal)
              into o_turn_codes
              from unnest(t_instance, o_turn_codes) with ordinality as t (i, code, ordinal);
            select coalesce(array_agg(i), '{}') into v_ok from unnest(v_ok) as i where i <> all (v_busy);
            select array_agg(i) into v_old from unnest(v_old) as i where i <> all (v_busy);
            select array_agg(i) into v_new from unnest(v_new) as i where i <> all (v_busy);
            select array_agg(i) into v_superseding
              from unnest(v_superseding) as i where i <> all (v_busy);
            select array_agg(i) into v_ended from unnest(v_ended) as i where i <> all (v_busy);
        end if;
    end if;

    if cardinality(v_ok) > 0 then
        -- Leases: end them, or go on with them.
        v_expected := cardinality(v_ok);
        delete from {schema}.instance_locks as l
         using (
            select x.instance_id collate "C" as instance_id, x.row_id
              from unnest(t_instance, t_nonce, t_keep) as t (instance_id, nonce, keep)
             cross join lateral (
                 select k.instance_id, k.ctid as row_id
                   from {schema}.instance_locks as k
                  where k.instance_id = t.instance_id and k.lock_token = t.nonce
                 offset 0
             ) as x
             where t.keep is null and (v_all or t.instance_id = any (v_ok))
         ) as y
         where l.instance_id = y.instance_id and l.ctid = y.row_id;
        get diagnostics v_rows = row_count;
        if v_rows < v_expected then
            v_expected := v_expected - v_rows;
            -- What a poll has handed to the holder meanwhile stays his: it must not be handed out twice.
            update {schema}.instance_locks as l
               set locked_until = v_now + t.keep, locked_at = v_now,
                   msg_ids = array(select i from unnest(l.msg_ids) as i where i <> all (c_id))
              from (
                select x.instance_id collate "C" as instance_id, x.row_id, u.keep
                  from unnest(t_instance, t_nonce, t_keep) as u (instance_id, nonce, keep)
                 cross join lateral (
                     select k.instance_id, k.ctid as row_id
                       from {schema}.instance_locks as k
                      where k.instance_id = u.instance_id and k.lock_token = u.nonce
                     offset 0
                 ) as x
                 where u.keep is not null and (v_all or u.instance_id = any (v_ok))
              ) as t
             where l.instance_id = t.instance_id and l.ctid = t.row_id;
            get diagnostics v_rows = row_count;
            if v_rows <> v_expected then
                raise exception 'a lease changed hands' using errcode = '40001';
            end if;
        end if;

        if v_superseding is not null then
            insert into {schema}.executions_done
                   (instance_id, execution_id, status, output, pinned_version, started_at,
                    completed_at)
            select s.instance_id, s.current_execution_id, s.status, s.output, s.pinned_version,
                   s.started_at, coalesce(s.completed_at, v_ts)
              from unnest(v_superseding) as i
             cross join lateral (
                 select x.* from {schema}.instances as x where x.instance_id = i offset 0
             ) as s
            on conflict do nothing;
        end if;

        if v_old is not null then
            update {schema}.instances as s
               set orchestration_name = coalesce(t.name, s.orchestration_name),
                   orchestration_version = coalesce(t.version, s.orchestration_version),
                   parent_instance_id = coalesce(s.parent_instance_id, t.parent),
                   current_execution_id = t.execution_id,
                   -- What has ended stays ended, whatever a turn that only consumes messages says.
                   status = case when s.status = 'Running' or t.execution_id > s.current_execution_id
                       then t.status else s.status end,
                   output = case when s.status = 'Running' or t.execution_id > s.current_execution_id
                       then t.output else s.output end,
                   next_event_id = t.last + 1,
                   pinned_version = case
                       when t.execution_id = s.current_execution_id
                           then coalesce(t.pin, s.pinned_version)
                       else t.pin end,
                   last_commit = p_writer || t.key,
                   custom_status = case when t.custom_set = 1 then t.custom
                       else s.custom_status end,
                   custom_status_version = s.custom_status_version + t.custom_set::integer,
                   history_events = t.last::integer,
                   history_bytes = coalesce(octet_length(t.events), 0) + case
                       when t.execution_id = s.current_execution_id then s.history_bytes
                       else 0 end,
                   started_at = case
                       when t.execution_id = s.current_execution_id then s.started_at
                       else v_ts end,
                   completed_at = case
                       when s.status <> 'Running' and t.execution_id = s.current_execution_id
                           then s.completed_at
                       when t.status <> 'Running' then v_ts end,
                   updated_at = v_ts
              from (
                select u.execution_id, u.first, u.last, u.events, u.key, u.name, u.version, u.pin,
                       u.parent, u.status, u.output, u.custom_set, u.custom,
                       x.instance_id collate "C" as instance_id, x.row_id
                  from unnest(
                           t_instance, t_execution, t_first, t_last, t_events, t_key, t_name,
                           t_version, t_pin, t_parent, t_status, t_output, t_custom_set, t_custom
                       ) as u (instance_id, execution_id, first, last, events, key, name, version,
                               pin, parent, status, output, custom_set, custom)
                 cross join lateral (
                     select i.instance_id, i.ctid as row_id
                       from {schema}.instances as i
                      where i.instance_id = u.instance_id
                     offset 0
                 ) as x
                 where v_all or u.instance_id = any (v_old)
              ) as t
             where s.instance_id = t.instance_id
               and s.ctid = t.row_id
               and (
                   (t.execution_id = s.current_execution_id and t.first = s.next_event_id)
                   or (t.execution_id = s.current_execution_id + 1 and t.first = 1)
               );
            get diagnostics v_rows = row_count;
            if v_rows <> cardinality(v_old) then
                raise exception 'history has moved on' using errcode = '40001';
            end if;
        end if;

        if v_new is not null then
            -- A turn that only consumes messages (name is null) makes no instance.
            insert into {schema}.instances
                   (instance_id, orchestration_name, orchestration_version, parent_instance_id,
                    status, output, next_event_id, pinned_version, last_commit, custom_status,
                    custom_status_version, history_events, history_bytes, started_at, completed_at,
                    created_at, updated_at, incarnation)
            select t.instance_id, t.name, t.version, t.parent, t.status, t.output, t.last + 1, t.pin,
                   p_writer || t.key, t.custom, t.custom_set, t.last,
                   coalesce(octet_length(t.events), 0), v_ts,
                   case when t.status <> 'Running' then v_ts end, v_ts, v_ts, t.nonce
              from unnest(v_new) as i
              join unnest(
                       t_instance, t_last, t_events, t_key, t_name, t_version, t_pin, t_parent,
                       t_status, t_output, t_custom_set, t_custom, t_nonce
                   ) as t (instance_id, last, events, key, name, version, pin, parent,
                           status, output, custom_set, custom, nonce)
                on t.instance_id = i
             where t.name is not null;
        end if;

        if cardinality(d_instance) > 0 then
            insert into {schema}.dead_letters
                   (instance_id, kind, work_item, timer_execution_id, timer_id, attempt_count, reason,
                    buried_at)
            select m.instance_id, m.kind, m.work_item, m.timer_execution_id, m.timer_id,
                   m.attempt_count + 1, d.reason, v_ts
              from unnest(d_instance, d_reason) as d (instance_id, reason)
              join unnest(c_instance, c_id) as c (instance_id, id) on c.instance_id = d.instance_id
              join {schema}.orchestrator_queue as m on m.instance_id = c.instance_id and m.id = c.id
             where v_all or d.instance_id = any (v_ok)
             order by m.instance_id, m.id;
        end if;
        if cardinality(c_id) > 0 then
            delete from {schema}.orchestrator_queue as q
             using (
                select x.instance_id collate "C" as instance_id, x.row_id
                  from unnest(c_instance, c_id) as c (instance_id, id)
                 cross join lateral (
                     select m.instance_id, m.ctid as row_id
                       from {schema}.orchestrator_queue as m
                      where m.instance_id = c.instance_id and m.id = c.id
                     offset 0
                 ) as x
                 where v_all or c.instance_id = any (v_ok)
             ) as y
             where q.instance_id = y.instance_id and q.ctid = y.row_id;
        end if;

        insert into {schema}.history_log
               (instance_id, execution_id, first_event_id, last_event_id, events, created_at)
        select t.instance_id, t.execution_id, t.first, t.last, t.events, v_ts
          from unnest(t_instance, t_execution, t_first, t_last, t_events)
               as t (instance_id, execution_id, first, last, events)
         where t.events is not null and (v_all or t.instance_id = any (v_ok));

        if cardinality(a_instance) > 0 then
            with added as (
                insert into {schema}.worker_queue
                       (instance_id, execution_id, activity_id, tag_key, session_id, work_item,
                        visible_at, lock_token, locked_until, owner, attempt_count, created_at)
                select a.instance_id, a.execution_id, a.activity_id, coalesce(a.tag, ''), a.session,
                       a.body, v_ts,
                       case when a.eager = 1 then p_nonce end,
                       case when a.eager = 1 then v_now + p_eager_lease_ms else 0 end,
                       case when a.eager = 1 then p_owner end,
                       a.eager, v_ts
                  from unnest(a_instance, a_execution, a_activity, a_body, a_tag, a_session, a_eager)
                       with ordinality
                       as a (instance_id, execution_id, activity_id, body, tag, session, eager,
                             ordinal)
                 where v_all or a.instance_id = any (v_ok)
                 order by a.ordinal
                returning id, lock_token
            )
            select array_agg(added.id order by added.id) into o_eager_ids
              from added where added.lock_token is not null;
        end if;

        if cardinality(r_instance) > 0 then
            -- All timers of an instance in one pass: there may be thousands, and all given up at once.
            delete from {schema}.orchestrator_queue as q
             using (
                select x.instance_id collate "C" as instance_id, x.row_id
                  from (select distinct i from unnest(r_instance) as i) as r
                 cross join lateral (
                     select m.instance_id, m.ctid as row_id
                       from {schema}.orchestrator_queue as m
                      where m.instance_id = r.i
                        -- "is true" keeps it a look into a table in memory; it would be a join.
                        and ((m.instance_id, m.timer_execution_id, m.timer_id) in (
                            select u.instance_id, u.execution_id, u.timer_id
                              from unnest(r_instance, r_execution, r_timer)
                                   as u (instance_id, execution_id, timer_id)
                        )) is true
                     offset 0
                 ) as x
                 where v_all or r.i = any (v_ok)
             ) as y
             where q.instance_id = y.instance_id and q.ctid = y.row_id;
        end if;

        if cardinality(k_cleared) > 0 or cardinality(k_instance) > 0 then
            perform {schema}._write_key_values_v1(
                v_ok, k_cleared, k_instance, k_key, k_value, k_time, v_now);
        end if;
        if v_ended is not null then
            perform {schema}._merge_key_values_v1(v_ended);
        end if;
    end if;

    if v_finishes > 0 then
        with gone as (
            delete from {schema}.worker_queue as q
             using (
                select x.instance_id collate "C" as instance_id, x.row_id
                  from unnest(f_instance, f_id, f_nonce, f_turn) with ordinality
                       as f (instance_id, id, nonce, turn, ordinal)
                 cross join lateral (
                     select w.instance_id, w.ctid as row_id
                       from {schema}.worker_queue as w
                      where w.instance_id = f.instance_id
                        and w.id = f.id
                        and w.lock_token = f.nonce
                     offset 0
                 ) as x
                 where (v_lost_ordinals is null or f.ordinal <> all (v_lost_ordinals))
                   and (v_all or f.turn is null or f.turn = any (v_ok))
             ) as y
             where q.instance_id = y.instance_id and q.ctid = y.row_id
            returning q.session_id
        ),
        touched as (
            update {schema}.sessions as s
               set last_activity_at = v_now
              from (
                select x.row_id
                  from (select distinct gone.session_id from gone where gone.session_id is not null)
                       as g
                 cross join lateral (
                     select y.ctid as row_id from {schema}.sessions as y
                      where y.session_id = g.session_id and y.locked_until > v_now
                     offset 0
                 ) as x
              ) as touched
             where s.ctid = touched.row_id
        )
        select count(*) into v_rows from gone;
        select count(*) into v_expected
          from unnest(f_turn) with ordinality as f (turn, ordinal)
         where (v_lost_ordinals is null or f.ordinal <> all (v_lost_ordinals))
           and (v_all or f.turn is null or f.turn = any (v_ok));
        if v_rows <> v_expected then
            raise exception 'an activity''s lease changed hands' using errcode = '40001';
        end if;
    end if;

    -- After those that ended: one that ends in the batch that gives it up has ended, and is no loss
    -- that sending the batch again could mend.
    if cardinality(n_instance) > 0 and cardinality(v_ok) > 0 then
        perform {schema}._cancel_activities_v1(n_instance, n_execution, n_activity)
          where v_all;
        if not v_all then
            perform {schema}._cancel_activities_v1(
                array_agg(n.instance_id), array_agg(n.execution_id), array_agg(n.activity_id))
               from unnest(n_instance, n_execution, n_activity)
                    as n (instance_id, execution_id, activity_id)
              where n.instance_id = any (v_ok)
             having count(*) > 0;
        end if;
    end if;

    if cardinality(m_instance) > 0 then
        insert into {schema}.orchestrator_queue
               (instance_id, kind, work_item, visible_at, timer_execution_id, timer_id, created_at)
        select m.instance_id, m.kind, m.body,
               coalesce(to_timestamp(m.visible / 1000.0), v_ts), m.timer_execution_id, m.timer_id,
               v_ts
          from unnest(m_turn, m_finish, m_instance, m_kind, m_body, m_visible, m_timer_execution,
                      m_timer)
               with ordinality
               as m (turn, finish, instance_id, kind, body, visible, timer_execution_id, timer_id,
                     ordinal)
         where (v_all or m.turn is null or m.turn = any (v_ok))
           and (v_lost_ordinals is null or m.finish is null or m.finish <> all (v_lost_ordinals))
         order by m.ordinal;
    end if;

    if cardinality(x_instance) > 0 then
        o_abandon_turn_codes := {schema}._abandon_turns_v1(
            x_instance, x_nonce, x_delay, x_count, v_ts, v_now);
    end if;
    if cardinality(y_instance) > 0 then
        o_abandon_activity_codes := {schema}._abandon_activities_v1(
            y_instance, y_id, y_nonce, y_delay, y_count, v_ts, v_now);
    end if;

    -- Something may have come for an instance while it was leased; nobody else will look for it.
    o_more := exists (
        select from unnest(v_ok) as i
         cross join lateral (
             select from {schema}.orchestrator_queue as x
              where x.instance_id = i and x.visible_at <= v_ts
             limit 1
         ) as q
    );

    if 0 <> any (o_turn_codes) or v_lost_ordinals is not null
        or 0 <> any (o_abandon_turn_codes) or 0 <> any (o_abandon_activity_codes) then
        update {schema}.writers as w
           set turn_codes = o_turn_codes,
               finish_codes = o_finish_codes,
               abandon_codes = coalesce(o_abandon_turn_codes, '{}')
                   || coalesce(o_abandon_activity_codes, '{}')
         where w.writer = p_writer;
    end if;
    return next;
end;
$$;

-- Remove activities that nobody waits for any more, running or not. One whose last transaction is
-- open right now is left to it and remembered: if that rolls back, it must not run again.
create function {schema}._cancel_activities_v1(
    n_instance text[], n_execution bigint[], n_activity bigint[]
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
    -- In one pass over what an instance has there, as with timers.
    delete from {schema}.worker_queue as q
     using (
        select x.instance_id collate "C" as instance_id, x.row_id
          from (select distinct i from unnest(n_instance) as i) as n
         cross join lateral (
             select w.instance_id, w.ctid as row_id
               from {schema}.worker_queue as w
              where w.instance_id = n.i
                and ((w.instance_id, w.execution_id, w.activity_id) in (
                    select u.instance_id, u.execution_id, u.activity_id
                      from unnest(n_instance, n_execution, n_activity)
                           as u (instance_id, execution_id, activity_id)
                )) is true
             offset 0
                for update skip locked
         ) as x
     ) as y
     where q.instance_id = y.instance_id and q.ctid = y.row_id;
    insert into {schema}.late_cancellations (instance_id, id)
    select x.instance_id, x.id
      from (select distinct i from unnest(n_instance) as i) as n
     cross join lateral (
         select w.instance_id, w.id from {schema}.worker_queue as w
          where w.instance_id = n.i
            and ((w.instance_id, w.execution_id, w.activity_id) in (
                select u.instance_id, u.execution_id, u.activity_id
                  from unnest(n_instance, n_execution, n_activity)
                       as u (instance_id, execution_id, activity_id)
            )) is true
         offset 0
     ) as x
    on conflict do nothing;
end;
$$;

-- The net effect of a turn on its key-values: all cleared (p_cleared names the instance), then set or,
-- with a null value, cleared one by one.
create function {schema}._write_key_values_v1(
    p_ok text[], p_cleared text[],
    k_instance text[], k_key text[], k_value text[], k_time bigint[],
    p_now bigint
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
    update {schema}.kv_delta as d
       set value = null, last_updated_at_ms = p_now
      from (
        select x.instance_id collate "C" as instance_id, x.row_id
          from unnest(p_cleared) as i
         cross join lateral (
             select k.instance_id, k.ctid as row_id
               from {schema}.kv_delta as k
              where k.instance_id = i
             offset 0
         ) as x
         where i = any (p_ok)
      ) as y
     where d.instance_id = y.instance_id and d.ctid = y.row_id;
    insert into {schema}.kv_delta (instance_id, key, value, last_updated_at_ms)
    select i, s.key, null, p_now
      from unnest(p_cleared) as i
     cross join lateral (
         select x.key from {schema}.kv_store as x where x.instance_id = i offset 0
     ) as s
     where i = any (p_ok)
    on conflict do nothing;
    insert into {schema}.kv_delta (instance_id, key, value, last_updated_at_ms)
    select k.instance_id, k.key, k.value, k.time
      from unnest(k_instance, k_key, k_value, k_time) as k (instance_id, key, value, time)
     where k.instance_id = any (p_ok)
    on conflict (instance_id, key) do update
       set value = excluded.value, last_updated_at_ms = excluded.last_updated_at_ms;
    update {schema}.instances as s
       set flags = s.flags | 2
      from (
        select x.instance_id collate "C" as instance_id, x.row_id
          from (select unnest(k_instance) union select unnest(p_cleared)) as k (instance_id)
         cross join lateral (
             select i.instance_id, i.ctid as row_id
               from {schema}.instances as i
              where i.instance_id = k.instance_id and i.flags & 2 = 0
             offset 0
         ) as x
         where k.instance_id = any (p_ok)
      ) as y
     where s.instance_id = y.instance_id and s.ctid = y.row_id;
end;
$$;

-- An execution ended: what it changed becomes what the next one begins with.
create function {schema}._merge_key_values_v1(p_instances text[]) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
    insert into {schema}.kv_store (instance_id, key, value, execution_id, last_updated_at_ms)
    select d.instance_id, d.key, d.value, s.current_execution_id, d.last_updated_at_ms
      from unnest(p_instances) as i
     cross join lateral (
         select x.current_execution_id from {schema}.instances as x where x.instance_id = i offset 0
     ) as s
     cross join lateral (
         select x.* from {schema}.kv_delta as x
          where x.instance_id = i and x.value is not null
         offset 0
     ) as d
    on conflict (instance_id, key) do update
       set value = excluded.value,
           execution_id = excluded.execution_id,
           last_updated_at_ms = excluded.last_updated_at_ms;
    delete from {schema}.kv_store as s
     using (
        select x.instance_id collate "C" as instance_id, x.row_id
          from unnest(p_instances) as i
         cross join lateral (
             select k.key from {schema}.kv_delta as k
              where k.instance_id = i and k.value is null
             offset 0
         ) as d
         cross join lateral (
             select k.instance_id, k.ctid as row_id
               from {schema}.kv_store as k
              where k.instance_id = i and k.key = d.key
             offset 0
         ) as x
     ) as y
     where s.instance_id = y.instance_id and s.ctid = y.row_id;
    delete from {schema}.kv_delta as d
     using (
        select x.instance_id collate "C" as instance_id, x.row_id
          from unnest(p_instances) as i
         cross join lateral (
             select k.instance_id, k.ctid as row_id
               from {schema}.kv_delta as k
              where k.instance_id = i
             offset 0
         ) as x
     ) as y
     where d.instance_id = y.instance_id and d.ctid = y.row_id;
    update {schema}.instances as s
       set flags = case when exists (
               select from {schema}.kv_store as k where k.instance_id = s.instance_id offset 0
           ) then 1 else 0 end
      from (
        select x.instance_id collate "C" as instance_id, x.row_id
          from unnest(p_instances) as i
         cross join lateral (
             select k.instance_id, k.ctid as row_id
               from {schema}.instances as k
              where k.instance_id = i
             offset 0
         ) as x
      ) as y
     where s.instance_id = y.instance_id and s.ctid = y.row_id;
end;
$$;

-- Give instances back. Only the messages of that lease are delayed or counted.
create function {schema}._abandon_turns_v1(
    x_instance text[], x_nonce text[], x_delay bigint[], x_count bigint[],
    p_ts timestamptz, p_now bigint
) returns smallint[]
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_codes smallint[];
begin
    perform l.instance_id
       from unnest(x_instance) as i  -- sorted
      cross join lateral (
          select k.instance_id from {schema}.instance_locks as k
           where k.instance_id = i
          offset 0
             for update
      ) as l;
    select array_agg(case when l.lock_token = x.nonce and l.locked_until > p_now then 0 else 1 end::smallint order by x.ordinal)
      into v_codes
      from unnest(x_instance, x_nonce) with ordinality as x (instance_id, nonce, ordinal)
      left join lateral (
          select k.lock_token, k.locked_until from {schema}.instance_locks as k
           where k.instance_id = x.instance_id
          offset 0
      ) as l on true;
    update {schema}.orchestrator_queue as q
       set attempt_count = q.attempt_count + x.counts::integer,
           visible_at = case when x.delay > 0 then p_ts + x.delay * interval '1 millisecond'
               else q.visible_at end
      from (
        select u.delay, u.counts, m.instance_id collate "C" as instance_id, m.row_id
          from unnest(x_instance, x_nonce, x_delay, x_count)
               as u (instance_id, nonce, delay, counts)
         cross join lateral (
             select k.msg_ids from {schema}.instance_locks as k
              where k.instance_id = u.instance_id
                and k.lock_token = u.nonce
                and k.locked_until > p_now
             offset 0
         ) as l
         cross join lateral (
             select y.instance_id, y.ctid as row_id
               from {schema}.orchestrator_queue as y
              where y.instance_id = u.instance_id and y.id = any (l.msg_ids)
             offset 0
         ) as m
         where u.delay > 0 or u.counts > 0
      ) as x
     where q.instance_id = x.instance_id and q.ctid = x.row_id;
    delete from {schema}.instance_locks as l
     using (
        select x.instance_id collate "C" as instance_id, x.row_id
          from unnest(x_instance, x_nonce) as u (instance_id, nonce)
         cross join lateral (
             select k.instance_id, k.ctid as row_id
               from {schema}.instance_locks as k
              where k.instance_id = u.instance_id
                and k.lock_token = u.nonce
                and k.locked_until > p_now
             offset 0
         ) as x
     ) as y
     where l.instance_id = y.instance_id and l.ctid = y.row_id;
    return v_codes;
end;
$$;

create function {schema}._abandon_activities_v1(
    y_instance text[], y_id bigint[], y_nonce text[], y_delay bigint[], y_count bigint[],
    p_ts timestamptz, p_now bigint
) returns smallint[]
language sql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $$
    with given_back as (
        update {schema}.worker_queue as q
           set lock_token = null,
               locked_until = 0,
               owner = null,
               attempt_count = greatest(q.attempt_count - (1 - y.counts)::integer, 0),
               visible_at = case when y.delay > 0 then p_ts + y.delay * interval '1 millisecond'
                   else least(q.visible_at, p_ts) end  -- later only if the clock was set back
          from (
            select u.delay, u.counts, x.instance_id collate "C" as instance_id, x.row_id
              from unnest(y_instance, y_id, y_nonce, y_delay, y_count)
                   as u (instance_id, id, nonce, delay, counts)
             cross join lateral (
                 select w.instance_id, w.ctid as row_id
                   from {schema}.worker_queue as w
                  where w.instance_id = u.instance_id
                    and w.id = u.id
                    and w.lock_token = u.nonce
                    and w.locked_until > p_now
                 offset 0
             ) as x
          ) as y
         where q.instance_id = y.instance_id and q.ctid = y.row_id
        returning q.instance_id, q.id
    )
    select array_agg(case when exists (
               select from given_back as g where g.instance_id = y.instance_id and g.id = y.id
           ) then 0 else 1 end::smallint order by y.ordinal)
      from unnest(y_instance, y_id) with ordinality as y (instance_id, id, ordinal);
$$;
-- Lease up to p_want activities, oldest first.
--
-- p_tag_keys: the tags that the caller accepts, '' for untagged; null: any. With a null in front: any but
-- the others and those below them, as `a/b` is below `a`. Without p_session_owner,
-- activities of sessions are left alone; with it, they go to the owner of their session, and at most
-- p_max_new sessions without a live owner become the caller's.
--
-- The first row has no instance: the store's clock and when the next delayed activity becomes visible.
create function {schema}.poll_activities_v1(
    p_worker text,
    p_nonce text,
    p_want integer,
    p_lease_ms bigint,
    p_tag_keys text[],
    p_session_owner text,
    p_session_lease_ms bigint,
    p_max_new integer,
    p_now bigint default null
) returns table (
    o_instance_id text,
    o_id bigint,
    o_execution_id bigint,
    o_activity_id bigint,
    o_nonce text,
    o_expires bigint,
    o_attempt integer,
    o_body text,
    o_tag text,
    o_session text,
    o_heartbeat text,
    o_waited bigint,
    o_now bigint,
    o_next_due bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_ts constant timestamptz := coalesce(to_timestamp(p_now / 1000.0), clock_timestamp());
    v_now constant bigint := coalesce(p_now, floor(extract(epoch from v_ts) * 1000)::bigint);
    v_keys text[] := p_tag_keys;
    v_instances text[];
    v_ids bigint[];
begin
    if exists (select from {schema}.late_cancellations) then
        perform {schema}._sweep_cancellations_v1();
    end if;

    if v_keys is null or v_keys[1] is null and cardinality(v_keys) > 0 then
        -- The distinct keys, one index probe each.
        with recursive keys as (
            (select q.tag_key from {schema}.worker_queue as q
              where q.session_id is null order by q.tag_key limit 1)
            union all
            select (select q.tag_key from {schema}.worker_queue as q
                     where q.session_id is null and q.tag_key > k.tag_key
                     order by q.tag_key limit 1)
              from keys as k where k.tag_key is not null
        )
        select coalesce(array_agg(k.tag_key), '{}') into v_keys
          from keys as k
         where k.tag_key is not null
           and not exists (
               select from unnest(p_tag_keys[2:]) as e
                where k.tag_key = e or starts_with(k.tag_key, e || '/')
           );
    end if;

    return query
    select null::text, null::bigint, null::bigint, null::bigint, null::text, null::bigint,
           null::integer, null::text, null::text, null::text, null::text, null::bigint, v_now,
           (
               select ceil(extract(epoch from min(soon.visible_at)) * 1000)::bigint
                 from unnest(v_keys) as k
                cross join lateral (
                    select q.visible_at from {schema}.worker_queue as q
                     where q.session_id is null and q.tag_key = k and q.visible_at > v_ts
                     order by q.tag_key, q.visible_at, q.id
                     limit 1
                ) as soon
           );

    if p_session_owner is not null then
        select s.o_instances, s.o_ids into v_instances, v_ids
          from {schema}._claim_sessions_v1(
              p_session_owner, p_want, p_session_lease_ms, p_max_new, p_tag_keys, p_tag_keys is null,
              v_ts, v_now) as s;
    end if;

    return query
    with free as materialized (
        select q.*
          from unnest(v_keys) as k
         cross join lateral (
             select w.instance_id, w.id, w.visible_at
               from {schema}.worker_queue as w
              where w.session_id is null
                and w.tag_key = k
                and w.visible_at <= v_ts
                and w.locked_until <= v_now
                and not exists (
                    select from {schema}.late_cancellations as late
                     where late.instance_id = w.instance_id and late.id = w.id
                    offset 0
                )
              order by w.tag_key, w.visible_at, w.id
              limit p_want
                for update of w skip locked
         ) as q
    ),
    bound as materialized (
        select w.instance_id, w.id, w.visible_at
          from unnest(v_instances, v_ids) as s (instance_id, id)
         cross join lateral (
             select x.instance_id, x.id, x.visible_at
               from {schema}.worker_queue as x
              where x.instance_id = s.instance_id
                and x.id = s.id
                and x.visible_at <= v_ts
                and x.locked_until <= v_now
             offset 0
                for update skip locked
         ) as w
    ),
    picked as materialized (
        select u.instance_id, u.id
          from (select * from free union all select * from bound) as u
         order by u.visible_at, u.id
         limit p_want
    ),
    leased as (
        update {schema}.worker_queue as w
           set lock_token = p_nonce,
               locked_until = v_now + p_lease_ms,
               owner = p_worker,
               attempt_count = w.attempt_count + 1
          from (
            select x.instance_id collate "C" as instance_id, x.row_id
              from picked as p
             cross join lateral (
                 select y.instance_id, y.ctid as row_id
                   from {schema}.worker_queue as y
                  where y.instance_id = p.instance_id and y.id = p.id
                 offset 0
             ) as x
          ) as p
         where w.instance_id = p.instance_id and w.ctid = p.row_id
        returning w.*
    )
    select l.instance_id, l.id, l.execution_id, l.activity_id, l.lock_token, l.locked_until,
           l.attempt_count, l.work_item, nullif(l.tag_key, ''), l.session_id, l.heartbeat,
           greatest(floor(extract(epoch from v_ts - l.visible_at) * 1000)::bigint, 0), null::bigint, null::bigint
      from leased as l
     order by l.visible_at, l.id;
end;
$$;

-- Sessions for a worker: those that are its own and live, and up to p_max_new that nobody has. Returns
-- activities of theirs that may be leased, in order; what it claims it holds for p_lease_ms.
create function {schema}._claim_sessions_v1(
    p_owner text,
    p_want integer,
    p_lease_ms bigint,
    p_max_new integer,
    p_tag_keys text[],
    p_any_tag boolean,
    p_ts timestamptz,
    p_now bigint,
    out o_instances text[],
    out o_ids bigint[]
)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_lost text[] := '{}';
    v_wanted text[];
    v_claimed text[];
begin
    -- A claim that somebody else wins is left out of the next round.
    for v_round in 1 .. 3 loop
        with recursive names as (
            (select q.session_id from {schema}.worker_queue as q
              where q.session_id is not null order by q.session_id limit 1)
            union all
            select (select q.session_id from {schema}.worker_queue as q
                     where q.session_id is not null and q.session_id > n.session_id
                     order by q.session_id limit 1)
              from names as n where n.session_id is not null
        ),
        mine as materialized (
            select n.session_id, s.owner is not null as is_held
              from (select names.session_id from names where names.session_id is not null limit 1000)
                   as n
              left join lateral (
                  select x.owner from {schema}.sessions as x
                   where x.session_id = n.session_id and x.locked_until > p_now
                  offset 0
              ) as s on true
             where (s.owner is null or s.owner = p_owner) and n.session_id <> all (v_lost)
        ),
        ready as materialized (
            select m.session_id, m.is_held, w.instance_id, w.id, w.visible_at
              from mine as m
             cross join lateral (
                 select q.instance_id, q.id, q.visible_at
                   from {schema}.worker_queue as q
                  where q.session_id = m.session_id
                    and q.visible_at <= p_ts
                    and q.locked_until <= p_now
                    and (
                        p_any_tag
                        or q.tag_key = any (p_tag_keys)
                        or p_tag_keys[1] is null and cardinality(p_tag_keys) > 0 and not exists (
                            select from unnest(p_tag_keys[2:]) as e
                             where q.tag_key = e or starts_with(q.tag_key, e || '/')
                        )
                    )
                  order by q.session_id, q.visible_at, q.id
                  limit p_want
             ) as w
        ),
        newcomers as (
            select r.session_id from ready as r where not r.is_held
             group by r.session_id
             order by min(r.visible_at), min(r.id)
             limit p_max_new
        ),
        chosen as (
            select r.* from ready as r
             where r.is_held or r.session_id in (select n.session_id from newcomers as n)
             order by r.visible_at, r.id
             limit p_want
        )
        select array_agg(c.instance_id order by c.visible_at, c.id),
               array_agg(c.id order by c.visible_at, c.id),
               array_agg(distinct c.session_id)
          into o_instances, o_ids, v_wanted
          from chosen as c;
        exit when v_wanted is null;
        with claimed as (
            insert into {schema}.sessions as s (session_id, owner, locked_until, last_activity_at)
            select w, p_owner, p_now + p_lease_ms, p_now from unnest(v_wanted) as w order by w
            on conflict (session_id) do update
               set owner = excluded.owner,
                   locked_until = excluded.locked_until,
                   last_activity_at = excluded.last_activity_at
             where s.owner = excluded.owner or s.locked_until <= p_now
            returning s.session_id
        )
        select coalesce(array_agg(claimed.session_id), '{}') into v_claimed from claimed;
        exit when cardinality(v_claimed) = cardinality(v_wanted);
        select v_lost || array_agg(w) into v_lost
          from unnest(v_wanted) as w where w <> all (v_claimed);
        o_instances := null;
        o_ids := null;
    end loop;
end;
$$;

-- Cancelled activities whose transaction has ended: committed, and gone, or rolled back, and to be removed.
create function {schema}._sweep_cancellations_v1() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
    delete from {schema}.worker_queue as q
     using (
        select x.instance_id collate "C" as instance_id, x.row_id
          from {schema}.late_cancellations as late
         cross join lateral (
             select w.instance_id, w.ctid as row_id
               from {schema}.worker_queue as w
              where w.instance_id = late.instance_id and w.id = late.id
             offset 0
                for update skip locked
         ) as x
     ) as y
     where q.instance_id = y.instance_id and q.ctid = y.row_id;
    delete from {schema}.late_cancellations as late
     where not exists (
         select from {schema}.worker_queue as q
          where q.instance_id = late.instance_id and q.id = late.id
         offset 0
     );
end;
$$;
-- Extend live leases. Returns the ordinals of those that are live no more: expired, taken over,
-- cancelled, or deleted. A row that a transaction has locked is being finished, and counts as live.
create function {schema}.renew_v1(
    t_instance text[],
    t_nonce text[],
    p_turn_lease_ms bigint,
    y_instance text[],
    y_id bigint[],
    y_nonce text[],
    p_activity_lease_ms bigint,
    p_now bigint default null,
    out o_lost_turns bigint[],
    out o_lost_activities bigint[],
    out o_now bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_ts constant timestamptz := coalesce(to_timestamp(p_now / 1000.0), clock_timestamp());
    v_now constant bigint := coalesce(p_now, floor(extract(epoch from v_ts) * 1000)::bigint);
    v_sessions text[];
begin
    o_now := v_now;
    if cardinality(t_instance) > 0 then
        with held as materialized (
            select l.*
              from unnest(t_instance, t_nonce) as t (instance_id, nonce)
             cross join lateral (
                 select k.instance_id collate "C" as instance_id, k.locked_until, k.ctid as row_id
                   from {schema}.instance_locks as k
                  where k.instance_id = t.instance_id and k.lock_token = t.nonce
                 offset 0
                    for update skip locked
             ) as l
        ),
        extended as (
            update {schema}.instance_locks as l
               set locked_until = v_now + p_turn_lease_ms
              from held as h
             where l.instance_id = h.instance_id and l.ctid = h.row_id and h.locked_until > v_now
            returning l.instance_id
        )
        select array_agg(t.ordinal) into o_lost_turns
          from unnest(t_instance, t_nonce) with ordinality as t (instance_id, nonce, ordinal)
          left join lateral (
              select k.lock_token from {schema}.instance_locks as k
               where k.instance_id = t.instance_id
              offset 0
          ) as l on true
         where l.lock_token is distinct from t.nonce
            or exists (
                select from held as h
                 where h.instance_id = t.instance_id and h.locked_until <= v_now
            );
    end if;

    if cardinality(y_id) > 0 then
        with held as materialized (
            select q.*
              from unnest(y_instance, y_id, y_nonce) as y (instance_id, id, nonce)
             cross join lateral (
                 select w.instance_id collate "C" as instance_id, w.id, w.locked_until,
                        w.ctid as row_id
                   from {schema}.worker_queue as w
                  where w.instance_id = y.instance_id and w.id = y.id and w.lock_token = y.nonce
                 offset 0
                    for update skip locked
             ) as q
        ),
        extended as (
            update {schema}.worker_queue as q
               set locked_until = v_now + p_activity_lease_ms
              from held as h
             where q.instance_id = h.instance_id and q.ctid = h.row_id and h.locked_until > v_now
            returning q.session_id
        )
        select array_agg(distinct y.ordinal), max(e.sessions)
          into o_lost_activities, v_sessions
          from (select array_agg(distinct extended.session_id) as sessions from extended) as e
          left join (
              select y.ordinal
                from unnest(y_instance, y_id, y_nonce) with ordinality
                     as y (instance_id, id, nonce, ordinal)
                left join lateral (
                    select w.lock_token from {schema}.worker_queue as w
                     where w.instance_id = y.instance_id and w.id = y.id
                    offset 0
                ) as q on true
               where q.lock_token is distinct from y.nonce
                  or exists (
                      select from held as h
                       where h.instance_id = y.instance_id
                         and h.id = y.id
                         and h.locked_until <= v_now
                  )
                  or exists (
                      select from {schema}.late_cancellations as late
                       where late.instance_id = y.instance_id and late.id = y.id
                      offset 0
                  )
          ) as y on true;
        update {schema}.sessions as s
           set last_activity_at = v_now
         where s.ctid = any (array(
             select x.ctid
               from unnest(v_sessions) as touched (session_id)
              cross join lateral (
                  select y.ctid from {schema}.sessions as y
                   where y.session_id = touched.session_id and y.locked_until > v_now
                  offset 0
              ) as x
         ));
    end if;
end;
$$;

-- Keep a text with each leased activity, for its next delivery; extends nothing. A row that a transaction has
-- locked is being finished, and needs none.
create function {schema}.heartbeat_v1(
    y_instance text[], y_id bigint[], y_nonce text[], y_data text[], p_now bigint default null
) returns void
language sql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $$
    update {schema}.worker_queue as q
       set heartbeat = y.data
      from (
        select u.data, x.instance_id collate "C" as instance_id, x.row_id
          from unnest(y_instance, y_id, y_nonce, y_data) as u (instance_id, id, nonce, data)
         cross join lateral (
             select w.instance_id, w.ctid as row_id
               from {schema}.worker_queue as w
              where w.instance_id = u.instance_id
                and w.id = u.id
                and w.lock_token = u.nonce
                and w.locked_until
                    > coalesce(p_now, floor(extract(epoch from clock_timestamp()) * 1000)::bigint)
             offset 0
                for update skip locked
         ) as x
      ) as y
     where q.instance_id = y.instance_id and q.ctid = y.row_id;
$$;

create function {schema}.renew_sessions_v1(
    p_owner text, p_lease_ms bigint, p_idle_ms bigint, p_now bigint default null
) returns bigint
language sql
set search_path = pg_catalog, pg_temp
as $$
    with clock as (
        select coalesce(p_now, floor(extract(epoch from clock_timestamp()) * 1000)::bigint) as now
    ),
    extended as (
        update {schema}.sessions as s
           set locked_until = clock.now + p_lease_ms
          from clock
         where s.owner = p_owner
           and s.locked_until > clock.now
           and s.last_activity_at > clock.now - p_idle_ms
        returning 1
    )
    select count(*) from extended;
$$;
-- What other schemas call inside their own transactions. The names and arguments are stable: a change
-- of meaning gets a new number.

-- A message of a kind that there is not: no worker could read it, nor what is polled together with it.
create function {schema}.refuse_kind(p_kind integer) returns void
language plpgsql
as $$
begin
    raise exception 'there is no message of the kind %', p_kind
        using errcode = '22023',
              hint = 'Kinds are 1 start, 2 continue-as-new, 3 activity, 4 timer, 5 event, 6 queue message, '
                     '7 child and 8 cancel.';
end;
$$;

-- Send a message to an instance, in the caller's transaction; wakes workers when it commits.
create function {schema}.send_v1(
    p_instance_id text,
    p_kind integer,
    p_body text,
    p_visible_at timestamptz default null
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    v_ts constant timestamptz := clock_timestamp();
begin
    if p_kind not between 1 and 8 then
        perform {schema}.refuse_kind(p_kind);
    end if;
    if not isfinite(p_visible_at) then  -- polls reckon with times, and would fail for everybody
        raise exception 'a message to % must be due at some time, not at %', p_instance_id, p_visible_at
            using errcode = '22008', hint = 'Leave the time out to send it at once.';
    end if;
    insert into {schema}.orchestrator_queue (instance_id, kind, work_item, visible_at, created_at)
    values (p_instance_id, p_kind, p_body, coalesce(p_visible_at, v_ts), v_ts);
    perform pg_notify('{channel}', 'turns');
end;
$$;

-- Send messages to instances, in the caller's transaction; wakes workers when it commits. Runs with the rights
-- of the schema's owner: it is all that a role needs to be granted so that it may send.
create function {schema}.send_many_v1(p_instances text[], p_kinds smallint[], p_bodies text[])
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_ts constant timestamptz := clock_timestamp();
begin
    perform {schema}.refuse_kind(k) from unnest(p_kinds) as k where k not between 1 and 8;
    insert into {schema}.orchestrator_queue (instance_id, kind, work_item, visible_at, created_at)
    select m.instance_id, m.kind, m.body, v_ts, v_ts
      from unnest(p_instances, p_kinds, p_bodies) with ordinality as m (instance_id, kind, body, ordinal)
     order by m.ordinal;
    perform pg_notify('{channel}', 'turns');
end;
$$;

-- End a leased activity in the caller's transaction: its row goes, its completion is sent, and the
-- instance that waits for it is returned. The row stays locked until the transaction ends, which is what
-- keeps everybody else from running the activity meanwhile.
create function {schema}.complete_activity_v1(
    p_token text, p_kind integer, p_body text, out o_instance_id text, out o_message_id bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    v_ts constant timestamptz := clock_timestamp();
    v_nonce constant text := split_part(p_token, '/', 1);
    v_id constant text := split_part(p_token, '/', 2);
    v_instance constant text := substr(p_token, length(v_nonce) + length(v_id) + 3);
    v_session text;
begin
    if v_id !~ '^[0-9]{1,18}$' then
        raise exception 'activity lease lost' using errcode = 'PD001',
            detail = 'The token is not one of an activity lease.';
    end if;
    delete from {schema}.worker_queue as q
     where q.instance_id = v_instance
       and q.id = v_id::bigint
       and q.lock_token = v_nonce
       and q.locked_until > floor(extract(epoch from v_ts) * 1000)
    returning q.session_id into v_session;
    if not found then
        raise exception 'activity lease lost' using errcode = 'PD001',
            detail = 'The lease expired, or the activity was cancelled or has ended.';
    end if;
    if p_kind not between 1 and 8 then
        perform {schema}.refuse_kind(p_kind);
    end if;
    insert into {schema}.orchestrator_queue (instance_id, kind, work_item, visible_at, created_at)
    values (v_instance, p_kind, p_body, v_ts, v_ts)
    returning id into o_message_id;
    if v_session is not null then
        update {schema}.sessions as s
           set last_activity_at = floor(extract(epoch from v_ts) * 1000)::bigint
         where s.session_id = v_session;
    end if;
    o_instance_id := v_instance;
end;
$$;
-- Hints between processes: who waits for what, and telling them. A waiter registers, commits, looks once
-- more, and only then waits; whoever has something for it calls wake_v1 after its own commit. So either
-- the waiter sees the change, or the other one sees the waiter.

create function {schema}.register_waiter_v1(p_waiter text, p_topics text[], p_for_ms bigint)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    insert into {schema}.wake_waiters as w (topic, waiter, until_ms)
    select t, p_waiter, floor(extract(epoch from clock_timestamp()) * 1000)::bigint + p_for_ms
      from unnest(p_topics) as t order by t
    on conflict (topic, waiter) do update set until_ms = excluded.until_ms;
$$;

-- Wake one waiter of each queue, and all that wait for an instance. Topics: a queue, or 'i:' and an
-- instance.
create function {schema}.wake_v1(p_waker text, p_queues text[], p_instances text[]) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_woken text[];
begin
    if not exists (select from {schema}.wake_waiters as w where w.waiter <> p_waker) then
        return;
    end if;
    with chosen as materialized (
        select one.topic, one.waiter
          from unnest(p_queues) as t (topic)
         cross join lateral (
             select w.topic, w.waiter
               from {schema}.wake_waiters as w
              where w.topic = t.topic and w.waiter <> p_waker
              limit 1
                for update skip locked
         ) as one
        union all
        select w.topic, w.waiter
          from unnest(p_instances) as i
          join {schema}.wake_waiters as w on w.topic = 'i:' || i
         where w.waiter <> p_waker
    ),
    gone as (
        delete from {schema}.wake_waiters as w
         using chosen as c
         where w.topic = c.topic and w.waiter = c.waiter
        returning w.waiter || '/' || case when w.topic like 'i:%' then 'i' else w.topic end as told
    )
    select array_agg(distinct gone.told) into v_woken from gone;
    perform pg_notify('{channel}', w) from unnest(v_woken) as w;
end;
$$;

-- The whole cost of being idle: one call every few seconds. Goes on waiting, and says whether there is
-- something to do after all.
create function {schema}.idle_v1(
    p_waiter text, p_topics text[], p_for_ms bigint,
    out o_turns boolean, out o_activities boolean, out o_next_due bigint, out o_now bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    v_ts constant timestamptz := clock_timestamp();
begin
    o_now := floor(extract(epoch from v_ts) * 1000)::bigint;
    perform {schema}.register_waiter_v1(p_waiter, p_topics, p_for_ms);
    o_turns := exists (
        select from {schema}.orchestrator_queue as q where q.visible_at <= v_ts
    );
    o_activities := exists (select from {schema}.worker_queue);
    select ceil(extract(epoch from q.visible_at) * 1000)::bigint into o_next_due
      from {schema}.orchestrator_queue as q
     where q.visible_at > v_ts
     order by q.visible_at, q.id
     limit 1;
end;
$$;

-- Once in a while, from any process: what nobody will come back for. A batch can be sent again for as
-- long as its process lives and has no answer; one without an answer for a month counts as dead.
create function {schema}.sweep_v1() returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    delete from {schema}.wake_waiters as w
     where w.until_ms < floor(extract(epoch from clock_timestamp()) * 1000);
    delete from {schema}.writers as w where w.updated_at < clock_timestamp() - interval '30 days';
$$;
-- Suspending an instance: nobody can lease it, because somebody who never lets go has it leased. The row of
-- instance_locks is what suspending, resuming and holding messages are serialised by.

-- One row per instance: changed, unchanged, ended or unknown. Takes leases from whoever has them; what they
-- were given counts as not delivered.
create function {schema}.suspend_instances_v1(p_instances text[], p_now bigint default null)
returns table (o_instance_id text, o_outcome text)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    v_ts constant timestamptz := coalesce(to_timestamp(p_now / 1000.0), clock_timestamp());
begin
    for o_instance_id in select distinct i from unnest(p_instances) as i order by i loop
        begin
            insert into {schema}.instance_locks as l
                   (instance_id, lock_token, owner, locked_until, locked_at)
            values (o_instance_id, '', 'suspended', 9007199254740991,
                    floor(extract(epoch from v_ts) * 1000)::bigint)
            on conflict (instance_id) do update
               set lock_token = excluded.lock_token,
                   owner = excluded.owner,
                   locked_until = excluded.locked_until,
                   locked_at = excluded.locked_at,
                   msg_ids = '{}';
            update {schema}.instances as s
               set suspended_at = v_ts
             where s.instance_id = o_instance_id
               and s.suspended_at is null
               and s.status not in ('Completed', 'Failed');
            if not found then
                raise exception using errcode = 'PD004';  -- takes the lease back
            end if;
            o_outcome := 'changed';
        exception when sqlstate 'PD004' then
            select case when s.suspended_at is null then 'ended' else 'unchanged' end into o_outcome
              from {schema}.instances as s
             where s.instance_id = o_instance_id;
            o_outcome := coalesce(o_outcome, 'unknown');
        end;
        return next;
    end loop;
end;
$$;

-- One row per instance: changed, unchanged or unknown. Wakes workers when it commits.
create function {schema}.resume_instances_v1(p_instances text[])
returns table (o_instance_id text, o_outcome text)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    for o_instance_id in select distinct i from unnest(p_instances) as i order by i loop
        perform from {schema}.instance_locks as l
          where l.instance_id = o_instance_id and l.lock_token = '' for update;
        if found then
            perform {schema}._resume_v1(array[o_instance_id]);
            perform pg_notify('{channel}', 'turns');
            o_outcome := 'changed';
        else
            o_outcome := case when exists (
                select from {schema}.instances as s where s.instance_id = o_instance_id
            ) then 'unchanged' else 'unknown' end;
        end if;
        return next;
    end loop;
end;
$$;

-- The caller holds the rows of instance_locks.
create function {schema}._resume_v1(p_instances text[]) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    delete from {schema}.instance_locks as l
     where l.instance_id = any (p_instances) and l.lock_token = '';
    update {schema}.instances as s set suspended_at = null where s.instance_id = any (p_instances);
    update {schema}.orchestrator_queue as q
       set visible_at = q.held_visible_at, held_visible_at = null
     where q.instance_id = any (p_instances) and q.held_visible_at is not null;
end;
$$;

-- Take the due messages of suspended instances out of the way of polls, which would pass them over again and
-- again. An instance that is to be cancelled is resumed instead; whether there was one.
create function {schema}._hold_messages_v1(p_ts timestamptz) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $$
declare
    v_held text[];
    v_cancelled text[];
begin
    select array_agg(l.instance_id) into v_held
      from (
        select s.instance_id from {schema}.instances as s
         where s.suspended_at is not null
           and exists (
               select from {schema}.orchestrator_queue as q
                where q.instance_id = s.instance_id and q.visible_at <= p_ts
               offset 0
           )
         order by s.instance_id
      ) as due
     cross join lateral (
         select k.instance_id from {schema}.instance_locks as k
          where k.instance_id = due.instance_id and k.lock_token = ''
         offset 0
            for update skip locked
     ) as l;
    select array_agg(i) into v_cancelled
      from unnest(v_held) as i
     where exists (
         select from {schema}.orchestrator_queue as q
          where q.instance_id = i and q.visible_at <= p_ts and q.kind = 8
         offset 0
     );
    if v_cancelled is not null then
        perform {schema}._resume_v1(v_cancelled);
    end if;
    update {schema}.orchestrator_queue as q
       set held_visible_at = q.visible_at, visible_at = timestamptz '9999-01-01 00:00:00+00'
     where q.instance_id = any (v_held)
       and (v_cancelled is null or q.instance_id <> all (v_cancelled))
       and q.visible_at <= p_ts;
    return v_cancelled is not null;
end;
$$;
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
-- Nobody but the owner; scripts of anybody may wait for _worker_ready.
revoke all on all tables in schema {schema} from public;
revoke all on all functions in schema {schema} from public;
grant usage on schema {schema} to public;
grant select on {schema}._worker_ready to public;
insert into {schema}._worker_ready (schema_version) values (1);
