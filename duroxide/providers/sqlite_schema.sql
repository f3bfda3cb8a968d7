-- The embedded store. All times are Unix milliseconds; texts are opaque to it.
-- pragma user_version is the version of this schema.

create table if not exists instances (
    instance_id text primary key,
    name text not null,
    version text not null,
    execution_id integer not null,                  -- the current one
    parent_instance_id text,
    custom_status text,
    custom_status_version integer not null default 0,
    created_at_ms integer not null,
    updated_at_ms integer not null,
    last_turn text,                                 -- what makes a repeated commit recognisable
    suspended_at_ms integer,
    incarnation text not null default ''            -- the lease of its first turn
) without rowid;
create index if not exists instances_suspended
    on instances (suspended_at_ms) where suspended_at_ms is not null;
create index if not exists instances_by_parent
    on instances (parent_instance_id) where parent_instance_id is not null;
create index if not exists instances_by_age on instances (created_at_ms);

create table if not exists executions (
    instance_id text not null,
    execution_id integer not null,
    status text not null,
    output text,
    engine_major integer not null,
    engine_minor integer not null,
    engine_patch integer not null,
    event_count integer not null,
    event_bytes integer not null,
    started_at_ms integer not null,
    completed_at_ms integer,
    primary key (instance_id, execution_id)
) without rowid;

-- A row per turn: its events, separated by a character that no JSON text contains.
create table if not exists history (
    instance_id text not null,
    execution_id integer not null,
    first_event_id integer not null,
    last_event_id integer not null,
    events text not null,
    primary key (instance_id, execution_id, first_event_id)
) without rowid;

create table if not exists messages (
    message_id integer primary key autoincrement,   -- order of arrival
    instance_id text not null,
    kind integer not null,
    body text not null,
    visible_at_ms integer not null,
    timer_execution_id integer,
    timer_event_id integer,
    attempt_count integer not null default 0,
    token text                                      -- of the lease that it was last delivered with
);
create index if not exists messages_by_time on messages (visible_at_ms, message_id, instance_id);
create index if not exists messages_by_instance on messages (instance_id, message_id);
create index if not exists messages_by_timer    -- an instance may give up thousands at once
    on messages (instance_id, timer_execution_id, timer_event_id) where timer_event_id is not null;

create table if not exists leases (
    instance_id text primary key,
    token text not null unique,
    expires_at_ms integer not null,
    worker text not null                            -- for people
) without rowid;

create table if not exists activities (
    number integer primary key autoincrement,       -- order of arrival
    instance_id text not null,
    execution_id integer not null,
    activity_id integer not null,
    body text not null,
    tag text,
    session_id text,
    visible_at_ms integer not null,
    attempt_count integer not null default 0,
    token text,
    expires_at_ms integer not null default 0,
    worker text
);
create index if not exists activities_by_tag on activities (tag, number);
create index if not exists activities_by_instance
    on activities (instance_id, execution_id, activity_id);
create unique index if not exists activities_by_token
    on activities (token) where token is not null;
create index if not exists activities_by_session
    on activities (session_id) where session_id is not null;

-- Beside the activities rather than in them: few have one, and most rows live for milliseconds.
create table if not exists heartbeats (
    number integer primary key,
    data text not null
);
create trigger if not exists heartbeats_end after delete on activities begin
    delete from heartbeats where number = old.number;
end;

create table if not exists sessions (
    session_id text primary key,
    owner text not null,
    expires_at_ms integer not null,
    last_activity_ms integer not null
) without rowid;

-- As the current execution began, and what it has changed since (a null value: cleared).
create table if not exists key_values (
    instance_id text not null,
    key text not null,
    value text not null,
    updated_at_ms integer not null,
    primary key (instance_id, key)
) without rowid;
create table if not exists key_value_changes (
    instance_id text not null,
    key text not null,
    value text,
    updated_at_ms integer not null,
    primary key (instance_id, key)
) without rowid;

-- Messages that were taken from the queue without having had their effect.
create table if not exists dead_letters (
    letter_id integer primary key autoincrement,
    instance_id text not null,
    kind integer not null,
    body text not null,
    timer_execution_id integer,
    timer_event_id integer,
    attempt_count integer not null,
    reason text not null,
    buried_at_ms integer not null
);
create index if not exists dead_letters_by_instance on dead_letters (instance_id, letter_id);
