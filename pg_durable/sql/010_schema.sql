-- Tables of the schema df. All statements run as the installing role, which then owns everything;
-- row security is enabled but not forced, so the worker (which is that role) sees every row.

comment on schema df is 'pg-durable: durable workflows written in SQL';

-- One row per workflow that was started. The status is written by the worker in the commit of the
-- turn that it describes; nobody is granted UPDATE.
create table df.instances (
    id varchar(8) not null,
    label text,
    root_node varchar(8) not null,
    status text default 'pending',
    submitted_by regrole not null,
    database text,
    created_at timestamptz default now(),
    updated_at timestamptz default now(),
    completed_at timestamptz,
    error text,
    error_details jsonb,
    paused_at timestamptz,
    start_at timestamptz,
    idempotency_key text,
    cancelled_in xid8,
    constraint instances_pkey primary key (id),
    constraint instances_identity_key unique (id, submitted_by)
) with (fillfactor = 70);

comment on table df.instances is 'One row per started workflow';
comment on column df.instances.label is 'Free text given to df.start; {sys_label} in step texts';
comment on column df.instances.status is 'pending, running, completed, failed or cancelled';
comment on column df.instances.submitted_by is 'The role that called df.start; steps run as it';
comment on column df.instances.database is 'Where SQL steps run; null: this database';
comment on column df.instances.completed_at is 'When it completed, failed or was cancelled';
comment on column df.instances.error is 'Why it failed or was cancelled, as one line of text';
comment on column df.instances.error_details is 'The same as an object: message, sqlstate, detail, node_id, ...';
comment on column df.instances.paused_at is 'Since when no new step is begun; null: not paused';
comment on column df.instances.start_at is 'The earliest time of the first step; null: at once';
comment on column df.instances.cancelled_in is 'The transaction that asked to cancel: it may still finish its own step';

-- The graph of every instance, one row per node. `query` holds SQL text, or configuration as JSON, in
-- which the condition of IF and LOOP and further branches of JOIN are named by their ids.
create table df.nodes (
    id varchar(8) not null,
    instance_id varchar(8) not null,
    node_type text not null,
    query text,
    result_name text,
    left_node varchar(8),
    right_node varchar(8),
    status text default 'pending',
    result jsonb,
    error text,
    submitted_by regrole,
    database text,
    created_at timestamptz default now(),
    updated_at timestamptz default now(),
    status_details jsonb,
    options jsonb,
    result_from varchar(8),
    constraint nodes_pkey primary key (instance_id, id)
) with (fillfactor = 50);

comment on table df.nodes is 'The graph of every instance, one row per node';
comment on column df.nodes.status is 'pending, running, completed or failed, as last written; df.instance_nodes infers more';
comment on column df.nodes.result is 'The result document; of a failed node the error text as a JSON string; see result_from';
comment on column df.nodes.error is 'The error text of a failed node';
comment on column df.nodes.status_details is '{"execution_id": "<orchestration>::<generation>"}, and "error" with details of a failure';
comment on column df.nodes.result_from is 'The node that has this one''s result, where it is too large to be kept at every ancestor';
comment on column df.nodes.options is 'Options of df.sql: tx, isolation, read_only, deferrable, timeout_seconds, retries, on_ambiguous';

-- NOT VALID: enforced for new rows, and restoring or adding them never scans a large table.
alter table df.instances
    add constraint instances_id_format_chk check (id ~ '^[0-9a-f]{8}$') not valid,
    add constraint instances_root_node_format_chk check (root_node ~ '^[0-9a-f]{8}$') not valid,
    add constraint instances_status_chk check (
        status in ('pending', 'running', 'completed', 'failed', 'cancelled')
    ) not valid,
    add constraint instances_start_at_chk check (isfinite(start_at)) not valid;

alter table df.nodes
    add constraint nodes_instance_id_present_chk check (instance_id is not null) not valid,
    add constraint nodes_submitted_by_present_chk check (submitted_by is not null) not valid,
    add constraint nodes_id_format_chk check (id ~ '^[0-9a-f]{8}$') not valid,
    add constraint nodes_instance_id_format_chk check (instance_id ~ '^[0-9a-f]{8}$') not valid,
    add constraint nodes_left_node_format_chk check (
        left_node is null or left_node ~ '^[0-9a-f]{8}$'
    ) not valid,
    add constraint nodes_right_node_format_chk check (
        right_node is null or right_node ~ '^[0-9a-f]{8}$'
    ) not valid,
    add constraint nodes_node_type_chk check (
        node_type in (
            'SQL', 'THEN', 'IF', 'JOIN', 'LOOP', 'BREAK', 'RACE', 'SLEEP', 'WAIT_SCHEDULE', 'HTTP',
            'HTTP_MULTIPART', 'SIGNAL'
        )
    ) not valid,
    add constraint nodes_result_name_chk check (
        result_name is null or result_name ~ '^[A-Za-z_][A-Za-z0-9_]*$'
    ) not valid,
    add constraint nodes_status_chk check (
        status in ('pending', 'running', 'completed', 'failed')
    ) not valid,
    add constraint nodes_result_status_chk check (
        result is null or status in ('completed', 'failed')
    ) not valid,
    add constraint nodes_structure_chk check (
        case
            when node_type in ('THEN', 'RACE')
                then left_node is not null and right_node is not null and query is null
            when node_type = 'IF'
                then left_node is not null and right_node is not null and query is not null
            when node_type = 'LOOP' then left_node is not null and right_node is null
            when node_type = 'JOIN' then left_node is not null and right_node is not null
            else left_node is null and right_node is null and query is not null
        end
    ) not valid;

-- Deferred, because an instance names its root node and the nodes name their instance.
alter table df.nodes
    add constraint nodes_instance_identity_fkey foreign key (instance_id, submitted_by)
        references df.instances (id, submitted_by) deferrable initially deferred not valid,
    add constraint nodes_left_node_same_instance_fkey foreign key (instance_id, left_node)
        references df.nodes (instance_id, id) deferrable initially deferred not valid,
    add constraint nodes_right_node_same_instance_fkey foreign key (instance_id, right_node)
        references df.nodes (instance_id, id) deferrable initially deferred not valid;

alter table df.instances
    add constraint instances_root_node_same_instance_fkey foreign key (id, root_node)
        references df.nodes (instance_id, id) deferrable initially deferred not valid;

create index idx_instances_status on df.instances (status, created_at desc, id);
create index idx_instances_created_at on df.instances (created_at desc, id);
create index idx_instances_label on df.instances (label, created_at desc, id) where label is not null;
create index idx_instances_submitted_by on df.instances (submitted_by, created_at desc, id);
create unique index idx_instances_idempotency_key on df.instances (submitted_by, idempotency_key)
    where idempotency_key is not null;
create index idx_nodes_instance on df.nodes (instance_id);

-- Key-value pairs of each role; df.start takes a copy that {name} in step texts refers to.
create table df.vars (
    name text not null,
    value text,
    owner regrole not null default quote_ident(current_user)::regrole,
    constraint vars_pkey primary key (owner, name)
);

comment on table df.vars is 'Variables of each role, copied by df.start';

-- The graph of an instance as it was started, named by its hash: what the worker executes. Later
-- changes of df.nodes can't change what runs.
create table df._snapshots (
    instance_id varchar(8) not null,
    hash text not null,
    graph text not null,
    constraint _snapshots_pkey primary key (instance_id, hash)
);

comment on table df._snapshots is 'The frozen graph of every instance';

-- The executions of steps whose effect can't commit together with its record, marked before they begin:
-- one row per node, for the step that it runs now or ran last.
create table df._attempts (
    instance_id varchar(8) not null,
    node_id varchar(8) not null,
    step text not null,
    attempt integer not null,
    started_at timestamptz not null default now(),
    constraint _attempts_pkey primary key (instance_id, node_id)
) with (fillfactor = 50);

comment on table df._attempts is 'Executions of steps whose effect and record are two commits';
comment on column df._attempts.step is 'The activity: <orchestration>::<generation>::<activity>';
comment on column df._attempts.attempt is 'How often it was begun';

-- How a session reaches the engine: a row is inserted, checked by the policy and consumed by a trigger
-- that has the right to. No row outlives its transaction, hence unlogged.
create unlogged table df._inbox (
    seq bigint generated always as identity,
    kind text not null,
    instance_id varchar(8) not null,
    payload jsonb not null default '{}',
    submitted_by regrole not null default quote_ident(current_user)::regrole,
    constraint _inbox_pkey primary key (seq),
    constraint _inbox_kind_chk check (kind in ('start', 'cancel', 'signal', 'pause', 'resume'))
);

comment on table df._inbox is 'Requests to the engine, consumed by a trigger as they are inserted';

-- One row per installation: a worker that finds another id knows that df was dropped and recreated.
create table df._install (
    install_id uuid not null default gen_random_uuid(),
    schema_version integer not null,
    installed_at timestamptz not null default now(),
    constraint _install_pkey primary key (install_id)
);

comment on table df._install is 'Which installation this is';

insert into df._install (schema_version) values (1);

create table df._workers (
    worker_id uuid not null,
    hostname text not null,
    pid integer not null,
    version text not null,
    started_at timestamptz not null default now(),
    last_seen_at timestamptz not null default now(),
    draining boolean not null default false,
    constraint _workers_pkey primary key (worker_id)
) with (fillfactor = 50);

comment on table df._workers is 'Heartbeats of the worker processes';

create view df._worker_epoch as
select w.worker_id as epoch_id, w.started_at, w.last_seen_at
from df._workers as w
order by w.last_seen_at desc
limit 1;

comment on view df._worker_epoch is 'The newest heartbeat';

alter table df.instances enable row level security;
alter table df.nodes enable row level security;
alter table df.vars enable row level security;
alter table df._inbox enable row level security;

create policy instances_user_isolation on df.instances to public
    using (submitted_by = quote_ident(current_user)::regrole)
    with check (submitted_by = quote_ident(current_user)::regrole);

create policy nodes_user_isolation on df.nodes to public
    using (submitted_by = quote_ident(current_user)::regrole)
    with check (submitted_by = quote_ident(current_user)::regrole);

create policy vars_user_isolation on df.vars to public
    using (owner = quote_ident(current_user)::regrole)
    with check (owner = quote_ident(current_user)::regrole);

-- The sub-select runs under the caller's own row security: only an instance that he can see passes.
create policy _inbox_own_instances on df._inbox for insert to public
    with check (exists (select from df.instances as i where i.id = instance_id));
