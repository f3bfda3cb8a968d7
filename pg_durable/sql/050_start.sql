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
