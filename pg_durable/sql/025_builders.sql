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
