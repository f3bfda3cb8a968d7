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
