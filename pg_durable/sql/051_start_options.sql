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
