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
