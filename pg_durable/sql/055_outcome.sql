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
