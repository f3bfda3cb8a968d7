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

-- Settings of this installation. Any session can SET a placeholder, so nothing that matters for
-- security is read from one: a setting is a row here, an ALTER DATABASE entry, or its default.

create table df._settings (
    name text not null,
    value text not null,
    constraint _settings_pkey primary key (name)
);

comment on table df._settings is 'Settings that differ from their defaults; writable by the owner only';

-- What can be set. A setting with bounds is a whole number; one with words is one of them.
create function df._setting_specs(
    out name text, out fallback text, out lowest bigint, out highest bigint, out words text[]
)
returns setof record
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
        values
            ('enable_superuser_instances', 'off', null::bigint, null::bigint, array['on', 'off']),
            ('list_instances_max_limit', '1000', 1, 1000000, null),
            ('max_new_transaction_starts', '2', 1, 1000, null),
            ('new_transaction_start_timeout', '5', 1, 3600, null),
            ('retention_days', '30', 0, 36500, null),
            ('retain_instances', '10000', 0, 1000000000, null),
            ('max_loop_iterations', '0', 0, 1000000000000, null),
            ('min_loop_interval_ms', '1000', 0, 3600000, null),
            ('max_carried_bytes', '1048576', 1024, 1073741823, null),
            ('keep_executions', '10', 1, 100000, null),
            ('cron_dialect', 'classic', null, null, array['classic', 'quartz']),
            ('workflow_timezone', 'UTC', null, null, null);
end
$$;

comment on function df._setting_specs() is 'Every setting with its default and what it may be';

create function df._check_setting() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_spec record;
begin
    select * into v_spec from df._setting_specs() as s where s.name = new.name;
    if not found then
        raise exception 'pg-durable has no setting "%"', new.name
            using errcode = '22023', hint = 'Known settings: ' || (
                select string_agg(s.name, ', ' order by s.name) from df._setting_specs() as s
            ) || '. How a worker behaves is told to the worker: see `pg-durable worker --help`.';
    end if;
    if v_spec.lowest is not null then
        if new.value !~ '^[0-9]{1,15}$' or new.value::bigint not between v_spec.lowest and v_spec.highest then
            raise exception 'setting "%" must be a whole number between % and %, not "%"',
                new.name, v_spec.lowest, v_spec.highest, new.value using errcode = '22023';
        end if;
    elsif v_spec.words is not null and new.value <> all (v_spec.words) then
        raise exception 'setting "%" must be one of %, not "%"',
            new.name, array_to_string(v_spec.words, ', '), new.value using errcode = '22023';
    elsif new.name = 'workflow_timezone'
        and not exists (select from pg_timezone_names as z where z.name = new.value) then
        raise exception 'setting "workflow_timezone" must be the name of a time zone, not "%"', new.value
            using errcode = '22023', hint = 'See pg_timezone_names.';
    end if;
    return new;
end
$$;

comment on function df._check_setting() is 'Refuses unknown settings and values out of range';

revoke execute on function df._check_setting() from public;

create trigger _settings_check before insert or update on df._settings
    for each row execute function df._check_setting();

-- What ALTER DATABASE said about this one.
create function df._database_settings() returns setof text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
        select c.entry
        from pg_db_role_setting as d
        cross join unnest(d.setconfig) as c (entry)
        where d.setrole = 0
            and d.setdatabase = (select b.oid from pg_database as b where b.datname = current_database())
            and starts_with(c.entry, 'pg_durable.');
end
$$;

comment on function df._database_settings() is 'Entries of ALTER DATABASE … SET pg_durable.…, as name=value';

-- The value in force, from sources that an ordinary session can't change. In PL/pgSQL, whose plans a session
-- keeps: every start asks.
create function df._setting(p_name text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_value text;
begin
    select s.value into v_value from df._settings as s where s.name = p_name;
    if found then
        return v_value;
    end if;
    select substr(e.entry, length(p_name) + 13) into v_value
    from df._database_settings() as e (entry) where starts_with(e.entry, 'pg_durable.' || p_name || '=');
    if found then
        return v_value;
    end if;
    return (select s.fallback from df._setting_specs() as s where s.name = p_name);
end
$$;

comment on function df._setting(text) is 'The value of a setting: df._settings, else ALTER DATABASE, else the default';

-- Those settings that decide what a workflow does, as far as they differ from their defaults. They are
-- pinned when it starts, so that it replays.
create function df._pinned_settings() returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_pinned constant text[] := array[
        'max_loop_iterations', 'min_loop_interval_ms', 'max_carried_bytes', 'cron_dialect', 'workflow_timezone'
    ];
begin
    if not exists (select from df._settings as s where s.name = any (v_pinned))
        and not exists (select from df._database_settings()) then
        return null;
    end if;
    return (
        select json_object_agg(s.name, coalesce(o.value, d.value) order by s.name)::text
        from df._setting_specs() as s
        left join df._settings as o on o.name = s.name
        left join (
            select split_part(substr(e.entry, 12), '=', 1) as name, substr(e.entry, strpos(e.entry, '=') + 1) as value
            from df._database_settings() as e (entry)
        ) as d on d.name = s.name
        where s.name = any (v_pinned) and coalesce(o.value, d.value) <> s.fallback
    );
end
$$;

comment on function df._pinned_settings() is 'Settings that a workflow keeps from its start, as JSON; null: all are defaults';

grant select on df._settings to public;

-- Node text: compact JSON that describes a step with its children nested inside, and the functions
-- that build it. Text is concatenated, since json_build_object adds blanks and jsonb reorders keys;
-- to_json(text) escapes minimally, and json (not jsonb) gives children back byte for byte.

-- The message of a node_type that does not exist. Kept in one place because df.start and the graph
-- check both raise it.
create function df._unknown_node_type(p_type text) returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select format(
        'Unknown node_type ''%s''. Valid types: SQL, THEN, IF, JOIN, LOOP, BREAK, RACE, SLEEP, '
        'WAIT_SCHEDULE, HTTP, HTTP_MULTIPART, SIGNAL', p_type
    )
$$;

create function df._is_node_type(p_type text) returns boolean
language sql immutable parallel safe
as $$
    select p_type in (
        'SQL', 'THEN', 'IF', 'JOIN', 'LOOP', 'BREAK', 'RACE', 'SLEEP', 'WAIT_SCHEDULE', 'HTTP',
        'HTTP_MULTIPART', 'SIGNAL'
    )
$$;

-- Parses text as json; null (with the reason) where it is none, instead of an error.
create function df._try_json(p_text text, out value json, out problem text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    value := p_text::json;
exception
    when data_exception then
        problem := sqlerrm;
end
$$;

-- What is wrong with the types of a node's fields; null: nothing. JSON null counts as absent.
-- Without settings of its own, so that it is inlined: every step of every graph passes through it.
create function df._misshapen(
    p_left text, p_right text, p_condition text, p_extra text, p_query text, p_name text
)
returns text
language sql immutable parallel safe
as $$
    select case
        when p_left not in ('object', 'null') or p_right not in ('object', 'null')
            then 'Durofut children must be JSON objects'
        when p_condition not in ('object', 'null') then 'condition_node must be a Durofut JSON object'
        when p_extra not in ('array', 'null') then 'extra_nodes must be an array of Durofut JSON objects'
        when p_query not in ('string', 'null') then 'query must be a string'
        when p_name not in ('string', 'null') then 'result_name must be a string'
    end
$$;

-- Tells node text from plain text.
--   node_type null: plain text. problem null: `node` is the node in canonical form, its children
--   untouched. Otherwise `problem` says what is wrong with it.
create function df._parse_node(p_text text, out node text, out node_type text, out problem text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_left json;
    v_right json;
    v_condition json;
    v_extra json;
    v_query json;
    v_name json;
    v_options json;
    v_type json;
    v_repeated text;
    v_is_json boolean := false;
begin
    if left(ltrim(p_text, E' \t\n\r'), 1) is distinct from '{' then
        return;
    end if;
    perform p_text::json;
    v_is_json := true;
    select
        max(e.value::text) filter (where e.key = 'node_type'),
        max(e.value::text) filter (where e.key = 'left_node'),
        max(e.value::text) filter (where e.key = 'right_node'),
        max(e.value::text) filter (where e.key = 'condition_node'),
        max(e.value::text) filter (where e.key = 'extra_nodes'),
        max(e.value::text) filter (where e.key = 'query'),
        max(e.value::text) filter (where e.key = 'result_name'),
        max(e.value::text) filter (where e.key = 'options'),
        case when count(*) > count(distinct e.key) then 'a field occurs twice' end
    into v_type, v_left, v_right, v_condition, v_extra, v_query, v_name, v_options, v_repeated
    from json_each(p_text::json) as e
    where e.key in (
        'node_type', 'left_node', 'right_node', 'condition_node', 'extra_nodes', 'query', 'result_name',
        'options'
    );
    if json_typeof(v_type) is distinct from 'string' then
        return;
    end if;
    node_type := v_type #>> '{}';
    if not df._is_node_type(node_type) then
        problem := 'unknown node_type';
        return;
    end if;
    problem := coalesce(v_repeated, df._misshapen(
        json_typeof(v_left), json_typeof(v_right), json_typeof(v_condition), json_typeof(v_extra),
        json_typeof(v_query), json_typeof(v_name)
    ));
    if problem is null and json_typeof(v_options) not in ('object', 'null') then
        problem := 'options must be a JSON object';
    end if;
    if problem is null and json_typeof(v_extra) = 'array' and exists (
        select from json_array_elements(v_extra) as e where json_typeof(e.value) <> 'object'
    ) then
        problem := 'extra_nodes entries must be Durofut JSON objects';
    end if;
    if problem is null then
        node := '{"node_type":"' || node_type || '"'
            || case when json_typeof(v_left) = 'object' then ',"left_node":' || v_left::text else '' end
            || case when json_typeof(v_right) = 'object' then ',"right_node":' || v_right::text else '' end
            || case when json_typeof(v_condition) = 'object'
                then ',"condition_node":' || v_condition::text else '' end
            || case when json_typeof(v_extra) = 'array' then ',"extra_nodes":' || v_extra::text else '' end
            || coalesce(',"query":' || to_json(v_query #>> '{}')::text, '')
            || case when json_typeof(v_options) = 'object' then ',"options":' || v_options::text else '' end
            || coalesce(',"result_name":' || to_json(v_name #>> '{}')::text, '')
            || '}';
    end if;
exception
    when data_exception then
        -- Not JSON: plain text. But JSON can also hold what PostgreSQL can't: \u0000, lone surrogates.
        node := null;
        node_type := case when v_is_json then substring(p_text from E'"node_type"\\s*:\\s*"([A-Z_]+)"') end;
        if df._is_node_type(node_type) then
            problem := sqlerrm;
        else
            node_type := null;
        end if;
end
$$;

-- JSON text without the blanks between its tokens, keys in their order.
create function df._compact_json(p_text text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select regexp_replace(p_text, E'("(?:[^"\\\\]|\\\\.)*")|[ \\t\\n\\r]+', E'\\1', 'g')
$$;

comment on function df._compact_json(text) is 'JSON text without blanks';

-- Remembers, for the rest of this statement, that a function was called whose answer is no step.
create function df._mark_helper(p_function text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config('df.non_future_helper', p_function || E'\n' || df._statement_stamp(), true);
end
$$;

create function df._statement_stamp() returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select (extract(epoch from statement_timestamp()) * 1000000)::bigint::text
    );
end
$$;

-- The function, called in this very statement, whose answer `p_text` probably is; else null. Only its
-- possible answers are suspected, so that a helper call does no harm to real steps beside it.
create function df._misused_helper(p_text text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_mark text;
begin
    if p_text not in ('OK', 'completed', 'failed', 'cancelled') then
        return null;
    end if;
    v_mark := current_setting('df.non_future_helper', true);
    return case when split_part(v_mark, E'\n', 2) = df._statement_stamp() then split_part(v_mark, E'\n', 1) end;
end
$$;

create function df._in_workflow() returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select coalesce(current_setting('df.in_workflow', true), '') = 'true'
    );
end
$$;

-- The step that an argument of a builder stands for: node text as it is, anything else as a SQL step.
create function df._step(p_text text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_node text;
    v_type text;
    v_problem text;
    v_helper text;
begin
    if p_text is null then
        return null;
    end if;
    select p.node, p.node_type, p.problem into v_node, v_type, v_problem from df._parse_node(p_text) as p;
    if v_node is not null then
        return v_node;
    end if;
    if v_type is not null and df._is_node_type(v_type) then
        raise exception 'Invalid Durofut JSON: failed to deserialize workflow step: %', v_problem
            using errcode = 'XX000';
    end if;
    v_helper := df._misused_helper(p_text);
    if v_helper is not null then
        raise exception '% cannot be used as a workflow step. Call % before df.start().', v_helper, v_helper
            using errcode = 'XX000';
    end if;
    return '{"node_type":"SQL","query":' || to_json(p_text)::text || '}';
end
$$;

comment on function df._unknown_node_type(text) is 'Error text';
comment on function df._is_node_type(text) is 'Whether a node type exists';
comment on function df._try_json(text) is 'json, or why it is none';
comment on function df._parse_node(text) is 'Tells node text from plain text';
comment on function df._misshapen(text, text, text, text, text, text) is 'Error text for a node with fields of a wrong type';
comment on function df._mark_helper(text) is 'Notes that a function that is no step was called';
comment on function df._statement_stamp() is 'Tells one statement of a session from the next';
comment on function df._misused_helper(text) is 'The helper whose answer a step probably is';
comment on function df._in_workflow() is 'Whether this session runs a workflow step';
comment on function df._step(text) is 'The step that a builder''s argument stands for';

-- The functions that build workflows. Equal arguments give equal text, byte for byte.

create function df.sql(query text) returns text
language plpgsql stable strict
set search_path = pg_catalog, pg_temp
as $$
begin
    return '{"node_type":"SQL","query":' || to_json(query)::text || '}';
end
$$;

comment on function df.sql(text) is 'A step that runs this SQL text as it is';

-- What is wrong with the options of a SQL step; null: nothing.
create function df._sql_options_fault(p_options jsonb) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_key text;
    v_value jsonb;
    v_words text;
begin
    if jsonb_typeof(p_options) is distinct from 'object' then
        return 'the options of df.sql() must be a JSON object';
    end if;
    for v_key, v_value in select e.key, e.value from jsonb_each(p_options) as e loop
        v_words := case v_key
            when 'tx' then 'auto, required, none'
            when 'isolation' then 'read committed, repeatable read, serializable'
            when 'on_ambiguous' then 'retry, fail'
        end;
        if v_words is not null then
            if jsonb_typeof(v_value) <> 'string' or v_value #>> '{}' <> all (string_to_array(v_words, ', ')) then
                return format('option "%s" of df.sql() must be one of %s, not %s', v_key, v_words, v_value);
            end if;
        elsif v_key in ('read_only', 'deferrable') then
            if jsonb_typeof(v_value) <> 'boolean' then
                return format('option "%s" of df.sql() must be true or false, not %s', v_key, v_value);
            end if;
        elsif v_key = 'timeout_seconds' then
            if v_value::text !~ '^[0-9]{1,5}([.][0-9]{1,3})?$' or v_value::text::numeric not between 0.001 and 86400 then
                return format('option "timeout_seconds" of df.sql() must be between 0.001 and 86400, not %s', v_value);
            end if;
        elsif v_key = 'retries' then
            if v_value::text !~ '^[0-9]{1,2}$' or v_value::text::integer > 20 then
                return format('option "retries" of df.sql() must be a whole number between 0 and 20, not %s', v_value);
            end if;
        else
            return format(
                'df.sql() has no option "%s"; there are tx, isolation, read_only, deferrable, timeout_seconds, '
                'retries and on_ambiguous', v_key
            );
        end if;
    end loop;
    if p_options ->> 'tx' = 'none' and p_options ?| array['isolation', 'read_only', 'deferrable'] then
        return 'options "isolation", "read_only" and "deferrable" of df.sql() are of a transaction: "tx" must not be "none"';
    end if;
    return null;
end
$$;

comment on function df._sql_options_fault(jsonb) is 'What is wrong with the options of a SQL step';

-- Options: tx (auto: outside of a transaction if it must; required; none), isolation, read_only,
-- deferrable, timeout_seconds, retries (of failures that prove that there was no effect), and
-- on_ambiguous (retry, fail: what follows if a step outside of a transaction may or may not have run).
create function df.sql(query text, options jsonb) returns text
language plpgsql stable strict
set search_path = pg_catalog, pg_temp
as $$
declare
    v_fault text := df._sql_options_fault(options);
begin
    if v_fault is not null then
        raise exception '%', v_fault using errcode = 'XX000';
    end if;
    return '{"node_type":"SQL","query":' || to_json(query)::text
        || ',"options":' || df._compact_json(options::text) || '}';
end
$$;

comment on function df.sql(text, jsonb) is 'A step that runs this SQL text with options: tx, isolation, read_only, deferrable, timeout_seconds, retries, on_ambiguous';

create function df.seq(a text, b text) returns text
language plpgsql stable strict
set search_path = pg_catalog, pg_temp
as $$
begin
    return '{"node_type":"THEN","left_node":' || df._step(a) || ',"right_node":' || df._step(b) || '}';
end
$$;

comment on function df.seq(text, text) is 'Runs a, then b; the result is that of b. Operator: a ~> b';

create function df."as"(fut text, name text) returns text
language plpgsql stable strict
set search_path = pg_catalog, pg_temp
as $$
declare
    v_node text;
    v_old_name json;
begin
    if name = '' then
        raise exception 'df.as: result name cannot be empty' using errcode = 'XX000';
    end if;
    if name !~ '^[a-zA-Z_][a-zA-Z0-9_]*$' then
        raise exception 'df.as: result name ''%'' is not a valid identifier (must match [a-zA-Z_][a-zA-Z0-9_]*)', name
            using errcode = 'XX000';
    end if;
    v_node := df._step(fut);
    v_old_name := v_node::json -> 'result_name';
    if v_old_name is not null then
        -- The canonical form ends with the name.
        v_node := left(v_node, -length(',"result_name":' || v_old_name::text || '}')) || '}';
    end if;
    return left(v_node, -1) || ',"result_name":"' || name || '"}';
end
$$;

comment on function df."as"(text, text) is 'Names the result of a step: $name in later steps. Operator: fut |=> name';

create function df.sleep(seconds bigint) returns text
language plpgsql stable strict
set search_path = pg_catalog, pg_temp
as $$
begin
    if seconds < 0 then
        raise exception 'Sleep duration must be non-negative' using errcode = 'XX000';
    end if;
    return '{"node_type":"SLEEP","query":"' || seconds || '"}';
end
$$;

comment on function df.sleep(bigint) is 'Waits; the timer survives restarts';

create function df."loop"(body text, condition text default null) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if body is null then
        raise exception 'argument 0 must not be null' using errcode = 'XX000', hint = 'df.loop needs a body.';
    end if;
    return '{"node_type":"LOOP","left_node":' || df._step(body)
        || coalesce(',"condition_node":' || df._step(condition), '') || '}';
end
$$;

comment on function df."loop"(text, text) is 'Repeats the body while the condition, looked at after each turn, holds; without one until df.break. Operator: @> body';

create function df."break"(value text default null) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select '{"node_type":"BREAK","query":'
        || to_json('{"break_value":' || coalesce(to_json(value)::text, 'null') || '}')::text || '}'
$$;

comment on function df."break"(text) is 'Ends the nearest loop, whose result the value becomes';

create function df."if"(condition text, then_branch text, else_branch text) returns text
language plpgsql stable strict
set search_path = pg_catalog, pg_temp
as $$
declare
    v_condition text := df._step(condition);
begin
    return '{"node_type":"IF","left_node":' || df._step(then_branch) || ',"right_node":' || df._step(else_branch)
        || ',"condition_node":' || v_condition || '}';
end
$$;

comment on function df."if"(text, text, text) is 'Runs one of two branches. Operators: condition ?> then !> else';

create function df.if_rows(result_name text, then_branch text, else_branch text) returns text
language plpgsql stable strict
set search_path = pg_catalog, pg_temp
as $$
begin
    return '{"node_type":"IF","left_node":' || df._step(then_branch) || ',"right_node":' || df._step(else_branch)
        || ',"query":' || to_json(
            '{"condition_type":"result_has_rows","result_name":' || to_json(result_name)::text || '}'
        )::text || '}';
end
$$;

comment on function df.if_rows(text, text, text) is 'Runs one of two branches, by whether a named SQL result has rows';

create function df."join"(a text, b text) returns text
language plpgsql stable strict
set search_path = pg_catalog, pg_temp
as $$
begin
    return '{"node_type":"JOIN","left_node":' || df._step(a) || ',"right_node":' || df._step(b) || '}';
end
$$;

comment on function df."join"(text, text) is 'Runs both at once; the result is an array. Operator: a & b';

create function df.join3(a text, b text, c text) returns text
language plpgsql stable strict
set search_path = pg_catalog, pg_temp
as $$
begin
    return '{"node_type":"JOIN","left_node":' || df._step(a) || ',"right_node":' || df._step(b)
        || ',"extra_nodes":[' || df._step(c) || ']}';
end
$$;

comment on function df.join3(text, text, text) is 'Runs three at once; the result is an array';

create function df.race(a text, b text) returns text
language plpgsql stable strict
set search_path = pg_catalog, pg_temp
as $$
begin
    return '{"node_type":"RACE","left_node":' || df._step(a) || ',"right_node":' || df._step(b) || '}';
end
$$;

comment on function df.race(text, text) is 'Runs both; the first to end wins and the other is cancelled. Operator: a | b';

create function df.wait_for_signal(name text, timeout_seconds integer default null) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if name is null then
        raise exception 'argument 0 must not be null' using errcode = 'XX000',
            hint = 'df.wait_for_signal needs the name of the signal.';
    end if;
    if name = '' then
        raise exception 'Signal name cannot be empty' using errcode = 'XX000';
    end if;
    if timeout_seconds <= 0 then
        raise exception 'Timeout must be positive' using errcode = 'XX000';
    end if;
    return '{"node_type":"SIGNAL","query":' || to_json(
        '{"signal_name":' || to_json(name)::text
        || ',"timeout_seconds":' || coalesce(timeout_seconds::text, 'null') || '}'
    )::text || '}';
end
$$;

comment on function df.wait_for_signal(text, integer) is 'Waits for df.signal; a time-out is a result, not a failure';

create function df.wait_for_signal(name text, timeout_seconds integer, mode text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_node text := df.wait_for_signal(name, timeout_seconds);
begin
    if coalesce(mode, 'next') = 'next' then
        return v_node;
    end if;
    if mode not in ('latest', 'future') then
        raise exception 'Signal mode must be next, latest or future, not "%"', mode using errcode = 'XX000';
    end if;
    return '{"node_type":"SIGNAL","query":' || to_json(
        rtrim(v_node::json ->> 'query', '}') || ',"mode":' || to_json(mode)::text || '}'
    )::text || '}';
end
$$;

comment on function df.wait_for_signal(text, integer, text) is
    'As with two arguments; mode latest skips to the newest signal, future ignores those that are there already';

-- Builders for the world outside: HTTP requests and schedules.

create function df._check_http(p_url text, p_method text, p_methods text[], p_refusal text, p_timeout integer)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_method text := upper(p_method);
    v_scheme text := lower(split_part(p_url, '://', 1));
begin
    -- The scheme of a URL with a placeholder is known only when it is filled in.
    if strpos(p_url, '{') = 0 and v_scheme not in ('http', 'https') then
        raise exception 'Blocked: unsupported URL scheme ''%''. Only http and https are allowed.', v_scheme
            using errcode = 'XX000';
    end if;
    if v_method <> all (p_methods) then
        raise exception using errcode = 'XX000', message = format(p_refusal, p_method);
    end if;
    if p_timeout <= 0 then
        raise exception 'Timeout must be positive' using errcode = 'XX000';
    end if;
    return v_method;
end
$$;

comment on function df._check_http(text, text, text[], text, integer) is 'Refuses a request that could never be sent; the method in upper case';

-- jsonb without the blanks of its text form.
create function df._compact_jsonb(p_value jsonb) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce(df._compact_json(p_value::text), 'null');
end
$$;

comment on function df._compact_jsonb(jsonb) is 'jsonb as text without blanks';

create function df.http(
    url text, method text default 'POST', body text default null, headers jsonb default null,
    timeout_seconds integer default 30
)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_method text;
begin
    perform df._require_argument(0, url), df._require_argument(1, method),
        df._require_argument(4, timeout_seconds::text);
    v_method := df._check_http(
        url, method, array['GET', 'POST', 'PUT', 'DELETE', 'PATCH'],
        'Invalid HTTP method: %s. Must be GET, POST, PUT, DELETE, or PATCH', timeout_seconds
    );
    return '{"node_type":"HTTP","query":' || to_json(
        '{"url":' || to_json(url)::text || ',"method":"' || v_method || '","body":'
        || coalesce(to_json(body)::text, 'null') || ',"headers":' || df._compact_jsonb(headers)
        || ',"timeout_seconds":' || timeout_seconds || '}'
    )::text || '}';
end
$$;

comment on function df.http(text, text, text, jsonb, integer) is 'An HTTP request; the worker decides which addresses may be reached';

-- What is wrong with one option of an HTTP step; null: nothing.
create function df._http_option_fault(p_name text, p_value jsonb) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_words text := case p_name
        when 'fail_on' then '5xx, 4xx, never'
        when 'body_mode' then 'text, json'
        when 'on_ambiguous' then 'retry, fail'
    end;
begin
    if v_words is not null then
        if jsonb_typeof(p_value) <> 'string' or p_value #>> '{}' <> all (string_to_array(v_words, ', ')) then
            return format('option "%s" of df.http_options() must be one of %s, not %s', p_name, v_words, p_value);
        end if;
    elsif p_name = 'expect_json' then
        if jsonb_typeof(p_value) <> 'boolean' then
            return format('option "expect_json" of df.http_options() must be true or false, not %s', p_value);
        end if;
    elsif p_name = 'retry' then
        if jsonb_typeof(p_value) <> 'object' or exists (
            select from jsonb_object_keys(p_value) as k (key)
            where k.key not in ('attempts', 'on', 'backoff_ms', 'max_ms', 'respect_retry_after')
        ) then
            return format(
                'option "retry" of df.http_options() must be an object of attempts, on, backoff_ms, max_ms '
                'and respect_retry_after, not %s', p_value
            );
        end if;
    else
        return format(
            'df.http_options() has no option "%s"; there are retry, fail_on, expect_json, body_mode and '
            'on_ambiguous', p_name
        );
    end if;
    return null;
end
$$;

comment on function df._http_option_fault(text, jsonb) is 'What is wrong with one option of an HTTP step';

-- Options: retry ({"attempts", "on", "backoff_ms", "max_ms", "respect_retry_after"}), fail_on (5xx, 4xx,
-- never), expect_json (the result has "json"), body_mode (text, json) and on_ambiguous (retry, fail).
create function df.http_options(fut text, options jsonb) returns text
language plpgsql stable strict
set search_path = pg_catalog, pg_temp
as $$
declare
    v_node json := df._step(fut)::json;
    v_config text := v_node ->> 'query';
    v_name text := v_node ->> 'result_name';
    v_option record;
    v_fault text;
begin
    if v_node ->> 'node_type' not in ('HTTP', 'HTTP_MULTIPART') then
        raise exception 'df.http_options() needs a step of df.http() or df.http_multipart(), not of type %',
            v_node ->> 'node_type' using errcode = 'XX000';
    end if;
    if jsonb_typeof(options) <> 'object' then
        raise exception 'the options of df.http_options() must be a JSON object' using errcode = 'XX000';
    end if;
    for v_option in select e.key, e.value from jsonb_each(options) as e order by e.key loop
        v_fault := df._http_option_fault(v_option.key, v_option.value);
        if v_fault is not null then
            raise exception '%', v_fault using errcode = 'XX000';
        end if;
        v_config := df._with_entry(
            v_config, to_json(v_option.key)::text || ':' || df._compact_jsonb(v_option.value)
        );
    end loop;
    return '{"node_type":"' || (v_node ->> 'node_type') || '","query":' || to_json(v_config)::text
        || coalesce(',"result_name":' || to_json(v_name)::text, '') || '}';
end
$$;

comment on function df.http_options(text, jsonb) is 'An HTTP step with options: retry, fail_on, expect_json, body_mode, on_ambiguous';

create function df.http_multipart(
    url text, method text default 'POST', parts jsonb default null, headers jsonb default null,
    timeout_seconds integer default 30
)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_method text;
begin
    perform df._require_argument(0, url), df._require_argument(1, method),
        df._require_argument(4, timeout_seconds::text);
    v_method := df._check_http(
        url, method, array['POST', 'PUT', 'PATCH'],
        'Invalid HTTP method for multipart: %s. Must be POST, PUT, or PATCH', timeout_seconds
    );
    if parts is null then
        raise exception 'parts is required and cannot be NULL' using errcode = 'XX000';
    end if;
    if jsonb_typeof(parts) <> 'array' then
        raise exception 'parts must be a JSON array of part objects' using errcode = 'XX000';
    end if;
    if parts = '[]' then
        raise exception 'parts must contain at least one part' using errcode = 'XX000';
    end if;
    return '{"node_type":"HTTP_MULTIPART","query":' || to_json(
        '{"url":' || to_json(url)::text || ',"method":"' || v_method || '","parts":' || df._compact_jsonb(parts)
        || ',"headers":' || df._compact_jsonb(headers) || ',"timeout_seconds":' || timeout_seconds || '}'
    )::text || '}';
end
$$;

comment on function df.http_multipart(text, text, jsonb, jsonb, integer) is 'An HTTP request with a multipart/form-data body; parts: [{"name", "data_b64", "filename"?, "content_type"?}]';

create function df._require_argument(p_index integer, p_value text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_value is null then
        raise exception 'argument % must not be null', p_index using errcode = 'XX000';
    end if;
end
$$;

comment on function df._require_argument(integer, text) is 'Raises for null';

-- What is wrong with one field of a cron expression; null: nothing.
--   p_names: names for p_lowest, p_lowest + 1, ...; long and short.
create function df._cron_fault(p_field text, p_what text, p_lowest integer, p_highest integer, p_names text[])
returns text
language plpgsql immutable strict
set search_path = pg_catalog, pg_temp
as $$
declare
    v_item text;
    v_parts text[];
    v_bounds integer[];
    v_bound text;
    v_number integer;
begin
    foreach v_item in array string_to_array(p_field, ',') loop
        v_parts := regexp_match(v_item, E'^(\\*|\\?|[A-Za-z0-9]+)(?:-([A-Za-z0-9]+))?(?:/([0-9]{1,4}))?$');
        if v_parts is null or (v_parts[1] in ('*', '?') and v_parts[2] is not null) then
            return format('%s: ''%s'' is not a value, a range or a step', p_what, v_item);
        end if;
        if v_parts[1] = '?' and p_what !~ '^day' then
            return format('%s: ''?'' is allowed in the two day fields only', p_what);
        end if;
        v_bounds := '{}';
        foreach v_bound in array array[v_parts[1], v_parts[2]] loop
            continue when v_bound is null or v_bound in ('*', '?');
            v_number := case
                when v_bound ~ '^[0-9]{1,4}$' then v_bound::integer
                else (
                    select p_lowest + (n.place - 1) % (cardinality(p_names) / 2)
                    from unnest(p_names) with ordinality as n (name, place)
                    where n.name = lower(v_bound)
                )
            end;
            if v_number is null or v_number not between p_lowest and p_highest then
                return format('%s: ''%s'' is not between %s and %s', p_what, v_bound, p_lowest, p_highest);
            end if;
            v_bounds := v_bounds || v_number;
        end loop;
        if v_bounds[1] > v_bounds[2] then
            return format('%s: the range %s ends before it begins', p_what, v_item);
        end if;
        if v_parts[3]::integer not between 1 and p_highest then
            return format('%s: the step of ''%s'' is not between 1 and %s', p_what, v_item, p_highest);
        end if;
    end loop;
    return null;
end
$$;

comment on function df._cron_fault(text, text, integer, integer, text[]) is 'What is wrong with one field of a cron expression';

-- Classic cron: 0 and 7 are Sunday, @daily and the like. Setting cron_dialect 'quartz': 1 to 7, 1 is
-- Sunday, and a sixth field for years.
create function df.wait_for_schedule(cron_expr text) returns text
language plpgsql stable strict
set search_path = pg_catalog, pg_temp
as $$
declare
    v_fields text[] := regexp_split_to_array(btrim(cron_expr, E' \t'), E'[ \\t]+');
    v_quartz boolean := df._setting('cron_dialect') = 'quartz';
    v_days text[] := array[
        'sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat',
        'sunday', 'monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday'
    ];
    v_months text[] := array[
        'jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec',
        'january', 'february', 'march', 'april', 'may', 'june', 'july', 'august', 'september', 'october',
        'november', 'december'
    ];
    v_fault text;
begin
    if not v_quartz and lower(cron_expr) in ('@hourly', '@daily', '@midnight', '@weekly', '@monthly', '@yearly', '@annually') then
        return df._schedule_node(cron_expr);
    end if;
    if cron_expr ~ '[$][a-zA-Z_{]|[{][a-zA-Z_]' then  -- read once it is known what the placeholder stands for
        return df._schedule_node(cron_expr);
    end if;
    if cardinality(v_fields) <> 5 and not (v_quartz and cardinality(v_fields) = 6) then
        v_fault := format('expected 5 fields (minute hour day-of-month month day-of-week), found %s', cardinality(v_fields));
    else
        v_fault := coalesce(
            df._cron_fault(v_fields[1], 'minute', 0, 59, '{}'),
            df._cron_fault(v_fields[2], 'hour', 0, 23, '{}'),
            df._cron_fault(v_fields[3], 'day of month', 1, 31, '{}'),
            df._cron_fault(v_fields[4], 'month', 1, 12, v_months),
            df._cron_fault(v_fields[5], 'day of week', v_quartz::integer, 7, v_days),
            df._cron_fault(v_fields[6], 'year', 1970, 2100, '{}')
        );
    end if;
    if v_fault is not null then
        raise exception 'Invalid cron expression ''%'': %', cron_expr, v_fault using errcode = 'XX000';
    end if;
    return df._schedule_node(cron_expr);
end
$$;

comment on function df.wait_for_schedule(text) is 'Waits until the next time that a cron expression names';

create function df.wait_for_schedule(cron_expr text, timezone text) returns text
language plpgsql stable strict
set search_path = pg_catalog, pg_temp
as $$
declare
    v_node text := df.wait_for_schedule(cron_expr);
begin
    if not exists (select from pg_timezone_names as z where z.name = timezone) then
        raise exception 'Unknown time zone ''%''; use an IANA name', timezone using errcode = 'XX000';
    end if;
    return '{"node_type":"WAIT_SCHEDULE","query":' || to_json(
        rtrim(v_node::json ->> 'query', '}') || ',"timezone":' || to_json(timezone)::text || '}'
    )::text || '}';
end
$$;

comment on function df.wait_for_schedule(text, text) is 'As with one argument, in a time zone of its own: Europe/Berlin';

create function df._schedule_node(p_cron_expr text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return '{"node_type":"WAIT_SCHEDULE","query":'
        || to_json('{"cron_expr":' || to_json(p_cron_expr)::text || '}')::text || '}';
end
$$;

comment on function df._schedule_node(text) is 'The node of a schedule';

-- Any number of branches, named as an array so that the forms with two arguments stay what they are.

create function df."join"(variadic branches text[]) returns text
language plpgsql stable strict
set search_path = pg_catalog, pg_temp
as $$
declare
    v_extra text;
begin
    if cardinality(branches) < 2 then
        raise exception 'df.join needs at least 2 branches, not %', cardinality(branches) using errcode = 'XX000';
    end if;
    if array_position(branches, null) is not null then
        return null;
    end if;
    select string_agg(df._step(b.branch), ',' order by b.n) into v_extra
    from unnest(branches[3:]) with ordinality as b (branch, n);
    return '{"node_type":"JOIN","left_node":' || df._step(branches[1]) || ',"right_node":' || df._step(branches[2])
        || coalesce(',"extra_nodes":[' || v_extra || ']', '') || '}';
end
$$;

comment on function df."join"(text[]) is 'Runs all branches at once; the result is a flat array in their order';

create function df.race(variadic branches text[]) returns text
language plpgsql stable strict
set search_path = pg_catalog, pg_temp
as $$
declare
    v_branch text;
    v_node text;
begin
    if cardinality(branches) < 2 then
        raise exception 'df.race needs at least 2 branches, not %', cardinality(branches) using errcode = 'XX000';
    end if;
    foreach v_branch in array branches loop
        v_node := case when v_node is null then df._step(v_branch) else df.race(v_node, v_branch) end;
    end loop;
    return v_node;
end
$$;

comment on function df.race(text[]) is 'Runs all branches; the first to end wins. Nested races of two, so its failure names the way to the branch';

-- Operators, in df and again in public: an operator is found only through search_path, and public is on
-- everybody's. (In pg_catalog they would be found always, but that needs a superuser, and pg_dump
-- leaves them out.)

create function df.as_op(fut text, name text) returns text
language sql stable
set search_path = pg_catalog, df, pg_temp
as $$
    select df."as"(fut, name)
$$;

comment on function df.as_op(text, text) is 'Operator |=>';

create function df.loop_prefix_op(body text) returns text
language sql stable
set search_path = pg_catalog, df, pg_temp
as $$
    select df."loop"(body)
$$;

comment on function df.loop_prefix_op(text) is 'Prefix operator @>';

-- Half of an IF. Operands are kept as they are: the branches are normalised when !> completes it.
create function df.if_then_op(condition text, then_branch text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return jsonb_build_object(
        '_partial_if', true, 'condition', condition, 'then_branch', then_branch
    )::text;
end
$$;

comment on function df.if_then_op(text, text) is 'Operator ?>; needs !> to complete it';

create function df.if_else_op(partial_if text, else_branch text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_partial jsonb := partial_if::jsonb;
begin
    if jsonb_typeof(v_partial) <> 'object' or not v_partial ? '_partial_if' then
        raise exception 'Invalid if-then-else: left side of !> must be a ?> expression'
            using errcode = 'P0001',
                hint = 'All these operators have one precedence and group to the left: put a branch of more than one step in parentheses, as in cond ?> (a ~> b) !> c.';
    end if;
    return df."if"(v_partial ->> 'condition', v_partial ->> 'then_branch', else_branch);
end
$$;

comment on function df.if_else_op(text, text) is 'Operator !>';

do $$
declare
    v_schema text;
begin
    if not has_schema_privilege('public', 'create') then
        raise exception 'the operators need CREATE on schema public, which role "%" does not have', current_user
            using errcode = '42501',
                hint = format('Run as its owner: GRANT CREATE ON SCHEMA public TO %I;', current_user);
    end if;
    foreach v_schema in array array['df', 'public'] loop
        execute format('create operator %I.~> (leftarg = text, rightarg = text, function = df.seq)', v_schema);
        execute format('create operator %I.|=> (leftarg = text, rightarg = text, function = df.as_op)', v_schema);
        execute format('create operator %I.& (leftarg = text, rightarg = text, function = df."join")', v_schema);
        execute format('create operator %I.| (leftarg = text, rightarg = text, function = df.race)', v_schema);
        execute format('create operator %I.?> (leftarg = text, rightarg = text, function = df.if_then_op)', v_schema);
        execute format('create operator %I.!> (leftarg = text, rightarg = text, function = df.if_else_op)', v_schema);
        execute format('create operator %I.@> (rightarg = text, function = df.loop_prefix_op)', v_schema);
    end loop;
end
$$;

-- From node text to the rows of df.nodes: one row per step, ids for children, and every rule of a whole
-- graph checked. Shared by df.start and df.explain.

-- Every node of a tree with its place. `sort` is the way from the root as slot numbers (1 left, 2 right,
-- 3 condition, 4.. extra), so its order is: parents first, then left, right, condition, extras.
create function df._walk(
    p_root jsonb, out sort integer[], out path text, out depth integer, out node jsonb
)
returns setof record
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
        with recursive walk (sort, path, depth, node) as (
            select array[]::integer[], 'root', 0, p_root
            union all
            select w.sort || c.slot, w.path || c.step, w.depth + 1, c.child
            from walk as w
            cross join lateral (
                values
                    (1, '.left', w.node -> 'left_node'),
                    (2, '.right', w.node -> 'right_node'),
                    (3, '.condition_node', w.node -> 'condition_node')
                union all
                select 3 + e.n::integer, format('.extra_nodes[%s]', e.n - 1), e.entry
                from jsonb_array_elements(
                    case jsonb_typeof(w.node -> 'extra_nodes') when 'array' then w.node -> 'extra_nodes' end
                ) with ordinality as e (entry, n)
            ) as c (slot, step, child)
            -- One level below the limit is enough to see that it is passed.
            where w.depth <= 256 and jsonb_typeof(c.child) is distinct from 'null' and c.child is not null
        )
        select w.sort, w.path, w.depth, w.node from walk as w;
end
$$;

comment on function df._walk(jsonb) is 'Every node of a tree with its place';

-- What is wrong with one node by itself; null: nothing.
create function df._node_fault(p_node jsonb, p_depth integer) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_type text;
    v_config json;
    v_problem text;
begin
    if p_depth > 256 then
        return 'Graph exceeds maximum nesting depth of 256. A chain of ~> nests to the left, so it can have '
            '257 steps; longer ones need groups in parentheses or a second workflow.';
    end if;
    if jsonb_typeof(p_node) <> 'object' then
        return 'Durofut children must be JSON objects';
    end if;
    if jsonb_typeof(p_node -> 'node_type') is distinct from 'string' then
        return 'node_type is missing';
    end if;
    v_type := p_node ->> 'node_type';
    if not df._is_node_type(v_type) then
        return df._unknown_node_type(v_type);
    end if;
    v_problem := df._misshapen(
        jsonb_typeof(p_node -> 'left_node'), jsonb_typeof(p_node -> 'right_node'),
        jsonb_typeof(p_node -> 'condition_node'), jsonb_typeof(p_node -> 'extra_nodes'),
        jsonb_typeof(p_node -> 'query'), jsonb_typeof(p_node -> 'result_name')
    );
    if v_problem is not null then
        return format('Malformed Durofut JSON with node_type ''%s'': %s', v_type, v_problem);
    end if;
    if jsonb_typeof(p_node -> 'condition_node') = 'object' and v_type not in ('IF', 'LOOP') then
        return format('condition_node is not valid for %s nodes', v_type);
    end if;
    if jsonb_typeof(p_node -> 'extra_nodes') = 'array' and v_type <> 'JOIN' then
        return format('extra_nodes is not valid for %s nodes', v_type);
    end if;
    if coalesce(jsonb_typeof(p_node -> 'options'), 'null') <> 'null' then
        if v_type <> 'SQL' then
            return format('options is not valid for %s nodes', v_type);
        end if;
        v_problem := df._sql_options_fault(p_node -> 'options');
        if v_problem is not null then
            return v_problem;
        end if;
    end if;
    if v_type in ('IF', 'LOOP', 'JOIN') and p_node ->> 'query' is not null then
        select t.value, t.problem into v_config, v_problem from df._try_json(p_node ->> 'query') as t;
        if v_problem is not null then
            return format('query in %s must be valid JSON config: %s', v_type, v_problem);
        end if;
        if json_typeof(v_config) <> 'object' then
            return format('query in %s must be a JSON config object', v_type);
        end if;
        if v_type = 'JOIN' and v_config -> 'extra_nodes' is not null then
            return 'extra_nodes in JOIN must be a first-class Durofut field, not embedded in query';
        end if;
        if v_type <> 'JOIN' and v_config -> 'condition_node' is not null then
            return format('condition_node in %s must be a first-class Durofut field, not embedded in query', v_type);
        end if;
    end if;
    return null;
end
$$;

comment on function df._node_fault(jsonb, integer) is 'What is wrong with one node by itself';

-- A configuration object as text with one more entry.
create function df._with_entry(p_config text, p_entry text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_config is null then
        return '{' || p_entry || '}';
    end if;
    return (
        select '{' || coalesce(
            string_agg(to_json(e.key)::text || ':' || e.value::text, ',' order by e.n) || ',', ''
        ) || p_entry || '}'
        from json_each(p_config::json) with ordinality as e (key, value, n)
    );
end
$$;

comment on function df._with_entry(text, text) is 'A configuration object with one more entry';

-- The rows of a graph, parents first; the first row is the root. Raises if the graph breaks a rule.
--
-- Ids are distinct by construction: multiples of an odd number, modulo 2^32, from a random start.
create function df._flatten(
    p_node text, out ord bigint, out id text, out node_type text, out query text, out result_name text,
    out left_node text, out right_node text, out options jsonb
)
returns setof record
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_root jsonb;
    v_start bigint := ('x' || right(gen_random_uuid()::text, 8))::bit(32)::bigint;
    v_fault text;
    v_row record;
begin
    begin
        v_root := p_node::jsonb;
    exception
        when data_exception then
            raise exception 'Invalid durable function graph: root: %', sqlerrm using errcode = 'XX000';
    end;
    for v_row in
        with numbered as materialized (
            select
                w.sort, w.path, w.depth, w.node, row_number() over (order by w.sort) as n
            from df._walk(v_root) as w
        ),
        named as materialized (
            select
                d.sort, d.path, d.depth, d.node, d.n, d.sort[cardinality(d.sort)] as slot,
                lpad(to_hex((v_start + d.n * 2654435761) & 4294967295), 8, '0') as id
            from numbered as d
        ),
        families as (
            select
                c.sort[1:cardinality(c.sort) - 1] as parent,
                max(c.id) filter (where c.slot = 1) as left_node,
                max(c.id) filter (where c.slot = 2) as right_node,
                max(c.id) filter (where c.slot = 3) as condition_node,
                string_agg('"' || c.id || '"', ',' order by c.n) filter (where c.slot > 3) as extra_nodes
            from named as c
            where c.slot is not null
            group by c.sort[1:cardinality(c.sort) - 1]
        )
        select
            n.n, n.id, n.path, n.depth, n.node, f.left_node, f.right_node, f.condition_node, f.extra_nodes
        from named as n
        left join families as f on f.parent = n.sort
        order by n.n
    loop
        v_fault := case
            when v_row.n > 10000
                then 'Workflow exceeds maximum node count of 10000. Let one workflow start another for a part of the work.'
            else df._node_fault(v_row.node, v_row.depth)
        end;
        if v_fault is not null then
            raise exception 'Invalid durable function graph: %: %', v_row.path, v_fault using errcode = 'XX000';
        end if;
        ord := v_row.n;
        id := v_row.id;
        node_type := v_row.node ->> 'node_type';
        query := v_row.node ->> 'query';
        if v_row.condition_node is not null then
            query := df._with_entry(query, '"condition_node":"' || v_row.condition_node || '"');
        elsif v_row.extra_nodes is not null then
            query := df._with_entry(query, '"extra_nodes":[' || v_row.extra_nodes || ']');
        end if;
        result_name := v_row.node ->> 'result_name';
        left_node := v_row.left_node;
        right_node := v_row.right_node;
        options := nullif(v_row.node -> 'options', 'null');
        return next;
    end loop;
end
$$;

comment on function df._flatten(text) is 'The rows of a graph; raises if it breaks a rule';

-- The strict reading of what is given to df.start: unknown and malformed nodes are errors.
create function df._start_step(p_text text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_node text;
    v_type text;
    v_problem text;
    v_helper text;
begin
    select p.node, p.node_type, p.problem into v_node, v_type, v_problem from df._parse_node(p_text) as p;
    if v_node is not null then
        return v_node;
    end if;
    if v_type is null then
        v_helper := df._misused_helper(p_text);
        if v_helper is not null then
            raise exception 'Invalid durable function: % cannot be used as a workflow step. Call % before df.start().',
                v_helper, v_helper using errcode = 'XX000';
        end if;
        return '{"node_type":"SQL","query":' || to_json(p_text)::text || '}';
    end if;
    if not df._is_node_type(v_type) then
        raise exception 'Invalid durable function: %', df._unknown_node_type(v_type) using errcode = 'XX000';
    end if;
    raise exception 'Invalid durable function: Malformed Durofut JSON with node_type ''%'': %', v_type, v_problem
        using errcode = 'XX000';
end
$$;

comment on function df._start_step(text) is 'The step that df.start is given';

-- What a workflow probably does not mean, told as a WARNING.

-- The steps after a loop that never ends: `@> 'a' ~> 'b'` is `(@> 'a') ~> 'b'`. Behind a condition that never
-- ends it is the branches.
--   A loop ends a side of a THEN if only right sides lead down to it.
create function df._warn_unreachable(p_node text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_path text;
begin
    if strpos(p_node, '"LOOP"') = 0 then
        return;
    end if;
    for v_path in
        with recursive places as materialized (
            select w.sort, w.path, w.node ->> 'node_type' as node_type, w.node from df._walk(p_node::jsonb) as w
        ),
        endless (sort) as (
            select p.sort from places as p
            where p.node_type = 'LOOP' and p.node -> 'condition_node' is null
                and not exists (
                    select from places as b
                    where b.node_type = 'BREAK' and b.sort[1:cardinality(p.sort)] = p.sort
                )
            union
            select t.sort from endless as e
            join places as t on t.node_type = 'THEN' and t.sort || 2 = e.sort
        )
        select r.path from endless as e
        join places as t on (t.node_type = 'THEN' and t.sort || 1 = e.sort)
            or (t.node_type = 'IF' and t.sort || 3 = e.sort)
        join places as r on r.sort = t.sort || case t.node_type when 'THEN' then 2 else 1 end
        order by r.sort
    loop
        raise warning 'the step at % can never run: the loop before it has neither a condition nor a df.break()', v_path
            using hint = 'All these operators group to the left: @> ''a'' ~> ''b'' is (@> ''a'') ~> ''b''. Put what is to be repeated in parentheses.';
    end loop;
end
$$;

comment on function df._warn_unreachable(text) is 'Warns of steps after a loop that never ends';

-- A ?> whose !> is missing: its text is no node, so it became a step of SQL that can only fail.
create function df._warn_half_if(p_node text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_path text;
begin
    if strpos(p_node, '_partial_if') = 0 then
        return;
    end if;
    for v_path in
        select w.path from df._walk(p_node::jsonb) as w
        where w.node ->> 'node_type' = 'SQL' and w.node ->> 'query' like '{"condition": %"_partial_if": true%'
        order by w.sort
    loop
        raise warning 'the step at % is half an if: a ?> without its !>', v_path
            using hint = 'Write cond ?> a !> b, or df.if(cond, a, b). All these operators group to the left: put a branch of more than one step in parentheses.';
    end loop;
end
$$;

comment on function df._warn_half_if(text) is 'Warns of a ?> without its !>';

create function df._warn_mistakes(p_node text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform df._warn_unreachable(p_node);
    perform df._warn_half_if(p_node);
end
$$;

comment on function df._warn_mistakes(text) is 'Warns of what a graph can hardly mean';

-- Operators side by side that look as if one bound tighter than another; none does.
create function df._warn_precedence(p_expression text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rest text := regexp_replace(
        p_expression, E'(?:[eE]?''(?:[^'']|'''')*''|\\$([A-Za-z_]*)\\$.*?\\$\\1\\$|"[^"]*")', 'x', 'g'
    );
    v_group text;
    v_signs text;
    v_rule text[];
begin
    loop
        v_group := coalesce(substring(v_rest from E'\\(([^()]*)\\)'), v_rest);
        foreach v_group in array string_to_array(v_group, ',') loop
            select string_agg(m.sign[1], ' ') into v_signs
            from regexp_matches(v_group, E'(~>|\\|=>|\\?>|!>|@>|&|\\|)', 'g') as m (sign);
            foreach v_rule slice 1 in array array[
                [E'~> .*(&|\\|)( |$)', 'a ~> b & c is (a ~> b) & c: the steps before & or | are a part of its first branch'],
                [E'(^| )(&|\\|) .*\\|=>', 'a & b |=> ''x'' is (a & b) |=> ''x'': it names the whole, not b'],
                ['(^| )& &( |$)', 'a & b & c is (a & b) & c, with an array in an array; df.join(a, b, c) is flat'],
                [E'(^| )\\| (.* )?&( |$)', 'a | b & c is (a | b) & c: the race is the first branch of the join'],
                ['!> .*~>', 'c ?> t !> e ~> f is (c ?> t !> e) ~> f: f runs after either branch'],
                [E'!> .*\\?>', 'c ?> t !> d ?> u !> e is (c ?> t !> d) ?> u !> e: the first if is the condition of the second'],
                ['@> .*&( |$)', '@> a & b is (@> a) & b: only a is repeated']
            ] loop
                if v_signs ~ v_rule[1] then
                    raise warning '%', v_rule[2] using hint = 'All these operators have one precedence and group to the left. Parentheses say what is meant.';
                end if;
            end loop;
            if v_signs is not null and v_group ~ '[^|<>!=]=([^>]|$)' then
                raise warning 'a ~> b = ''x'' is (a ~> b) = ''x'': a comparison, not a workflow'
                    using hint = 'All comparisons bind looser than these operators.';
            end if;
        end loop;
        exit when v_rest !~ E'\\([^()]*\\)';
        v_rest := regexp_replace(v_rest, E'\\([^()]*\\)', ' x ');
    end loop;
end
$$;

comment on function df._warn_precedence(text) is 'Warns of operators that group otherwise than they look';

-- Variables: key-value pairs of the calling role, of which df.start takes a copy.

create function df._refuse_in_workflow(p_function text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if df._in_workflow() then
        raise exception '%() cannot be called inside a workflow - set variables before starting the workflow', p_function
            using errcode = 'XX000';
    end if;
end
$$;

comment on function df._refuse_in_workflow(text) is 'Raises inside a workflow step';

create function df.setvar(name text, value text) returns text
language plpgsql strict
set search_path = pg_catalog, pg_temp
as $$
begin
    perform df._refuse_in_workflow('df.setvar');
    insert into df.vars (name, value, owner)
    values (setvar.name, setvar.value, quote_ident(current_user)::regrole)
    on conflict on constraint vars_pkey do update set value = excluded.value;
    perform df._mark_helper('df.setvar');
    return 'OK';
end
$$;

comment on function df.setvar(text, text) is 'Sets a variable of the calling role; {name} in step texts of workflows started later';

create function df.getvar(name text) returns text
language plpgsql strict
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select v.value from df.vars as v
        where v.owner = quote_ident(current_user)::regrole and v.name = getvar.name
    );
end
$$;

comment on function df.getvar(text) is 'A variable of the calling role; null if it is not set';

create function df.unsetvar(name text) returns text
language plpgsql strict
set search_path = pg_catalog, pg_temp
as $$
begin
    perform df._refuse_in_workflow('df.unsetvar');
    delete from df.vars as v where v.owner = quote_ident(current_user)::regrole and v.name = unsetvar.name;
    perform df._mark_helper('df.unsetvar');
    return 'OK';
end
$$;

comment on function df.unsetvar(text) is 'Removes a variable, if it is there';

create function df.clearvars() returns text
language plpgsql strict
set search_path = pg_catalog, pg_temp
as $$
begin
    perform df._refuse_in_workflow('df.clearvars');
    delete from df.vars as v where v.owner = quote_ident(current_user)::regrole;
    perform df._mark_helper('df.clearvars');
    return 'OK';
end
$$;

comment on function df.clearvars() is 'Removes all variables of the calling role';

-- Signals: a durable topic per instance. What is sent before anybody waits is kept; a wait takes the
-- first signal of its name after the one it took last. Numbers are given at commit, under the lock of
-- the instance's mailbox, so their order is that of the commits.

create table df._mailboxes (
    instance_id varchar(8) not null,
    last_seq bigint not null default 0,
    kept bigint not null default 0,
    constraint _mailboxes_pkey primary key (instance_id)
) with (fillfactor = 50);

comment on table df._mailboxes is 'The number of the last signal; the row to lock';
comment on column df._mailboxes.kept is 'How many signals are kept that somebody may still take; at most 10,000';

create table df._signals (
    id bigint generated always as identity,
    instance_id varchar(8) not null,
    name text not null,
    seq bigint,
    data text not null,
    dedup_id text,
    sent_by regrole not null,
    sent_at timestamptz not null default clock_timestamp(),
    constraint _signals_pkey primary key (instance_id, id)
);

comment on table df._signals is 'Signals, kept until nobody can take them any more';
comment on column df._signals.data is 'JSON text; empty: taken, and kept only so that its dedup_id is known';
comment on column df._signals.seq is 'The order of delivery; null only inside the sending transaction';

create index idx_signals_seq on df._signals (instance_id, name, seq);
create index idx_signals_unnumbered on df._signals (instance_id) where seq is null;
create unique index idx_signals_dedup on df._signals (instance_id, name, dedup_id) where dedup_id is not null;

create table df._signal_waiters (
    waiter_key text not null,
    instance_id varchar(8) not null,
    name text not null,
    after_seq bigint not null,
    engine_id text not null,
    constraint _signal_waiters_pkey primary key (instance_id, waiter_key)
);

comment on table df._signal_waiters is 'Who waits for a signal that has not been sent';

-- The message to a waiter: a queue of the engine is named after the wait.
create function df._send_signal(
    p_engine_id text, p_waiter_key text, p_answer text, p_visible_at timestamptz default null
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform duroxide.send_v1(
        p_engine_id, 6::smallint,
        '{"QueueMessage":{"instance":' || to_json(p_engine_id)::text || ',"name":' || to_json(p_waiter_key)::text
        || ',"data":' || to_json(p_answer)::text || '}}',
        p_visible_at
    );
end
$$;

comment on function df._send_signal(text, text, text, timestamptz) is 'Tells a waiter';

-- What a wait is answered: the number of the signal and what it carries.
create function df._signal_answer(p_seq bigint, p_data text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select '{"seq":' || p_seq || ',"data":' || p_data || '}'
$$;

comment on function df._signal_answer(bigint, text) is 'What a wait is answered';

-- Gives numbers to the signals of this transaction and tells who waits for them. It runs for each of
-- them, at commit; the first run serves all, taking mailboxes in the order of their ids, so that two such
-- transactions can't block each other. With a fixed snapshot it fails with 40001 if a wait began meanwhile.
create function df._deliver_signals() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_instances text[];
    v_full text;
    v_wait record;
begin
    select array_agg(distinct s.instance_id order by s.instance_id) into v_instances
    from df._signals as s
    where s.seq is null;
    if v_instances is null then
        return null;
    end if;
    insert into df._mailboxes as m (instance_id, last_seq, kept)
    select u.id, c.sent, c.sent
    from unnest(v_instances) with ordinality as u (id, n)
    cross join lateral (
        select count(*) as sent from df._signals as s where s.instance_id = u.id and s.seq is null
    ) as c
    order by u.n
    on conflict (instance_id) do update
    set last_seq = m.last_seq + excluded.last_seq, kept = m.kept + excluded.kept;

    select m.instance_id into v_full from df._mailboxes as m
    where m.instance_id = any (v_instances) and m.kept > 10000
    order by m.instance_id
    limit 1;
    if found then
        raise exception 'instance % has more than 10000 signals that it has not taken', v_full
            using errcode = '54000',
                hint = 'Wait until the workflow has taken some with df.wait_for_signal(), or put the data in a table and send one signal for many rows.';
    end if;

    update df._signals as s
    set seq = n.seq
    from (
        select u.instance_id, u.id,
            m.last_seq - count(*) over (partition by u.instance_id)
                + row_number() over (partition by u.instance_id order by u.id) as seq
        from df._signals as u
        join df._mailboxes as m on m.instance_id = u.instance_id
        where u.seq is null
    ) as n
    where s.instance_id = n.instance_id and s.id = n.id;

    for v_wait in
        delete from df._signal_waiters as w
        using df._signals as s
        where w.instance_id = any (v_instances)
            and s.instance_id = w.instance_id
            and s.name = w.name
            and s.seq = (
                select min(f.seq) from df._signals as f
                where f.instance_id = w.instance_id and f.name = w.name and f.seq > w.after_seq
            )
        returning w.engine_id, w.waiter_key, s.seq, s.data
    loop
        perform df._send_signal(
            v_wait.engine_id, v_wait.waiter_key, df._signal_answer(v_wait.seq, v_wait.data)
        );
    end loop;
    return null;
end
$$;

comment on function df._deliver_signals() is 'Numbers signals at commit and tells who waits for them';

create constraint trigger _signals_deliver after insert on df._signals
    deferrable initially deferred
    for each row execute function df._deliver_signals();

-- Forgets signals that nobody can take any more, under the lock of the mailbox.
create function df._prune_signals(p_instance_id text, p_name text, p_up_to_seq bigint) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    with useless as materialized (
        select s.id, s.dedup_id from df._signals as s
        where s.instance_id = p_instance_id and s.name = p_name and s.seq <= p_up_to_seq and s.data <> ''
    ),
    forgotten as (
        delete from df._signals as s using useless as u
        where s.instance_id = p_instance_id and s.id = u.id and u.dedup_id is null
    ),
    emptied as (
        update df._signals as s set data = '' from useless as u
        where s.instance_id = p_instance_id and s.id = u.id and u.dedup_id is not null
    )
    update df._mailboxes as m
    set kept = m.kept - n.useless
    from (select count(*) as useless from useless) as n
    where m.instance_id = p_instance_id and n.useless > 0;
end
$$;

comment on function df._prune_signals(text, text, bigint) is 'Forgets signals that nobody can take any more';

-- The worker begins a wait: the answer if the signal is there, else null, and then the answer comes as a
-- message to the queue `p_waiter_key` of `p_engine_id`. Repeating it changes nothing.
--   p_mode 'next': the first signal after number p_after_seq; 'latest': the newest after it; 'future':
--   none that has been sent already.
--   p_prune: nothing else of the workflow is under way, so signals up to p_after_seq are of no use any more.
create function df._claim_signal_v1(
    p_waiter_key text, p_instance_id text, p_name text, p_after_seq bigint, p_engine_id text,
    p_mode text default 'next', p_prune boolean default false
)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_last_seq bigint;
    v_answer text;
    v_after_seq bigint := p_after_seq;
begin
    -- A real update, so that a sender with an older snapshot notices that somebody waits.
    insert into df._mailboxes as m (instance_id) values (p_instance_id)
    on conflict (instance_id) do update set last_seq = m.last_seq
    returning m.last_seq into v_last_seq;
    if p_prune and p_after_seq > 0 then
        perform df._prune_signals(p_instance_id, p_name, p_after_seq);
    end if;
    if p_mode = 'future' then
        select w.after_seq into v_after_seq from df._signal_waiters as w
        where w.instance_id = p_instance_id and w.waiter_key = p_waiter_key;
        v_after_seq := coalesce(v_after_seq, v_last_seq);
    else
        select df._signal_answer(s.seq, s.data) into v_answer
        from df._signals as s
        where s.instance_id = p_instance_id and s.name = p_name and s.seq > p_after_seq
        order by case when p_mode = 'latest' then -s.seq else s.seq end
        limit 1;
    end if;
    if v_answer is null then
        insert into df._signal_waiters (waiter_key, instance_id, name, after_seq, engine_id)
        values (p_waiter_key, p_instance_id, p_name, v_after_seq, p_engine_id)
        on conflict (instance_id, waiter_key) do nothing;
    end if;
    return v_answer;
end
$$;

comment on function df._claim_signal_v1(text, text, text, bigint, text, text, boolean) is 'Begins to wait for a signal';

-- The worker gives a wait up. Whoever takes the waiter away tells the queue `p_waiter_key`: a sender the
-- signal, and this function 'null'. So that queue gets one message, however often this is repeated.
create function df._unclaim_signal_v1(p_waiter_key text, p_instance_id text) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_engine_id text;
begin
    perform from df._mailboxes as m where m.instance_id = p_instance_id for update;
    delete from df._signal_waiters as w
    where w.instance_id = p_instance_id and w.waiter_key = p_waiter_key
    returning w.engine_id into v_engine_id;
    if v_engine_id is null then
        return false;
    end if;
    perform df._send_signal(v_engine_id, p_waiter_key, 'null');
    return true;
end
$$;

comment on function df._unclaim_signal_v1(text, text) is 'Gives up waiting for a signal';

revoke execute on function df._send_signal(text, text, text, timestamptz) from public;
revoke execute on function df._deliver_signals() from public;
revoke execute on function df._prune_signals(text, text, bigint) from public;
revoke execute on function df._claim_signal_v1(text, text, text, bigint, text, text, boolean) from public;
revoke execute on function df._unclaim_signal_v1(text, text) from public;

-- df.start and how its request reaches the engine, all in the caller's transaction.

-- Refuses callers as whom no step could run.
create function df._check_submitter() returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_can_login boolean;
    v_superuser boolean;
begin
    select r.rolcanlogin, r.rolsuper into v_can_login, v_superuser
    from pg_roles as r where r.rolname = current_user;
    if not v_can_login then
        raise exception 'current_user "%" does not have LOGIN privilege. Steps run in sessions of the role that starts a workflow.', current_user
            using errcode = 'XX000', hint = format('ALTER ROLE %I LOGIN, or start as another role.', current_user);
    end if;
    if v_superuser and df._setting('enable_superuser_instances') <> 'on' then
        raise exception 'pg_durable: superuser instances are disabled. Start workflows as an ordinary role.'
            using errcode = 'XX000',
                hint = 'The owner of schema df can allow them: INSERT INTO df._settings VALUES (''enable_superuser_instances'', ''on'').';
    end if;
end
$$;

comment on function df._check_submitter() is 'Refuses callers as whom no step could run';

-- Writes a checked graph under a new instance id and asks the engine to start it.
create function df._write_instance(
    p_node text, p_label text, p_database text, p_vars jsonb,
    p_start_at timestamptz default null, p_idempotency_key text default null
)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_role regrole := quote_ident(current_user)::regrole;
    v_ids text[];
    v_types text[];
    v_queries text[];
    v_names text[];
    v_lefts text[];
    v_rights text[];
    v_options jsonb[];
    v_id text;
begin
    -- Everything is checked before anything is written.
    select
        array_agg(f.id order by f.ord), array_agg(f.node_type order by f.ord),
        array_agg(f.query order by f.ord), array_agg(f.result_name order by f.ord),
        array_agg(f.left_node order by f.ord), array_agg(f.right_node order by f.ord),
        array_agg(f.options order by f.ord)
    into v_ids, v_types, v_queries, v_names, v_lefts, v_rights, v_options
    from df._flatten(p_node) as f;

    for v_attempt in 1..10 loop
        -- ON CONFLICT also sees ids that row security hides, and says nothing about them.
        insert into df.instances (id, label, root_node, submitted_by, database, start_at, idempotency_key)
        values (
            right(gen_random_uuid()::text, 8), p_label, v_ids[1], v_role, p_database, p_start_at,
            p_idempotency_key
        )
        on conflict (id) do nothing
        returning id into v_id;
        exit when v_id is not null;
    end loop;
    if v_id is null then
        raise exception 'Failed to create instance: exhausted 10 attempts to find a free id'
            using errcode = 'XX000', hint = 'There are too many instances; remove old ones (setting retention_days).';
    end if;

    insert into df.nodes
        (id, instance_id, node_type, query, result_name, left_node, right_node, submitted_by, database, options)
    select n.id, v_id, n.node_type, n.query, n.result_name, n.left_node, n.right_node, v_role, p_database, n.options
    from unnest(v_ids, v_types, v_queries, v_names, v_lefts, v_rights, v_options)
        as n (id, node_type, query, result_name, left_node, right_node, options);

    perform df._warn_mistakes(p_node);
    insert into df._inbox (kind, instance_id, payload)
    values ('start', v_id, jsonb_build_object('vars', p_vars));
    return v_id;
end
$$;

comment on function df._write_instance(text, text, text, jsonb, timestamptz, text) is 'Writes a graph and asks the engine to start it';

-- The caller's variables; those set in this transaction too.
create function df._own_vars() returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select coalesce(jsonb_object_agg(v.name, v.value), '{}')
        from df.vars as v
        where v.owner = quote_ident(current_user)::regrole and v.value is not null
    );
end
$$;

comment on function df._own_vars() is 'The caller''s variables';

-- Here and in what else is called for each workflow, plans are made once a session (force_generic_plan holds in
-- all that is called from there): to plan anew takes longer than to run.
create function df.start(
    fut text, label text default null, database text default null, transaction_mode text default 'caller'
)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
declare
    v_node text;
begin
    if fut is null then
        raise exception 'argument 0 must not be null' using errcode = 'XX000', hint = 'df.start needs a workflow.';
    end if;
    if lower(transaction_mode) is distinct from 'caller' and lower(transaction_mode) is distinct from 'new' then
        raise exception 'invalid transaction_mode "%" for df.start(): expected ''caller'' or ''new''', transaction_mode
            using errcode = 'XX000';
    end if;
    v_node := df._start_step(fut);
    perform df._check_database(database);
    if lower(transaction_mode) = 'new' then
        return df._start_elsewhere(fut, label, database);
    end if;
    perform df._check_submitter();
    return df._write_instance(v_node, label, database, df._own_vars());
end
$$;

comment on function df.start(text, text, text, text) is 'Starts a workflow as part of this transaction and returns its id';

create function df._check_database(p_database text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_database is not null and not exists (select from pg_database as d where d.datname = p_database) then
        raise exception 'database "%" does not exist', p_database using errcode = 'XX000';
    end if;
end
$$;

comment on function df._check_database(text) is 'Refuses a database that does not exist';

-- The snapshot of a graph, as the worker reads it: nodes by id, in the order of their ids.
create function df._graph_text(p_instance_id text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select '{"instance_id":' || to_json(i.id)::text || ',"root_node_id":' || to_json(i.root_node)::text
            || ',"nodes":{' || (
                select string_agg(
                    to_json(n.id)::text || ':{"id":' || to_json(n.id)::text
                    || ',"node_type":' || to_json(n.node_type)::text
                    || ',"query":' || coalesce(to_json(n.query)::text, 'null')
                    || ',"result_name":' || coalesce(to_json(n.result_name)::text, 'null')
                    || ',"left_node":' || coalesce(to_json(n.left_node)::text, 'null')
                    || ',"right_node":' || coalesce(to_json(n.right_node)::text, 'null')
                    || ',"submitted_by":' || to_json(pg_get_userbyid(n.submitted_by))::text
                    || ',"database":' || coalesce(to_json(n.database)::text, 'null')
                    || coalesce(',"options":' || n.options::text, '') || '}',
                    ',' order by n.id collate "C"
                )
                from df.nodes as n
                where n.instance_id = i.id
            ) || '}}'
        from df.instances as i
        where i.id = p_instance_id
    );
end
$$;

comment on function df._graph_text(text) is 'A graph as one JSON text';

-- A start message: the frozen graph goes to df._snapshots, and its hash into the input.
create function df._send_start(p_instance_id text, p_payload jsonb) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_label text;
    v_status text;
    v_start_at timestamptz;
    v_graph text := df._graph_text(p_instance_id);
    v_hash text := 'sha256:' || encode(sha256(convert_to(v_graph, 'UTF8')), 'hex');
    v_input text;
begin
    select i.label, i.status, i.start_at into v_label, v_status, v_start_at
    from df.instances as i where i.id = p_instance_id;
    if v_status <> 'pending' or exists (select from df._snapshots as s where s.instance_id = p_instance_id) then
        raise exception 'Instance % was already started', p_instance_id using errcode = '55000';
    end if;
    if v_graph is null then
        raise exception 'Instance % has no nodes', p_instance_id using errcode = '55000';
    end if;
    insert into df._snapshots (instance_id, hash, graph) values (p_instance_id, v_hash, v_graph);
    v_input := '{"instance_id":' || to_json(p_instance_id)::text
        || coalesce(',"label":' || to_json(v_label)::text, '')
        || ',"vars":{' || coalesce(
            (
                select string_agg(to_json(v.key)::text || ':' || to_json(v.value)::text, ',' order by v.key collate "C")
                from jsonb_each_text(p_payload -> 'vars') as v
                where v.value is not null
            ), ''
        )
        || '},"loop_iteration":0,"graph_ref":' || to_json(v_hash)::text
        || coalesce(',"settings":' || df._pinned_settings(), '') || '}';
    perform duroxide.send_v1(
        p_instance_id, 1::smallint,
        '{"StartOrchestration":{"instance":' || to_json(p_instance_id)::text
        || ',"orchestration":"pg_durable::orchestration::execute-function-graph","input":' || to_json(v_input)::text
        || ',"version":null,"parent_instance":null,"parent_id":null,"execution_id":1}}',
        v_start_at
    );
end
$$;

comment on function df._send_start(text, jsonb) is 'Freezes a graph and sends the start message';

revoke execute on function df._send_start(text, jsonb) from public;
revoke execute on function df._graph_text(text) from public;

-- df.start with options, an object:
--   vars             {"name": "value"}, over the caller's variables
--   idempotency_key  text; a second start of the same role with it starts nothing
--   on_conflict      then: "return" the id of the first (the default), or "error"
--   start_at         the time of the first step; or
--   delay            an interval from now
--   database         as the argument of the other form
create function df.start(fut text, options jsonb, label text default null) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
declare
    v_database text := options ->> 'database';
    v_key text := options ->> 'idempotency_key';
    v_start_at timestamptz;
    v_vars jsonb;
    v_constraint text;
    v_node text;
    v_id text;
begin
    perform df._require_argument(0, fut), df._require_argument(1, options::text);
    perform df._check_start_options(options);
    if options ->> 'start_at' is not null or options ->> 'delay' is not null then
        v_start_at := df._start_time(options ->> 'start_at', options ->> 'delay');
    end if;
    v_node := df._start_step(fut);
    perform df._check_database(v_database);
    perform df._check_submitter();
    if v_key is not null then
        -- Starts with one key take turns, so that the second finds the first.
        perform pg_advisory_xact_lock(1346982471, hashtext(current_user || E'\n' || v_key));
        select i.id into v_id from df.instances as i
        where i.submitted_by = quote_ident(current_user)::regrole and i.idempotency_key = v_key;
        if v_id is not null and options ->> 'on_conflict' = 'error' then
            raise exception 'idempotency key "%" was used for instance %', v_key, v_id using errcode = '23505';
        end if;
        if v_id is not null then
            return v_id;
        end if;
    end if;
    v_vars := df._own_vars() || coalesce(options -> 'vars', '{}');
    if v_key is null then
        return df._write_instance(v_node, label, v_database, v_vars, v_start_at);
    end if;
    begin
        return df._write_instance(v_node, label, v_database, v_vars, v_start_at, v_key);
    exception
        when unique_violation then
            get stacked diagnostics v_constraint = constraint_name;
            if v_constraint <> 'idx_instances_idempotency_key' then
                raise;
            end if;
            raise exception 'a workflow with idempotency key "%" was started after the snapshot of this transaction', v_key
                using errcode = '40001', hint = 'Try again in a new transaction, which sees it.';
    end;
end
$$;

comment on function df.start(text, jsonb, text) is 'Starts a workflow with options: vars, idempotency_key, on_conflict, start_at, delay, database';

create function df._start_time(p_start_at text, p_delay text) returns timestamptz
language plpgsql stable
as $$
declare
    v_option constant text := case when p_delay is null then 'start_at' else 'delay' end;
    v_start_at timestamptz;
begin
    begin
        v_start_at := coalesce(p_start_at::timestamptz, clock_timestamp() + p_delay::interval);
    exception
        when data_exception then
            raise exception 'option "%" of df.start(): %', v_option, sqlerrm using errcode = sqlstate,
                hint = 'start_at is a time such as "2030-01-31 08:00+01", delay an interval such as "2 hours".';
    end;
    if not isfinite(v_start_at) then
        raise exception 'option "%" of df.start() must lead to a point in time, not to %', v_option, v_start_at
            using errcode = 'XX000', hint = 'Leave it out to start at once, or wait for a signal to start some day.';
    end if;
    return v_start_at;
end
$$;

comment on function df._start_time(text, text) is 'The time of the first step, of the options start_at and delay';

create function df._check_start_options(p_options jsonb) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_unknown text;
begin
    if jsonb_typeof(p_options) <> 'object' then
        raise exception 'the options of df.start() must be a JSON object' using errcode = 'XX000';
    end if;
    select min(k.key) into v_unknown from jsonb_object_keys(p_options) as k (key)
    where k.key not in ('vars', 'idempotency_key', 'on_conflict', 'start_at', 'delay', 'database');
    if v_unknown is not null then
        raise exception 'df.start() has no option "%"', v_unknown using errcode = 'XX000',
            hint = 'Options are vars, idempotency_key, on_conflict, start_at, delay and database.';
    end if;
    if p_options ->> 'on_conflict' not in ('return', 'error') then
        raise exception 'option "on_conflict" of df.start() must be "return" or "error", not "%"', p_options ->> 'on_conflict'
            using errcode = 'XX000';
    end if;
    if jsonb_typeof(p_options -> 'vars') <> 'object' then
        raise exception 'option "vars" of df.start() must be a JSON object' using errcode = 'XX000';
    end if;
    if p_options ? 'start_at' and p_options ? 'delay' then
        raise exception 'options "start_at" and "delay" of df.start() exclude each other' using errcode = 'XX000';
    end if;
end
$$;

comment on function df._check_start_options(jsonb) is 'Refuses unknown and contradictory options';

-- Steering workflows: requests that a trigger turns into messages, all in the caller's transaction.

-- The status of an instance that the caller may steer.
create function df._steerable(p_instance_id text) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_status text;
begin
    select i.status into v_status from df.instances as i where i.id = p_instance_id;
    if not found then
        raise exception 'Instance not found or access denied: %', p_instance_id using errcode = 'XX000';
    end if;
    return v_status;
end
$$;

comment on function df._steerable(text) is 'The status of an instance that the caller may steer';

create function df.cancel(instance_id text, reason text default 'Cancelled by user') returns text
language plpgsql strict
set search_path = pg_catalog, pg_temp
as $$
declare
    v_status text := df._steerable(instance_id);
begin
    if v_status in ('completed', 'failed', 'cancelled') then
        raise notice 'instance % is already %', instance_id, v_status;
    else
        insert into df._inbox (kind, instance_id, payload)
        values ('cancel', cancel.instance_id, jsonb_build_object('reason', reason));
    end if;
    return format('Instance %s cancelled: %s', instance_id, reason);
end
$$;

comment on function df.cancel(text, text) is 'Cancels a workflow as part of this transaction: once that has committed, none of its steps commits any more';

create function df.signal(instance_id text, signal_name text, signal_data text, dedup_id text) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
declare
    v_status text;
    v_data text;
begin
    if instance_id is null or signal_name is null or signal_data is null then
        return null;
    end if;
    if instance_id = '' then
        raise exception 'Instance ID cannot be empty' using errcode = 'XX000';
    end if;
    if signal_name = '' then
        raise exception 'Signal name cannot be empty' using errcode = 'XX000';
    end if;
    v_status := df._steerable(instance_id);
    if v_status in ('completed', 'failed', 'cancelled') then
        raise exception 'Instance % is already %', instance_id, v_status
            using errcode = '55000', hint = 'Nobody would ever receive the signal.';
    end if;
    if octet_length(signal_data) > 1048576 then
        raise exception 'signal data has % bytes, at most 1048576 are allowed', octet_length(signal_data)
            using errcode = '54000', hint = 'Put the data in a table and send its key.';
    end if;
    v_data := case
        when (select t.value is not null from df._try_json(signal_data) as t) then df._compact_json(signal_data)
        else to_json(signal_data)::text
    end;
    insert into df._inbox (kind, instance_id, payload)
    values (
        'signal', signal.instance_id,
        jsonb_build_object('name', signal_name, 'data', v_data, 'dedup_id', dedup_id)
    );
    return 'OK';
end
$$;

comment on function df.signal(text, text, text, text) is 'Like df.signal of three arguments; a second signal with the same name and dedup_id is dropped';

create function df.signal(instance_id text, signal_name text, signal_data text default '{}') returns text
language plpgsql strict
set search_path = pg_catalog, pg_temp
as $$
begin
    return df.signal(instance_id, signal_name, signal_data, null);
end
$$;

comment on function df.signal(text, text, text) is 'Sends a signal to a workflow as part of this transaction; sent before anybody waits, it is kept';

create function df.pause(instance_id text) returns text
language plpgsql strict
set search_path = pg_catalog, pg_temp
as $$
declare
    v_status text := df._steerable(instance_id);
begin
    if v_status in ('completed', 'failed', 'cancelled') then
        raise exception 'Instance % is already %', instance_id, v_status using errcode = '55000';
    end if;
    insert into df._inbox (kind, instance_id) values ('pause', pause.instance_id);
    return format('Instance %s paused', instance_id);
end
$$;

comment on function df.pause(text) is 'Asks that a workflow begin no further step until df.resume; what runs goes on to its end';

create function df.resume(instance_id text) returns text
language plpgsql strict
set search_path = pg_catalog, pg_temp
as $$
declare
    v_status text := df._steerable(instance_id);
begin
    if v_status in ('completed', 'failed', 'cancelled') then
        raise exception 'Instance % is already %', instance_id, v_status using errcode = '55000';
    end if;
    insert into df._inbox (kind, instance_id) values ('resume', resume.instance_id);
    return format('Instance %s resumed', instance_id);
end
$$;

comment on function df.resume(text) is 'Ends df.pause';

create function df.run(instance_id text default null) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if instance_id is not null then
        perform df._steerable(instance_id);
    end if;
    perform pg_notify('duroxide', 'turns');
    return coalesce('Triggered run for instance: ' || instance_id, 'Triggered run for all pending instances');
end
$$;

comment on function df.run(text) is 'Lets workers look for work at once. Never needed: they are told of it, and look by themselves';

-- The trigger's side: with the owner's rights, on an instance that the policy let the caller name.

-- What is sent to a workflow that is to start later is due together with its start: the engine keeps messages
-- to an instance that it does not know for minutes only.

-- The lock is the one for which steps that are about to commit have to wait, and that waits for them.
create function df._send_cancel(p_instance_id text, p_reason text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_status text;
    v_due timestamptz;
begin
    select i.status, case when i.start_at > clock_timestamp() then i.start_at end into v_status, v_due
    from df.instances as i where i.id = p_instance_id for update;
    if v_status not in ('pending', 'running') then
        return;
    end if;
    update df.instances as i
    set status = 'cancelled', error = 'canceled: ' || p_reason, completed_at = clock_timestamp(),
        updated_at = clock_timestamp(), cancelled_in = pg_current_xact_id()
    where i.id = p_instance_id;
    delete from df._signal_waiters as w where w.instance_id = p_instance_id;
    perform duroxide.send_v1(
        p_instance_id, 8::smallint,
        '{"CancelInstance":{"instance":' || to_json(p_instance_id)::text
        || ',"reason":' || to_json(p_reason)::text || '}}',
        v_due
    );
end
$$;

comment on function df._send_cancel(text, text) is 'Marks an instance cancelled and tells the engine';

-- A pause is told to the orchestration through its queue `pg_durable::pause`, as {"paused": true|false}.
create function df._send_pause(p_instance_id text, p_paused boolean) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_start_at timestamptz;
begin
    update df.instances as i
    set paused_at = case when p_paused then clock_timestamp() end, updated_at = clock_timestamp()
    where i.id = p_instance_id and i.status in ('pending', 'running') and (i.paused_at is null) = p_paused
    returning i.start_at into v_start_at;
    if found then
        perform df._send_signal(
            p_instance_id, 'pg_durable::pause', case when p_paused then '{"paused":true}' else '{"paused":false}' end,
            case when v_start_at > clock_timestamp() then v_start_at end
        );
    end if;
end
$$;

comment on function df._send_pause(text, boolean) is 'Marks an instance paused or not and tells the engine';

-- The worker tells a loop inside a workflow, which is an instance of the engine, whether the workflow is
-- paused. The lock makes it take turns with df.pause and df.resume, so the last message is the true one;
-- it fails soon behind an open transaction, and the worker asks again.
create function df._relay_pause_v1(p_instance_id text, p_engine_id text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '1s'
as $$
declare
    v_paused boolean;
begin
    select i.paused_at is not null into v_paused
    from df.instances as i
    where i.id = p_instance_id and i.status in ('pending', 'running')
    for share;
    if found then
        perform df._send_signal(
            p_engine_id, 'pg_durable::pause', case when v_paused then '{"paused":true}' else '{"paused":false}' end
        );
    end if;
end
$$;

comment on function df._relay_pause_v1(text, text) is 'Tells a loop inside a workflow whether that is paused';

-- Turns a request into a message. It runs after the policy let the row in, with the owner's rights, for
-- whoever inserted; so only a trigger may call it (a user's own table must not).
create function df._consume_request() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
    delete from df._inbox as b where b.seq = new.seq;
    case new.kind
        when 'start' then
            perform df._send_start(new.instance_id, new.payload);
        when 'cancel' then
            perform df._send_cancel(new.instance_id, coalesce(new.payload ->> 'reason', 'Cancelled by user'));
        when 'signal' then
            insert into df._signals (instance_id, name, data, dedup_id, sent_by)
            values (
                new.instance_id, new.payload ->> 'name', (new.payload ->> 'data')::json::text,
                new.payload ->> 'dedup_id', new.submitted_by
            )
            on conflict (instance_id, name, dedup_id) where dedup_id is not null do nothing;
        else
            perform df._send_pause(new.instance_id, new.kind = 'pause');
    end case;
    return null;
end
$$;

comment on function df._consume_request() is 'Turns a request into a message to the engine';

revoke execute on function df._send_cancel(text, text) from public;
revoke execute on function df._send_pause(text, boolean) from public;
revoke execute on function df._relay_pause_v1(text, text) from public;
revoke execute on function df._consume_request() from public;

create trigger _inbox_consume after insert on df._inbox
    for each row execute function df._consume_request();

-- df.start that commits by itself, through a second connection of the caller's to this database. It
-- needs the extension dblink, and a server `pg_durable_loopback` of dblink_fdw with a user mapping for
-- the caller that says how to log in.
create function df._start_elsewhere(p_fut text, p_label text, p_database text) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_schema text := (
        select quote_ident(n.nspname) from pg_extension as e
        join pg_namespace as n on n.oid = e.extnamespace where e.extname = 'dblink'
    );
    v_slot integer;
    v_state text;
    v_words text;
    v_context text;
    v_id text;
begin
    if df._in_workflow() then
        raise exception 'df.start() with transaction_mode => ''new'' cannot be called inside a workflow: a step takes effect as a whole or not at all'
            using errcode = 'XX000';
    end if;
    perform df._check_submitter();
    if v_schema is null
        or not exists (select from pg_foreign_server as f where f.srvname = 'pg_durable_loopback') then
        raise exception 'df.start() with transaction_mode => ''new'' needs a second connection, which SQL alone can''t open'
            using errcode = '0A000',
                hint = 'Call df.start on another connection of the application; or CREATE EXTENSION dblink, a server pg_durable_loopback of dblink_fdw and a user mapping for this role.';
    end if;
    v_slot := df._take_slot();
    perform df._close_launch(v_schema);  -- one that was interrupted
    begin
        execute format('select %s.dblink_connect(''pg_durable_launch'', ''pg_durable_loopback'')', v_schema);
        execute format('select %s.dblink_exec(''pg_durable_launch'', $1)', v_schema)
            using 'set lock_timeout = 30000; set statement_timeout = 30000; set df.in_workflow = ''false''';
        execute format('select t.id from %s.dblink(''pg_durable_launch'', $1) as t (id text)', v_schema)
            into v_id using format('select df.start(%L, %L, %L)', p_fut, p_label, p_database);
    exception
        -- A time-out over there is a cancelled query here, which "others" does not catch.
        when query_canceled or others then
            get stacked diagnostics v_state = returned_sqlstate, v_words = message_text,
                v_context = pg_exception_context;
    end;
    perform df._close_launch(v_schema);
    perform pg_advisory_unlock(1346982470, v_slot);
    if v_state = '57014' and strpos(v_context, 'dblink connection named') = 0 then
        raise exception using errcode = v_state, message = v_words;  -- it is this session that was interrupted
    end if;
    if v_id is null then
        raise exception '%', case v_state
            when '55P03' then 'pg_durable: transaction_mode => ''new'' launch hit lock_timeout after 30000ms: '
            when '57014' then 'pg_durable: transaction_mode => ''new'' launch hit statement_timeout after 30000ms: '
            else 'df.start() on new transaction failed: '
        end || v_words using errcode = 'XX000';
    end if;
    return v_id;
end
$$;

comment on function df._start_elsewhere(text, text, text) is 'df.start that commits by itself';

create function df._close_launch(p_schema text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format('select %s.dblink_disconnect(''pg_durable_launch'')', p_schema);
exception
    when connection_does_not_exist then
        null;
end
$$;

comment on function df._close_launch(text) is 'Closes the second connection of a launch';

-- One of the launch slots of the whole server, as an advisory lock of this session.
create function df._take_slot() returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_slots integer := df._setting('max_new_transaction_starts')::integer;
    v_seconds integer := df._setting('new_transaction_start_timeout')::integer;
    v_deadline timestamptz := clock_timestamp() + make_interval(secs => v_seconds);
begin
    loop
        for v_slot in 0..v_slots - 1 loop
            if pg_try_advisory_lock(1346982470, v_slot) then
                return v_slot;
            end if;
        end loop;
        if clock_timestamp() >= v_deadline then
            raise exception 'pg_durable: transaction_mode => ''new'' launch limit reached (max_new_transaction_starts=%). Timed out after %s waiting for a launch slot; try again, or raise the setting', v_slots, v_seconds
                using errcode = 'XX000';
        end if;
        perform pg_sleep(0.1);
    end loop;
end
$$;

comment on function df._take_slot() is 'Waits for a launch slot';

-- How a workflow is doing, and waiting for its end. Row security decides whose can be seen. In PL/pgSQL, whose
-- plans a session keeps: these are polled.

create function df.status(instance_id text) returns text
language plpgsql strict
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select i.status from df.instances as i where i.id = status.instance_id
    );
end
$$;

comment on function df.status(text) is 'pending, running, completed, failed or cancelled; null for an unknown instance';

create function df.result(instance_id text) returns text
language plpgsql strict
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select coalesce(n.result, s.result)::text
        from df.instances as i
        join df.nodes as n on n.instance_id = i.id and n.id = i.root_node
        left join df.nodes as s on s.instance_id = n.instance_id and s.id = n.result_from
        -- The root is completed too where a df.break() outside of a loop made the workflow fail.
        where i.id = result.instance_id and i.status = 'completed' and n.status = 'completed'
    );
end
$$;

comment on function df.result(text) is 'The result document of a completed workflow; else null';

create function df.error(instance_id text) returns jsonb
language plpgsql strict
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select jsonb_build_object('message', i.error) || coalesce(i.error_details, '{}')
            || jsonb_build_object('message', i.error)
        from df.instances as i
        where i.id = error.instance_id and i.error is not null
    );
end
$$;

comment on function df.error(text) is 'Why a workflow failed or was cancelled, as an object; else null';

create function df.await_instance(instance_id text, timeout_seconds integer default 30) returns text
language plpgsql strict
set search_path = pg_catalog, pg_temp
as $$
declare
    v_deadline timestamptz := clock_timestamp() + make_interval(secs => timeout_seconds);
    v_pause double precision := 0.002;
    v_status text;
    v_created_at timestamptz;
begin
    if df._in_workflow() then
        raise exception 'df.await_instance() cannot be called inside a workflow: it would hold the place of a step'
            using errcode = 'XX000', hint = 'Let the other workflow be a part of this one.';
    end if;
    if timeout_seconds <= 0 then
        raise exception 'Timeout must be positive' using errcode = 'XX000';
    end if;
    perform df._mark_helper('df.await_instance');
    loop
        select i.status, i.created_at into v_status, v_created_at
        from df.instances as i where i.id = await_instance.instance_id;
        if not found then
            raise exception 'Instance not found: %', instance_id using errcode = '22000';
        end if;
        if v_status in ('completed', 'failed', 'cancelled') then
            return v_status;
        end if;
        if v_status = 'pending' and v_created_at = now() and pg_current_xact_id_if_assigned() is not null then
            raise exception 'Instance % was started in this transaction: it begins to run when that commits', instance_id
                using errcode = '22000', hint = 'COMMIT first, then wait.';
        end if;
        if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
            raise exception 'df.await_instance() can''t see changes under isolation level %: instance % stays % in this snapshot',
                upper(current_setting('transaction_isolation')), instance_id, v_status
                using errcode = '22000', hint = 'Wait outside of this transaction, or under READ COMMITTED.';
        end if;
        if clock_timestamp() >= v_deadline then
            raise exception 'Timeout after %s waiting for instance % (status: %). It goes on; wait again, or look at df.explain(''%'').',
                timeout_seconds, instance_id, v_status, instance_id using errcode = '22000';
        end if;
        perform pg_sleep(least(v_pause, extract(epoch from v_deadline - clock_timestamp())));
        v_pause := least(v_pause * 1.5, 0.1);
    end loop;
end
$$;

comment on function df.await_instance(text, integer) is 'Waits until a workflow has ended and returns its status';

create function df.wait_for_completion(instance_id text, timeout_seconds integer default 30) returns text
language plpgsql strict
set search_path = pg_catalog, pg_temp
as $$
begin
    raise warning 'df.wait_for_completion() is deprecated; use df.await_instance() instead';
    return df.await_instance(instance_id, timeout_seconds);
end
$$;

comment on function df.wait_for_completion(text, integer) is 'Deprecated: df.await_instance';

-- What sessions may see of the engine's state. The views run with the owner's rights, for the engine's
-- tables are nobody else's, and say themselves whose instances are shown: the caller's, or all to those
-- whom row security does not bind.

create function df._sees_all() returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select r.rolsuper or r.rolbypassrls or r.oid = c.relowner
        from pg_roles as r
        cross join pg_class as c
        where r.rolname = current_user and c.oid = 'df.instances'::regclass
    );
end
$$;

comment on function df._sees_all() is 'Whether row security of df does not bind the caller';

create view df._engine_instances with (security_barrier) as
select
    e.instance_id, e.orchestration_name, e.orchestration_version, e.current_execution_id, e.status, e.output
from duroxide.instances as e
where exists (
    select from df.instances as i
    where i.id = e.instance_id
        and (
            i.submitted_by = (select quote_ident(current_user)::regrole)
            or (select df._sees_all())
        )
);

comment on view df._engine_instances is 'The engine''s state of the workflows that the caller may see';

create view df._engine_executions with (security_barrier) as
select
    x.instance_id, x.execution_id, x.status, x.output, x.started_at, x.completed_at, (
        select coalesce(sum(h.last_event_id - h.first_event_id + 1), 0)::bigint
        from duroxide.history_log as h
        where h.instance_id = x.instance_id and h.execution_id = x.execution_id
    ) as event_count
from duroxide.executions as x
where exists (
    select from df.instances as i
    where i.id = x.instance_id
        and (
            i.submitted_by = (select quote_ident(current_user)::regrole)
            or (select df._sees_all())
        )
);

comment on view df._engine_executions is 'The executions of the workflows that the caller may see';

-- What the stored statuses of nodes mean together. The worker writes a status when something happens to
-- a node; that a branch was not taken, a race lost or an iteration superseded is seen only in the whole.

-- The children of a node in the order in which people read them.
create function df._children(
    p_node_type text, p_query text, p_left text, p_right text, out place bigint, out id text
)
returns setof record
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select c.place, c.id
    from (
        values
            (case p_node_type when 'IF' then 2 else 1 end, p_left),
            (case p_node_type when 'IF' then 3 else 2 end, p_right)
        union all
        -- The cast is inside the CASE: in a WHERE it could be made first, and fail on a SQL node's text.
        select
            case p_node_type when 'IF' then 1 else 2 end,
            case when p_node_type in ('IF', 'LOOP') then p_query::json ->> 'condition_node' end
        union all
        select 2 + e.n, e.id
        from json_array_elements_text(
            case when p_node_type = 'JOIN' then p_query::json -> 'extra_nodes' end
        ) with ordinality as e (id, n)
    ) as c (place, id)
    where c.id is not null
$$;

comment on function df._children(text, text, text, text) is 'The children of a node in reading order';

-- Whether the nodes of an instance can be walked through: none has two parents, the root has none, and
-- configuration can be read. Those that df.start has written can; the worker refuses others.
create function df._is_tree(p_instance_id text) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return not exists (
        select
        from (
            select c.id
            from df.nodes as n
            cross join lateral df._children(n.node_type, n.query, n.left_node, n.right_node) as c
            where n.instance_id = p_instance_id
            union all
            select i.root_node from df.instances as i where i.id = p_instance_id
        ) as u (id)
        group by u.id
        having count(*) > 1
    );
exception
    when data_exception then
        return false;
end
$$;

comment on function df._is_tree(text) is 'Whether the nodes of an instance can be walked through';

-- For every node the status to show, and the ancestor that it follows from.
--
-- A stamp is "<scope>::<generation>"; a scope below the root names its parents as
-- "<parent scope>::<generation>::<node>". A stamp is superseded when its scope, or one that it lies in,
-- has been stamped with a later generation.
create function df._inferred(p_instance_id text, out id text, out status text, out ancestor text)
returns setof record
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with recursive stamped as (
        select
            n.id, n.node_type, n.query, n.left_node, n.right_node, n.status,
            string_to_array(n.status_details ->> 'execution_id', '::') as parts
        from df.nodes as n
        where n.instance_id = p_instance_id
    ),
    -- A malformed stamp is ignored.
    nodes as (
        select
            s.id, s.node_type, s.query, s.left_node, s.right_node, s.status,
            case when m.well_formed then s.parts end as parts
        from stamped as s
        cross join lateral (
            select cardinality(s.parts) % 2 = 0 and bool_and(p.part ~ '^[0-9]{1,15}$') filter (where p.n % 2 = 0)
            from unnest(s.parts) with ordinality as p (part, n)
        ) as m (well_formed)
    ),
    scopes as (
        select
            n.parts[1:cardinality(n.parts) - 1] as scope, max(n.parts[cardinality(n.parts)]::bigint) as generation
        from nodes as n
        where n.parts is not null
        group by 1
    ),
    judged as (
        select
            n.id, n.node_type, n.query, n.left_node, n.right_node, n.status,
            n.parts[cardinality(n.parts)]::bigint as generation,
            exists (
                select
                from generate_series(2, cardinality(n.parts), 2) as k
                join scopes as s on s.scope = n.parts[1:k - 1]
                where s.generation > n.parts[k]::bigint
            ) as superseded
        from nodes as n
    ),
    walk (id, status, ancestor, ended, highest, highest_id) as (
        select j.id, v.status, null::text, v.ended, j.generation, j.id::text
        from df.instances as i
        join judged as j on j.id = i.root_node
        cross join lateral (
            select
                case when j.status in ('completed', 'failed') and j.superseded then 'pending' else j.status end,
                case when j.status in ('completed', 'failed') and not j.superseded then j.id::text end
        ) as v (status, ended)
        where i.id = p_instance_id and (select df._is_tree(p_instance_id))
        union all
        select j.id, v.status, v.ancestor, v.ended, h.highest, h.highest_id
        from walk as w
        join judged as p on p.id = w.id
        cross join lateral df._children(p.node_type, p.query, p.left_node, p.right_node) as c
        join judged as j on j.id = c.id
        cross join lateral (
            select
                j.status in ('completed', 'failed') and not j.superseded,
                j.status in ('completed', 'failed') and j.superseded,
                j.left_node is null
        ) as f (final, stale, leaf)
        cross join lateral (
            select
                case
                    when f.final then j.status
                    when w.ended is null then case when f.stale then 'pending' else j.status end
                    -- A step that still ran when its race was decided was cancelled.
                    when j.status = 'running' and f.leaf and not j.superseded then 'cancelled'
                    else 'skipped'
                end,
                case
                    when f.final then null
                    when w.ended is not null then w.ended
                    when f.stale then w.highest_id
                end,
                case when f.final then j.id::text else w.ended end
        ) as v (status, ancestor, ended)
        cross join lateral (
            select
                greatest(w.highest, j.generation),
                case when w.highest >= j.generation or j.generation is null then w.highest_id else j.id::text end
        ) as h (highest, highest_id)
    )
    select
        n.id,
        case
            when i.status = 'cancelled' and coalesce(w.status, n.status) = 'running' then 'cancelled'
            when i.status = 'cancelled' and coalesce(w.status, n.status) = 'pending' then 'skipped'
            else coalesce(w.status, n.status)
        end,
        w.ancestor
    from nodes as n
    join df.instances as i on i.id = p_instance_id
    left join walk as w on w.id = n.id
$$;

comment on function df._inferred(text) is 'The status to show for every node of an instance';

create function df.instance_nodes(instance_id_param text)
returns table (
    node_id text, node_type text, query text, result_name text, left_node text, right_node text, status text,
    result text, status_details text, inferred_status text, inferred_status_from_ancestor_id text,
    updated_at timestamptz
)
language sql volatile strict
set search_path = pg_catalog, pg_temp
as $$
    select
        n.id, n.node_type, n.query, n.result_name, n.left_node, n.right_node, n.status,
        coalesce(n.result, s.result)::text, n.status_details::text, f.status, f.ancestor, n.updated_at
    from df.nodes as n
    left join df.nodes as s on s.instance_id = n.instance_id and s.id = n.result_from
    join df._inferred(instance_id_param) as f on f.id = n.id
    where n.instance_id = instance_id_param
$$;

comment on function df.instance_nodes(text) is 'The steps of a workflow with their results and statuses';

create function df.instance_nodes(instance_id_param text, _last_n_executions integer)
returns table (
    execution_id bigint, node_id text, node_type text, query text, result_name text, left_node text,
    right_node text, status text, result text, updated_at timestamptz
)
language sql volatile strict
set search_path = pg_catalog, pg_temp
as $$
    select
        1::bigint, n.id, n.node_type, n.query, n.result_name, n.left_node, n.right_node, n.status,
        coalesce(n.result, s.result)::text, n.updated_at
    from df.nodes as n
    left join df.nodes as s on s.instance_id = n.instance_id and s.id = n.result_from
    where n.instance_id = instance_id_param
$$;

comment on function df.instance_nodes(text, integer) is 'The steps of a workflow, for older clients; the second argument is ignored';

-- Listings. A workflow is listed from the moment it was started, whether the engine has seen it or not.

create function df._check_limit(p_limit integer) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_most bigint := df._setting('list_instances_max_limit')::bigint;
    v_session text := current_setting('pg_durable.list_instances_max_limit', true);
begin
    if p_limit is null or p_limit < 1 then
        raise exception 'limit_count must be at least 1' using errcode = 'XX000';
    end if;
    if v_session ~ '^[0-9]{1,9}$' then
        v_most := least(v_most, v_session::bigint);  -- a session may lower the limit for itself
    end if;
    if p_limit > v_most then
        raise exception 'df.list_instances: limit_count (%) exceeds pg_durable.list_instances_max_limit (%); ask for less, page by page', p_limit, v_most
            using errcode = 'XX000', hint = 'The owner of schema df can change list_instances_max_limit in df._settings.';
    end if;
end
$$;

comment on function df._check_limit(integer) is 'Refuses page sizes out of range';

create function df._cursor_of(p_created_at timestamptz, p_id text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select encode(
        convert_to('v1|' || to_char(p_created_at, 'YYYY-MM-DD"T"HH24:MI:SS.USOF') || '|' || p_id, 'UTF8'), 'hex'
    )
$$;

comment on function df._cursor_of(timestamptz, text) is 'The cursor after a row';

create function df._parse_cursor(p_cursor text, out created_at timestamptz, out id text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_parts text[];
begin
    if length(p_cursor) <= 512 and p_cursor ~ '^([0-9A-Fa-f]{2})+$' then
        v_parts := regexp_match(
            convert_from(decode(p_cursor, 'hex'), 'UTF8'),
            E'^v1\\|(\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{6}[+-]\\d\\d(?::\\d\\d)?)\\|(.+)$'
        );
    end if;
    if v_parts is null then
        raise exception using errcode = 'XX000', message = 'df.list_instances: invalid after_cursor';
    end if;
    created_at := v_parts[1]::timestamptz;
    id := v_parts[2];
exception
    when data_exception then
        raise exception 'df.list_instances: invalid after_cursor' using errcode = 'XX000';
end
$$;

comment on function df._parse_cursor(text) is 'The row that a cursor stands behind';

-- A page, newest first. Planned anew each time, so that a filter that is not given is not there.
create function df._page(
    p_status text, p_label text, p_limit integer, p_created_at timestamptz, p_id text,
    out id text, out label text, out status text, out error text, out created_at timestamptz,
    out completed_at timestamptz
)
returns setof record
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
begin
    return query
        select i.id::text, i.label, i.status, i.error, i.created_at, i.completed_at
        from df.instances as i
        where i.created_at is not null
            and (p_status is null or i.status = p_status)
            and (p_label is null or i.label = p_label)
            and (
                p_created_at is null
                or (i.created_at <= p_created_at and (i.created_at < p_created_at or i.id > p_id))
            )
        order by i.created_at desc, i.id
        limit p_limit;
end
$$;

comment on function df._page(text, text, integer, timestamptz, text) is 'A page of instances, newest first';

create function df.list_instances(status_filter text default null, limit_count integer default 100)
returns table (
    instance_id text, label text, function_name text, status text, execution_count bigint, output text
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform df._check_limit(limit_count);
    return query
        select
            p.id, p.label, 'pg_durable::orchestration::execute-function-graph'::text, p.status,
            coalesce(e.current_execution_id, 0), coalesce(p.error, e.output)
        from df._page(status_filter, null, limit_count, null, null) as p
        left join df._engine_instances as e on e.instance_id = p.id
        order by p.created_at desc, p.id;
end
$$;

comment on function df.list_instances(text, integer) is 'The newest workflows of the caller';

create function df.list_instances(
    status_filter text, limit_count integer, label_filter text, after_cursor text default null
)
returns table (
    instance_id text, label text, function_name text, status text, execution_count bigint, output text,
    created_at timestamptz, completed_at timestamptz, next_cursor text
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_created_at timestamptz;
    v_id text;
begin
    perform df._check_limit(limit_count);
    if after_cursor is not null then
        select c.created_at, c.id into v_created_at, v_id from df._parse_cursor(after_cursor) as c;
    end if;
    return query
        with page as materialized (
            select p.*, row_number() over (order by p.created_at desc, p.id) as n
            from df._page(status_filter, label_filter, limit_count + 1, v_created_at, v_id) as p
        )
        select
            p.id, p.label, 'pg_durable::orchestration::execute-function-graph'::text, p.status,
            coalesce(e.current_execution_id, 0), coalesce(p.error, e.output), p.created_at, p.completed_at, (
                select df._cursor_of(l.created_at, l.id) from page as l
                where l.n = limit_count and exists (select from page as m where m.n > limit_count)
            )
        from page as p
        left join df._engine_instances as e on e.instance_id = p.id
        where p.n <= limit_count
        order by p.n;
end
$$;

comment on function df.list_instances(text, integer, text, text) is 'The workflows of the caller page by page, newest first; give next_cursor back as after_cursor';

create function df.instance_info(instance_id text)
returns table (
    instance_id text, label text, function_name text, function_version text, current_execution_id bigint,
    status text, output text
)
language sql volatile strict
set search_path = pg_catalog, pg_temp
as $$
    select
        i.id, i.label, coalesce(e.orchestration_name, 'pg_durable::orchestration::execute-function-graph'),
        coalesce(e.orchestration_version, 'unknown'), coalesce(e.current_execution_id, 1), i.status,
        coalesce(i.error, e.output)
    from df.instances as i
    left join df._engine_instances as e on e.instance_id = i.id
    where i.id = $1  -- by its place: a column has the same name
$$;

comment on function df.instance_info(text) is 'One workflow in one row';

create function df.instance_executions(instance_id text, limit_count integer default 5)
returns table (execution_id bigint, status text, event_count bigint, duration_ms bigint, output text)
language plpgsql strict
set search_path = pg_catalog, pg_temp
as $$
begin
    if limit_count < 1 then
        raise exception 'limit_count must be at least 1' using errcode = 'XX000';
    end if;
    return query
        select
            x.execution_id, x.status, x.event_count,
            coalesce((extract(epoch from x.completed_at - x.started_at) * 1000)::bigint, 0), x.output
        from df._engine_executions as x
        where x.instance_id = instance_executions.instance_id
        order by x.execution_id desc
        limit least(limit_count, 10000);
end
$$;

comment on function df.instance_executions(text, integer) is 'The generations of a workflow, newest first; a loop at its root begins a new one at each turn';

create function df.metrics()
returns table (
    total_instances bigint, running_instances bigint, completed_instances bigint, failed_instances bigint,
    total_executions bigint, total_events bigint
)
language plpgsql strict security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
        select
            count(*), count(*) filter (where e.status = 'Running'), count(*) filter (where e.status = 'Completed'),
            count(*) filter (where e.status = 'Failed'), coalesce(sum(e.current_execution_id), 0)::bigint,
            coalesce(sum(e.history_events), 0)::bigint
        from duroxide.instances as e;
end
$$;

comment on function df.metrics() is 'Counts over the whole engine, of everybody''s workflows';

revoke execute on function df.metrics() from public;

-- df.explain: a workflow as a tree of text.

create function df._clip(p_text text, p_longest integer) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case when length(p_text) > p_longest then left(p_text, p_longest - 3) || '...' else p_text end
$$;

-- The text of one node, without its place in the tree.
create function df._caption(p_node_type text, p_query text, p_result_name text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_config json;
begin
    if p_node_type not in ('SQL', 'SLEEP') then
        select t.value into v_config from df._try_json(p_query) as t;
        if json_typeof(v_config) <> 'object' then
            v_config := null;
        end if;
    end if;
    return case p_node_type
        when 'SQL' then 'SQL: ' || df._clip(p_query, 50)
        when 'SLEEP' then 'SLEEP ' || p_query || 's'
        when 'WAIT_SCHEDULE' then format('WAIT ''%s''', v_config ->> 'cron_expr')
            || coalesce(' (' || (v_config ->> 'timezone') || ')', '')
        when 'SIGNAL' then format('SIGNAL ''%s''', v_config ->> 'signal_name')
            || coalesce(' ' || (v_config ->> 'mode'), '')
            || coalesce(' (' || (v_config ->> 'timeout_seconds') || 's)', '')
        when 'LOOP' then case when v_config -> 'condition_node' is null then 'LOOP (infinite)' else 'LOOP (while)' end
        when 'BREAK' then 'BREAK' || coalesce(' ''' || df._clip(v_config ->> 'break_value', 20) || '''', '')
        when 'JOIN' then format('JOIN (%s)', 2 + coalesce(json_array_length(v_config -> 'extra_nodes'), 0))
        when 'HTTP' then format('HTTP %s %s', v_config ->> 'method', df._clip(v_config ->> 'url', 40))
        when 'HTTP_MULTIPART'
            then format('HTTP_MULTIPART %s %s', v_config ->> 'method', df._clip(v_config ->> 'url', 40))
        else p_node_type
    end || case
        when p_result_name is not null and p_node_type <> 'RACE' then format(' |=> ''%s''', p_result_name)
        else ''
    end;
end
$$;

create function df._mark_of(p_status text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case p_status
        when 'completed' then ' ✓'
        when 'failed' then ' ✗'
        when 'running' then ' ⏳'
        when 'skipped' then ' ⊘'
        when 'cancelled' then ' ⊘'
        when 'pending' then ' ○'
        else ''
    end
$$;

-- What is drawn below a node: headings and further nodes, each with its indentation and lead.
--   THEN draws nothing itself; its sides stand one below the other at its own place.
create function df._below(
    p_node_type text, p_query text, p_left text, p_right text, p_indent integer, p_lead text,
    out place bigint, out node_id text, out indent integer, out lead text, out heading text
)
returns setof record
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select 2 * c.place, c.id, p_indent, case when c.place = 1 then p_lead else '→ ' end, null::text
    from df._children(p_node_type, p_query, p_left, p_right) as c
    where p_node_type = 'THEN'
    union all
    select
        2 * c.place + s.part, case when s.part = 1 then c.id end,
        p_indent + 4 + 2 * s.part,
        case
            when s.part = 0 then ''
            when p_node_type in ('JOIN', 'RACE') and c.place < max(c.place) over () then '├─'
            else '└─'
        end,
        case
            when s.part = 1 then null
            when p_node_type = 'LOOP' then (array['↻ body:', '? while:'])[c.place]
            when p_node_type = 'IF' then (array['? condition:', '✓ then:', '✗ else:'])[c.place]
            else format('║ branch %s:', c.place)
        end
    from df._children(p_node_type, p_query, p_left, p_right) as c
    cross join (values (0), (1)) as s (part)
    where p_node_type <> 'THEN'
$$;

-- The drawing of rows like those of df.nodes, given as
-- {"<id>": {"type", "query", "name", "left", "right", "status"?}}.
create function df._draw(p_nodes jsonb, p_root text) returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with recursive nodes as materialized (
        select n.key as id, n.type, n.query, n.name, n."left", n."right", n.status
        from (
            select e.key, r.*
            from jsonb_each(p_nodes) as e
            cross join lateral jsonb_to_record(e.value)
                as r (type text, query text, name text, "left" text, "right" text, status text)
        ) as n
    ),
    drawing (sort, node_id, indent, lead, heading) as (
        select array[]::bigint[], p_root, 0, '', null::text
        union all
        select d.sort || b.place, b.node_id, b.indent, b.lead, b.heading
        from drawing as d
        join nodes as n on n.id = d.node_id
        cross join lateral df._below(n.type, n.query, n."left", n."right", d.indent, d.lead) as b
    )
    select
        repeat(' ', d.indent) || coalesce(
            d.heading, d.lead || df._caption(n.type, n.query, n.name) || df._mark_of(n.status)
        )
    from drawing as d
    left join nodes as n on n.id = d.node_id
    where d.heading is not null or n.type <> 'THEN'
    order by d.sort
$$;

-- Lines side by side as one text, each padded to the longest and four more.
create function df._framed(p_lines text[]) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select string_agg(
        l.line || repeat(' ', (select max(length(m.line)) from unnest(p_lines) as m (line)) + 4 - length(l.line)),
        E'\n' order by l.n
    )
    from unnest(p_lines) with ordinality as l (line, n)
$$;

-- What can be drawn, as _draw takes it: a graph that was built, and one that runs.
create function df._drawable_node(p_node text, out nodes jsonb, out root text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    select
        jsonb_object_agg(f.id, jsonb_build_object(
            'type', f.node_type, 'query', f.query, 'name', f.result_name, 'left', f.left_node, 'right', f.right_node
        )), min(f.id) filter (where f.ord = 1)
    into nodes, root
    from df._flatten(p_node) as f;
end
$$;

create function df._drawable_instance(p_instance_id text, out nodes jsonb, out root text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    select i.root_node into root from df.instances as i where i.id = p_instance_id;
    select jsonb_object_agg(n.node_id, jsonb_build_object(
        'type', n.node_type, 'query', n.query, 'name', n.result_name, 'left', n.left_node,
        'right', n.right_node, 'status', n.inferred_status
    )) into nodes
    from df.instance_nodes(p_instance_id) as n;
end
$$;

create function df._explain_node(p_node text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform df._warn_mistakes(p_node);
    return (
        select df._framed(array(select d from df._draw(g.nodes, g.root) as d))
        from df._drawable_node(p_node) as g
    );
exception
    when internal_error then
        return sqlerrm;
end
$$;

-- Where and why a workflow failed, or does not go on: lines for its header.
create function df._explain_problem(p_error text, p_details jsonb, p_nodes jsonb) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_node jsonb := p_nodes -> (p_details ->> 'node_id');
begin
    return array(
        select rpad(l.name || ':', 10) || regexp_replace(l.line, E'\\s+', ' ', 'g')
        from (
            values
                (1, 'Error', case when length(p_error) > 60 then p_error end),
                (2, 'At', df._caption(v_node ->> 'type', v_node ->> 'query', v_node ->> 'name')
                    || format(' (node %s)', p_details ->> 'node_id')),
                (3, 'SQLSTATE', p_details ->> 'sqlstate'),
                (4, 'Detail', p_details ->> 'detail'),
                (5, 'Hint', p_details ->> 'hint'),
                (6, 'Reason', p_details ->> 'reason')
        ) as l (n, name, line)
        where l.line <> ''
        order by l.n
    );
end
$$;

create function df._explain_instance(p_instance_id text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_instance record;
    v_word text;
    v_output text;
    v_nodes jsonb;
    v_lines text[];
begin
    select
        i.id, i.label, i.status, i.root_node, i.error, i.error_details, e.status as engine_status, e.output
    into v_instance
    from df.instances as i
    left join df._engine_instances as e on e.instance_id = i.id
    where i.id = lower(p_instance_id);
    if not found then
        return format('Instance ''%s'' not found', p_instance_id);
    end if;
    if not df._is_tree(v_instance.id) then
        return format('Cannot explain instance ''%s'': its nodes are no tree; see df.instance_nodes(''%s'')', v_instance.id, v_instance.id);
    end if;
    select g.nodes into v_nodes from df._drawable_instance(v_instance.id) as g;
    if v_nodes is null then
        return format('No nodes found for instance ''%s''', v_instance.id);
    end if;
    -- The engine's word; of a cancelled workflow it would say Failed, or nothing yet.
    v_word := case
        when v_instance.status = 'cancelled' then 'cancelled'
        when v_instance.status in ('completed', 'failed', 'running') then initcap(v_instance.status)
        else coalesce(v_instance.engine_status, v_instance.status)
    end;
    v_output := df._clip(coalesce(v_instance.error, df.result(v_instance.id), v_instance.output), 60);
    v_lines := array[
        format('Instance: %s', v_instance.id) || coalesce(' (' || v_instance.label || ')', ''),
        format('Status:   %s %s', case
            when lower(v_word) in ('completed', 'continuedasnew') then '✓'
            when lower(v_word) in ('failed', 'cancelled') then '✗'
            when lower(v_word) = 'running' then '⏳'
            else '○'
        end, v_word)
    ];
    if v_output is not null then
        v_lines := v_lines || ('Output:   ' || v_output);
    end if;
    v_lines := v_lines || df._explain_problem(v_instance.error, v_instance.error_details, v_nodes);
    return df._framed(v_lines || array[''] || array(select d from df._draw(v_nodes, v_instance.root_node) as d));
end
$$;

-- How df.explain understands its input: instance, node, sql, nothing or expression.
create function df._explain_mode(p_input text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_marked boolean := p_input ~ E'~>|\\|=>|\\?>|!>|@>|df\\.';
    v_keyword boolean := p_input ~* E'^((select|insert|update|delete|with)[ \\n]|(create|alter|drop|call|do|truncate|grant|revoke|explain) )';
begin
    if p_input ~ '^[0-9A-Fa-f]{8}$' then
        return 'instance';
    end if;
    if (select p.node is not null from df._parse_node(p_input) as p) then
        return 'node';
    end if;
    return case when v_marked then 'expression' when v_keyword then 'sql' else 'nothing' end;
end
$$;

-- The answer for the text that an expression gave.
create function df._explain_value(p_value text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_node text;
    v_type text;
    v_problem text;
begin
    if p_value is null then
        return 'Expression returned NULL';
    end if;
    select p.node, p.node_type, p.problem into v_node, v_type, v_problem from df._parse_node(p_value) as p;
    if v_node is null then
        return 'Failed to parse Durofut JSON: ' || case
            when v_type is null then 'the expression gave no workflow but: ' || df._clip(p_value, 200)
            when not df._is_node_type(v_type) then df._unknown_node_type(v_type)
            else v_problem
        end;
    end if;
    return df._explain_node(v_node);
end
$$;

create function df._explain_known(p_input text, p_mode text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return case p_mode
        when 'instance' then df._explain_instance(p_input)
        when 'node' then df._explain_value(p_input)
        when 'sql' then df._explain_value(df.sql(p_input))
        else 'Cannot explain input: not a valid Durofut JSON, instance ID, SQL statement, or DSL expression.'
            || E'\nHint: DSL expressions use df.*() functions and operators like ~>, |=>, &, |.'
    end;
end
$$;

-- An expression is evaluated under the caller's own search_path, so this function has none of its own
-- and calls everything by its full name. What the expression did besides giving a value is undone: to
-- look at a workflow must not start it.
create function df.explain(input text) returns text
language plpgsql strict
as $$
declare
    v_input text := pg_catalog.btrim(input, E' \t\n\r');
    v_mode text := df._explain_mode(v_input);
    v_value text;
begin
    if pg_catalog.textne(v_mode, 'expression') then
        return df._explain_known(v_input, v_mode);
    end if;
    begin
        execute pg_catalog.concat('SELECT ', v_input) into v_value;
        raise exception using errcode = 'PD003', message = 'undo';
    exception
        when sqlstate 'PD003' then
            null;
    end;
    perform df._warn_precedence(v_input);
    return df._explain_value(v_value);
end
$$;

comment on function df._clip(text, integer) is 'Text cut to a length';
comment on function df._caption(text, text, text) is 'The text of one node';
comment on function df._mark_of(text) is 'The sign for a status';
comment on function df._below(text, text, text, text, integer, text) is 'What is drawn below a node';
comment on function df._draw(jsonb, text) is 'The lines of a drawing';
comment on function df._framed(text[]) is 'Lines padded to one width';
comment on function df._drawable_node(text) is 'Node text as rows to draw';
comment on function df._drawable_instance(text) is 'An instance as rows to draw';
comment on function df._explain_node(text) is 'The drawing of node text';
comment on function df._explain_problem(text, jsonb, jsonb) is 'Where and why a workflow failed, or does not go on';
comment on function df._explain_instance(text) is 'The drawing of an instance with its statuses';
comment on function df._explain_mode(text) is 'How df.explain understands its input';
comment on function df._explain_value(text) is 'The drawing of what an expression gave';
comment on function df._explain_known(text, text) is 'The answer for input that need not be evaluated';
comment on function df.explain(text) is 'A workflow as a tree of text: an instance id, node text, SQL, or an expression of df functions';

-- df.explain_mermaid: the graph of df.explain as a Mermaid flow chart, for documents and web pages.

create function df._mermaid_label(p_text text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select replace(replace(replace(replace(
        regexp_replace(p_text, E'\\s+', ' ', 'g'), '#', '#35;'), '"', '#quot;'), '<', '#lt;'), '>', '#gt;')
$$;

comment on function df._mermaid_label(text) is 'Text as it may stand in a label';

-- One box for every node but THEN, which is an arrow from the box where its left side ends to the one
-- where its right side begins; the parts of IF, LOOP, JOIN and RACE hang on dotted, named arrows.
create function df._mermaid(p_nodes jsonb, p_root text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        with recursive nodes as materialized (
            select e.key as id, r.type, r.query, r.name, r."left", r."right", r.status
            from jsonb_each(p_nodes) as e
            cross join lateral jsonb_to_record(e.value)
                as r (type text, query text, name text, "left" text, "right" text, status text)
        ),
        walk (sort, id, parent, place) as (
            select array[]::bigint[], p_root, null::text, null::bigint
            union all
            select w.sort || c.place, c.id, w.id, c.place
            from walk as w
            join nodes as n on n.id = w.id
            cross join lateral df._children(n.type, n.query, n."left", n."right") as c
        ),
        boxes as materialized (
            select w.id, 'n' || row_number() over (order by w.sort) as box, n.type, n.query, n.name, n.status, w.sort
            from walk as w
            join nodes as n on n.id = w.id
            where n.type <> 'THEN'
        ),
        ends (id, first_id, last_id) as (
            select n.id, n.id, n.id from nodes as n where n.type <> 'THEN'
            union all
            -- Up a chain: what a side begins and ends with, its THEN begins and ends with as well.
            select t.id, case when t."left" = e.id then e.first_id end, case when t."right" = e.id then e.last_id end
            from ends as e
            join nodes as t on t.type = 'THEN' and (t."left" = e.id or t."right" = e.id)
            where (t."left" = e.id and e.first_id is not null) or (t."right" = e.id and e.last_id is not null)
        ),
        sides as materialized (
            select e.id, max(e.first_id) as first_id, max(e.last_id) as last_id from ends as e group by e.id
        ),
        lines (rank, sort, line) as (
            select 0, array[]::bigint[], 'flowchart TD'
            union all
            select 1, b.sort,
                '    ' || b.box || '["' || df._mermaid_label(df._caption(b.type, b.query, b.name)) || '"]'
                || coalesce(':::' || b.status, '')
            from boxes as b
            union all
            select 2, t.sort, '    ' || f.box || ' --> ' || t.box
            from walk as w
            join nodes as n on n.id = w.id and n.type = 'THEN'
            join sides as l on l.id = n."left"
            join sides as r on r.id = n."right"
            join boxes as f on f.id = l.last_id
            join boxes as t on t.id = r.first_id
            union all
            select 2, t.sort, '    ' || f.box || ' -. ' || case f.type
                when 'IF' then (array['condition', 'then', 'else'])[w.place]
                when 'LOOP' then (array['body', 'while'])[w.place]
                else 'branch ' || w.place
            end || ' .-> ' || t.box
            from walk as w
            join boxes as f on f.id = w.parent
            join sides as s on s.id = w.id
            join boxes as t on t.id = s.first_id
            union all
            select 3, array[s.place], '    classDef ' || s.status || ' ' || s.style
            from (
                values
                    (1, 'completed', 'stroke:#2a2,stroke-width:2px'), (2, 'failed', 'stroke:#c22,stroke-width:2px'),
                    (3, 'running', 'stroke:#26c,stroke-width:2px'), (4, 'skipped', 'stroke-dasharray:4'),
                    (5, 'cancelled', 'stroke-dasharray:4'), (6, 'pending', 'stroke:#999')
            ) as s (place, status, style)
            where exists (select from boxes as b where b.status = s.status)
        )
        select string_agg(l.line, E'\n' order by l.rank, l.sort) from lines as l
    );
end
$$;

comment on function df._mermaid(jsonb, text) is 'A graph as a Mermaid flow chart';

create function df._mermaid_node(p_node text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select df._mermaid(g.nodes, g.root) from df._drawable_node(p_node) as g);
exception
    when internal_error then
        return sqlerrm;
end
$$;

comment on function df._mermaid_node(text) is 'Node text as a Mermaid flow chart';

create function df._mermaid_known(p_input text, p_mode text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id text := lower(p_input);
    v_graph record;
begin
    case p_mode
        when 'instance' then
            select g.nodes, g.root into v_graph from df._drawable_instance(v_id) as g;
            return case
                when v_graph.nodes is null or not df._is_tree(v_id) then df._explain_instance(p_input)
                else df._mermaid(v_graph.nodes, v_graph.root)
            end;
        when 'node', 'sql' then
            return df._mermaid_node(df._start_step(p_input));
        else
            return df._explain_known(p_input, p_mode);
    end case;
end
$$;

comment on function df._mermaid_known(text, text) is 'The answer for input that need not be evaluated';

-- As df.explain: the caller's search_path, names in full, side effects undone.
create function df.explain_mermaid(input text) returns text
language plpgsql strict
as $$
declare
    v_input text := pg_catalog.btrim(input, E' \t\n\r');
    v_mode text := df._explain_mode(v_input);
    v_value text;
begin
    if pg_catalog.textne(v_mode, 'expression') then
        return df._mermaid_known(v_input, v_mode);
    end if;
    begin
        execute pg_catalog.concat('SELECT ', v_input) into v_value;
        raise exception using errcode = 'PD003', message = 'undo';
    exception
        when sqlstate 'PD003' then
            null;
    end;
    if pg_catalog.textne(df._explain_mode(pg_catalog.concat(v_value)), 'node') then
        return df._explain_value(v_value);
    end if;
    return df._mermaid_node(df._start_step(v_value));
end
$$;

comment on function df.explain_mermaid(text) is 'The graph of df.explain as a Mermaid flow chart';

-- What the worker calls. Statuses of instances and nodes are written in the very commit of the fact that
-- they describe: by the commit hook for turns, and by _finish_step_v1 for SQL steps.
--
-- All run in READ COMMITTED, on arrays, one statement per kind of write. Plans are pinned to index
-- lookups: an instance has few rows, whatever the statistics of a table that has just been filled say.

-- Text as a document: JSON as it is, anything else as a JSON string. jsonb can't hold \u0000; it becomes
-- the replacement character.
create function df._document(p_text text) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return p_text::jsonb;
exception
    when untranslatable_character then
        begin
            return regexp_replace(p_text, E'(?<!\\\\)((?:\\\\\\\\)*)\\\\u0000', E'\\1\\\\ufffd', 'g')::jsonb;
        exception
            when data_exception then
                return to_jsonb(p_text);
        end;
    when data_exception then
        return to_jsonb(p_text);
end
$$;

comment on function df._document(text) is 'JSON text as jsonb, other text as a JSON string';

-- The records in the projections of turns, the last one of every node, as one array of
-- {"instance", "node", "status", "stamp", "result", "source", "error", "details"}. A projection is a record, an
-- array of them, or a JSON string that holds either.
create function df._node_records(p_engine_ids text[], p_projections text[]) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
    return (
        select jsonb_agg(jsonb_build_object(
            'instance', l.instance, 'node', l.record -> 'node', 'status', l.record -> 'status',
            'stamp', l.record -> 'stamp', 'result', l.record -> 'result', 'source', l.record -> 'result_from',
            'error', l.record -> 'error', 'details', l.record -> 'details'
        ))
        from (
            select distinct on (split_part(t.engine_id, '::', 1), r.record ->> 'node')
                split_part(t.engine_id, '::', 1) as instance, r.record
            from unnest(p_engine_ids, p_projections) with ordinality as t (engine_id, projections, turn)
            cross join lateral df._document(t.projections) as d (document)
            cross join lateral jsonb_array_elements(
                case jsonb_typeof(d.document) when 'array' then d.document else jsonb_build_array(d.document) end
            ) with ordinality as e (entry, n)
            cross join lateral (
                select case jsonb_typeof(e.entry) when 'string' then df._document(e.entry #>> '{}') else e.entry end
            ) as s (entry)
            cross join lateral jsonb_array_elements(
                case jsonb_typeof(s.entry) when 'array' then s.entry else jsonb_build_array(s.entry) end
            ) with ordinality as r (record, m)
            where t.projections is not null
                and jsonb_typeof(r.record) = 'object'
                and r.record ->> 'status' in ('running', 'completed', 'failed')
            order by 1, r.record ->> 'node', t.turn desc, e.n desc, r.m desc
        ) as l
    );
end
$$;

comment on function df._node_records(text[], text[]) is 'The records in the projections of turns';

create function df._node_details(p_status text, p_stamp text, p_details jsonb, p_error jsonb) returns jsonb
language sql stable
as $$
    select jsonb_build_object('execution_id', p_stamp)
        || case when jsonb_typeof(p_details) = 'object' then p_details else '{}' end
        || case when p_status = 'failed' and jsonb_typeof(p_error) = 'object'
            then jsonb_build_object('error', p_error) else '{}' end
$$;

comment on function df._node_details(text, text, jsonb, jsonb) is 'What status_details of a node says';

-- Writes node records. `source` names the node whose result is copied, or named in result_from if it takes more
-- than 8 KiB; one that is written by the same records counts as written.
create function df._write_nodes(p_records jsonb) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
begin
    if not p_records @? '$[*].source ? (@ != null)' then  -- nothing is copied
        update df.nodes as n
        set status = r.status,
            result = case r.status
                when 'completed' then df._document(r.result)
                when 'failed' then to_jsonb(coalesce(r.error ->> 'message', r.result))
            end,
            result_from = null,
            error = case when r.status = 'failed' then coalesce(r.error ->> 'message', r.result) end,
            status_details = df._node_details(r.status, r.stamp, r.details, r.error),
            updated_at = clock_timestamp()
        from jsonb_to_recordset(p_records) as r (
            instance text, node text, status text, stamp text, result text, error jsonb, details jsonb
        )
        where n.instance_id = r.instance and n.id = r.node;
        return;
    end if;
    with recursive record as materialized (
        select r.*
        from jsonb_to_recordset(p_records) as r (
            instance text, node text, status text, stamp text, result text, source text, error jsonb,
            details jsonb
        )
    ),
    chain (instance, node, source) as (
        select r.instance, r.node, r.source from record as r where r.source is not null
        union
        select c.instance, c.node, r.source
        from chain as c
        join record as r on r.instance = c.instance and r.node = c.source
        where r.source is not null
    ),
    -- Once, and not once for each record.
    copied as materialized (
        select
            c.instance, c.node, coalesce(df._document(r.result), n.result) as result,
            case when r.node is null and n.result is null then n.result_from else c.source end as source
        from chain as c
        left join record as r on r.instance = c.instance and r.node = c.source
        left join df.nodes as n on n.instance_id = c.instance and n.id = c.source
        where r.source is null
    )
    update df.nodes as n
    set status = r.status,
        result = case r.status
            when 'completed'
                then coalesce(df._document(r.result), case when pg_column_size(c.result) <= 8192 then c.result end)
            when 'failed' then to_jsonb(coalesce(r.error ->> 'message', r.result))
        end,
        result_from = case
            when r.status = 'completed' and r.result is null and coalesce(pg_column_size(c.result) > 8192, true)
                then c.source
        end,
        error = case when r.status = 'failed' then coalesce(r.error ->> 'message', r.result) end,
        status_details = df._node_details(r.status, r.stamp, r.details, r.error),
        updated_at = clock_timestamp()
    from record as r
    left join copied as c on c.instance = r.instance and c.node = r.node
    where n.instance_id = r.instance and n.id = r.node;
end
$$;

comment on function df._write_nodes(jsonb) is 'Writes node records';

-- The commit hook: called once per batch, before the turns are written, in their transaction.
--
-- A row may be locked by a session that asked to cancel, or by a step that is about to commit; the batch
-- never waits for those. The instances concerned are returned and left alone, and the caller commits
-- each of them by itself with p_wait. A status that is final is never replaced.
create function df._project_v1(
    p_instance_ids text[], p_execution_ids bigint[], p_names text[], p_statuses text[], p_outputs text[],
    p_projections text[], p_wait boolean
)
returns text[]
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_records jsonb := coalesce(df._node_records(p_instance_ids, p_projections), '[]');
    v_ids text[];
    v_ends boolean[];
    v_locked text[];
    v_busy text[] := '{}';
    v_busy_nodes text[];
    v_rows integer;
begin
    -- Instances that begin or end in these turns.
    select array_agg(w.id), array_agg(w.ends) into v_ids, v_ends
    from (
        select i.id, bool_or(t.ends) as ends
        from (
            select
                split_part(u.engine_id, '::', 1) as id,
                strpos(u.engine_id, '::') = 0 and u.status in ('Completed', 'Failed') as ends
            from unnest(p_instance_ids, p_statuses) as u (engine_id, status)
        ) as t
        join df.instances as i on i.id = t.id
        where i.status = 'pending' or (i.status = 'running' and t.ends)
        group by i.id
    ) as w;
    if v_ids is not null then
        if p_wait then
            perform from df.instances as i where i.id = any (v_ids) order by i.id for no key update;
        else
            select coalesce(array_agg(l.id), '{}') into v_locked
            from (
                select i.id from df.instances as i
                where i.id = any (v_ids)
                for no key update skip locked
            ) as l;
            select coalesce(array_agg(x), '{}') into v_busy from unnest(v_ids) as x where x <> all (v_locked);
        end if;
    end if;

    if v_records <> '[]' and not p_wait then
        perform from jsonb_to_recordset(v_records) as r (instance text, node text)
        join df.nodes as n on n.instance_id = r.instance and n.id = r.node
        for no key update of n skip locked;
        get diagnostics v_rows = row_count;
        if v_rows < jsonb_array_length(v_records) then  -- locked by others, or gone
            with record as materialized (
                select r.instance, r.node from jsonb_to_recordset(v_records) as r (instance text, node text)
            ),
            locked as materialized (
                select n.instance_id, n.id
                from df.nodes as n
                join record as r on n.instance_id = r.instance and n.id = r.node
                for no key update of n skip locked
            )
            select array_agg(distinct n.instance_id) into v_busy_nodes
            from df.nodes as n
            join record as r on n.instance_id = r.instance and n.id = r.node
            where not exists (select from locked as l where l.instance_id = n.instance_id and l.id = n.id);
            v_busy := v_busy || coalesce(v_busy_nodes, '{}');
        end if;
    end if;

    if v_busy <> '{}' then
        select coalesce(jsonb_agg(e.record), '[]') into v_records
        from jsonb_array_elements(v_records) as e (record)
        where e.record ->> 'instance' <> all (v_busy);
    end if;
    if v_records <> '[]' then
        perform df._write_nodes(v_records);
    end if;

    if v_ids is not null then
        update df.instances as i
        set status = t.status,
            error = t.error,
            -- What ends without a failed node has the last reason why no worker could go on.
            error_details = case when t.status = 'failed' then coalesce((
                select e.record -> 'error'
                from jsonb_array_elements(v_records) as e (record)
                where e.record ->> 'instance' = i.id and e.record ->> 'node' = i.root_node
                    and jsonb_typeof(e.record -> 'error') = 'object'
            ), i.error_details) end,
            updated_at = clock_timestamp(),
            completed_at = case when t.status <> 'running' then clock_timestamp() end
        from (
            select w.id,
                case when w.ends then lower(o.status) else 'running' end as status,
                case when w.ends and o.status = 'Failed' then o.output end as error
            from unnest(v_ids, v_ends) as w (id, ends)
            left join unnest(p_instance_ids, p_statuses, p_outputs) as o (id, status, output)
                on o.id = w.id and o.status in ('Completed', 'Failed')
            where w.id <> all (v_busy)
        ) as t
        where i.id = t.id and (i.status = 'pending' or (i.status = 'running' and t.status <> 'running'));
        if true = any (v_ends) then
            delete from df._signal_waiters as w where w.instance_id = any (v_ids) and w.instance_id <> all (v_busy)
                and exists (select from df.instances as i where i.id = w.instance_id and i.completed_at is not null);
        end if;
    end if;

    if v_busy = '{}' then
        return v_busy;
    end if;
    return (
        select coalesce(array_agg(distinct p), '{}')
        from unnest(p_instance_ids) as p
        where split_part(p, '::', 1) = any (v_busy)
    );
end
$$;

comment on function df._project_v1(text[], bigint[], text[], text[], text[], text[], boolean) is 'The commit hook of the worker';

-- Ends a SQL step inside the step's own transaction: effect, completion and node status are one commit.
-- Returns the id of the completion's message, which the worker takes into the next turn without a poll.
-- It is called in the submitter's session, or (identity set_role) in one of the owner of df, who is the
-- current_user here. The token is secret and for one step; the completion that the
-- submitter could forge with it is one that his SQL could have produced.
--
-- The lock on the instance makes a request to cancel and this commit take turns, so that after a
-- committed cancel no step commits (except the one that asked for it).
create function df._finish_step_v1(p_token text, p_body text, p_projection text) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_engine_id text;
    v_message_id bigint;
    v_instance_id text;
    v_submitted_by regrole;
    v_status text;
    v_cancelled_in xid8;
    v_record jsonb;
    v_records jsonb;
begin
    select c.o_instance_id, c.o_message_id into v_engine_id, v_message_id
    from duroxide.complete_activity_v1(p_token, 3::smallint, p_body) as c;
    v_instance_id := split_part(v_engine_id, '::', 1);
    select i.submitted_by, i.status, i.cancelled_in into v_submitted_by, v_status, v_cancelled_in
    from df.instances as i where i.id = v_instance_id for key share;
    if v_submitted_by is distinct from quote_ident(session_user)::regrole and session_user <> current_user then
        raise exception 'a step of instance % can be finished only by role %, not by %',
            v_instance_id, v_submitted_by, session_user using errcode = '42501';
    end if;
    if v_status = 'cancelled' and v_cancelled_in is distinct from pg_current_xact_id() then
        raise exception 'instance % was cancelled', v_instance_id using errcode = 'PD002';
    end if;
    v_record := df._document(p_projection);
    if jsonb_typeof(v_record) = 'object' and v_record ->> 'status' = 'completed' and not v_record ? 'result_from' then
        -- What the worker sends: _write_nodes for one node, without what it takes for many.
        update df.nodes as n
        set status = 'completed',
            result = df._document(v_record ->> 'result'),
            error = null,
            status_details = jsonb_build_object('execution_id', v_record ->> 'stamp')
                || case when jsonb_typeof(v_record -> 'details') = 'object' then v_record -> 'details' else '{}' end,
            updated_at = clock_timestamp()
        where n.instance_id = v_instance_id and n.id = v_record ->> 'node';
        return v_message_id;
    end if;
    v_records := df._node_records(array[v_engine_id], array[p_projection]);
    if v_records is not null then
        perform df._write_nodes(v_records);
    end if;
    return v_message_id;
end
$$;

comment on function df._finish_step_v1(text, text, text) is 'Ends a SQL step inside its own transaction';

-- Ends instances whose engine state has ended without them, or is gone. Both are written in one commit,
-- so there are none, unless somebody wrote to the tables, or restored some of them.
create function df._repair_v1(p_at_most integer) returns table (instance_id text, status text, error text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
        with wrong as materialized (
            select
                i.id,
                case when e.status = 'Completed' then 'completed' else 'failed' end as status,
                case e.status when 'Completed' then null when 'Failed' then e.output else 'engine state lost' end as error
            from df.instances as i
            left join duroxide.instances as e on e.instance_id = i.id
            where i.status in ('pending', 'running')
                and case
                    when e.instance_id is not null then e.status in ('Completed', 'Failed')
                    -- One that has not begun has its start message.
                    else not exists (select from duroxide.orchestrator_queue as q where q.instance_id = i.id)
                end
            order by i.created_at
            limit p_at_most
            for no key update of i skip locked
        ),
        ended as (
            update df.instances as i
            set status = w.status, error = w.error, updated_at = clock_timestamp(), completed_at = clock_timestamp()
            from wrong as w
            where i.id = w.id
            returning i.id, i.status, i.error
        ),
        waiters as (
            delete from df._signal_waiters as s using wrong as w where s.instance_id = w.id
        )
        select d.id::text, d.status, d.error from ended as d;
end
$$;

comment on function df._repair_v1(integer) is 'Ends instances whose engine state has ended without them or is gone';

revoke execute on function df._repair_v1(integer) from public;
revoke execute on function df._write_nodes(jsonb) from public;
revoke execute on function df._project_v1(text[], bigint[], text[], text[], text[], text[], boolean) from public;

-- What is installed here.

create function df.version() returns text
language sql volatile strict
set search_path = pg_catalog, pg_temp
as $$
    select format(
        '0.2.6 (built %s)', to_char(i.installed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
    )
    from df._install as i
$$;

comment on function df.version() is 'The level of the SQL surface; df.implementation() tells what provides it';

create function df.implementation() returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select 'pg-durable: SQL and Python, schema version 1'::text
$$;

comment on function df.implementation() is 'What provides the df functions';

create function df.target_database() returns text
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select current_database()::text
$$;

comment on function df.target_database() is 'The database that holds df and the engine: this one';

create function df.duroxide_schema() returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select 'duroxide'::text
$$;

comment on function df.duroxide_schema() is 'The schema of the engine''s tables';

grant select on df._install to public;

-- Who may use df. Functions are executable by PUBLIC as usual; the gate is USAGE on the schema.

create function df.grant_usage(
    p_role text, include_http boolean default false, with_grant boolean default false
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_role text := quote_ident(p_role);  -- everybody is written public, which is not quoted
    v_option text := case when with_grant then ' WITH GRANT OPTION' else '' end;
    v_what text;
begin
    foreach v_what in array array[
        'USAGE ON SCHEMA df',
        'SELECT, INSERT (id, label, root_node, submitted_by, database, start_at, idempotency_key) ON df.instances',
        'SELECT, INSERT (id, instance_id, node_type, query, result_name, left_node, right_node, submitted_by, database, options) ON df.nodes',
        'SELECT, INSERT, UPDATE, DELETE ON df.vars',
        'INSERT (kind, instance_id, payload) ON df._inbox',
        'SELECT ON df._engine_instances',
        'SELECT ON df._engine_executions'
    ] loop
        execute format('GRANT %s TO %s%s', v_what, v_role, v_option);
    end loop;
    if include_http then
        foreach v_what in array array[
            'df.http(text, text, text, jsonb, integer)', 'df.http_multipart(text, text, jsonb, jsonb, integer)'
        ] loop
            execute format('GRANT EXECUTE ON FUNCTION %s TO %s%s', v_what, v_role, v_option);
        end loop;
    end if;
    if with_grant then
        foreach v_what in array array[
            'df.grant_usage(text, boolean, boolean)', 'df.revoke_usage(text)', 'df.metrics()'
        ] loop
            execute format('GRANT EXECUTE ON FUNCTION %s TO %s WITH GRANT OPTION', v_what, v_role);
        end loop;
    end if;
    raise notice 'pg_durable: granted df usage privileges to "%"', p_role;
end
$$;

comment on function df.grant_usage(text, boolean, boolean) is 'Lets a role (or public) use df; with_grant also lets it pass that on';

create function df.revoke_usage(p_role text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_role text := quote_ident(p_role);  -- everybody is written public, which is not quoted
    v_what text;
begin
    foreach v_what in array array[
        'SELECT ON df._engine_executions',
        'SELECT ON df._engine_instances',
        'INSERT (kind, instance_id, payload) ON df._inbox',
        'SELECT, INSERT, UPDATE, DELETE ON df.vars',
        'SELECT, INSERT (id, instance_id, node_type, query, result_name, left_node, right_node, submitted_by, database, options) ON df.nodes',
        'SELECT, INSERT (id, label, root_node, submitted_by, database, start_at, idempotency_key) ON df.instances'
    ] loop
        execute format('REVOKE %s FROM %s CASCADE', v_what, v_role);
    end loop;
    -- A delegated administrator may lack the right to these; that must not stop him from the rest.
    foreach v_what in array array[
        'df.http(text, text, text, jsonb, integer)', 'df.http_multipart(text, text, jsonb, jsonb, integer)',
        'df.grant_usage(text, boolean, boolean)', 'df.revoke_usage(text)', 'df.metrics()'
    ] loop
        begin
            execute format('REVOKE EXECUTE ON FUNCTION %s FROM %s CASCADE', v_what, v_role);
        exception
            when insufficient_privilege then
                null;
        end;
    end loop;
    execute format('REVOKE USAGE ON SCHEMA df FROM %s CASCADE', v_role);
    raise notice 'pg_durable: revoked df usage privileges granted by "%" from "%"', current_user, p_role;
end
$$;

comment on function df.revoke_usage(text) is 'Takes back what df.grant_usage gave; grants of other roles stay';

revoke execute on function df.http(text, text, text, jsonb, integer) from public;
revoke execute on function df.http_multipart(text, text, jsonb, jsonb, integer) from public;
revoke execute on function df.grant_usage(text, boolean, boolean) from public;
revoke execute on function df.revoke_usage(text) from public;
