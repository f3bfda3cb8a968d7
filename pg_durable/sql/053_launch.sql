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
