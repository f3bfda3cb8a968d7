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
