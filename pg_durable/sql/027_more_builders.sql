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
