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
