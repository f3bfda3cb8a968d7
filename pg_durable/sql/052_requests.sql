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
