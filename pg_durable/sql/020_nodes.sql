-- Node text: compact JSON that describes a step with its children nested inside, and the functions
-- that build it. Text is concatenated, since json_build_object adds blanks and jsonb reorders keys;
-- to_json(text) escapes minimally, and json (not jsonb) gives children back byte for byte.

-- The message of a node_type that does not exist. Kept in one place because df.start and the graph
-- check both raise it.
create function df._unknown_node_type(p_type text) returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select format(
        'Unknown node_type ''%s''. Valid types: SQL, THEN, IF, JOIN, LOOP, BREAK, RACE, SLEEP, '
        'WAIT_SCHEDULE, HTTP, HTTP_MULTIPART, SIGNAL', p_type
    )
$$;

create function df._is_node_type(p_type text) returns boolean
language sql immutable parallel safe
as $$
    select p_type in (
        'SQL', 'THEN', 'IF', 'JOIN', 'LOOP', 'BREAK', 'RACE', 'SLEEP', 'WAIT_SCHEDULE', 'HTTP',
        'HTTP_MULTIPART', 'SIGNAL'
    )
$$;

-- Parses text as json; null (with the reason) where it is none, instead of an error.
create function df._try_json(p_text text, out value json, out problem text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    value := p_text::json;
exception
    when data_exception then
        problem := sqlerrm;
end
$$;

-- What is wrong with the types of a node's fields; null: nothing. JSON null counts as absent.
-- Without settings of its own, so that it is inlined: every step of every graph passes through it.
create function df._misshapen(
    p_left text, p_right text, p_condition text, p_extra text, p_query text, p_name text
)
returns text
language sql immutable parallel safe
as $$
    select case
        when p_left not in ('object', 'null') or p_right not in ('object', 'null')
            then 'Durofut children must be JSON objects'
        when p_condition not in ('object', 'null') then 'condition_node must be a Durofut JSON object'
        when p_extra not in ('array', 'null') then 'extra_nodes must be an array of Durofut JSON objects'
        when p_query not in ('string', 'null') then 'query must be a string'
        when p_name not in ('string', 'null') then 'result_name must be a string'
    end
$$;

-- Tells node text from plain text.
--   node_type null: plain text. problem null: `node` is the node in canonical form, its children
--   untouched. Otherwise `problem` says what is wrong with it.
create function df._parse_node(p_text text, out node text, out node_type text, out problem text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_left json;
    v_right json;
    v_condition json;
    v_extra json;
    v_query json;
    v_name json;
    v_options json;
    v_type json;
    v_repeated text;
    v_is_json boolean := false;
begin
    if left(ltrim(p_text, E' \t\n\r'), 1) is distinct from '{' then
        return;
    end if;
    perform p_text::json;
    v_is_json := true;
    select
        max(e.value::text) filter (where e.key = 'node_type'),
        max(e.value::text) filter (where e.key = 'left_node'),
        max(e.value::text) filter (where e.key = 'right_node'),
        max(e.value::text) filter (where e.key = 'condition_node'),
        max(e.value::text) filter (where e.key = 'extra_nodes'),
        max(e.value::text) filter (where e.key = 'query'),
        max(e.value::text) filter (where e.key = 'result_name'),
        max(e.value::text) filter (where e.key = 'options'),
        case when count(*) > count(distinct e.key) then 'a field occurs twice' end
    into v_type, v_left, v_right, v_condition, v_extra, v_query, v_name, v_options, v_repeated
    from json_each(p_text::json) as e
    where e.key in (
        'node_type', 'left_node', 'right_node', 'condition_node', 'extra_nodes', 'query', 'result_name',
        'options'
    );
    if json_typeof(v_type) is distinct from 'string' then
        return;
    end if;
    node_type := v_type #>> '{}';
    if not df._is_node_type(node_type) then
        problem := 'unknown node_type';
        return;
    end if;
    problem := coalesce(v_repeated, df._misshapen(
        json_typeof(v_left), json_typeof(v_right), json_typeof(v_condition), json_typeof(v_extra),
        json_typeof(v_query), json_typeof(v_name)
    ));
    if problem is null and json_typeof(v_options) not in ('object', 'null') then
        problem := 'options must be a JSON object';
    end if;
    if problem is null and json_typeof(v_extra) = 'array' and exists (
        select from json_array_elements(v_extra) as e where json_typeof(e.value) <> 'object'
    ) then
        problem := 'extra_nodes entries must be Durofut JSON objects';
    end if;
    if problem is null then
        node := '{"node_type":"' || node_type || '"'
            || case when json_typeof(v_left) = 'object' then ',"left_node":' || v_left::text else '' end
            || case when json_typeof(v_right) = 'object' then ',"right_node":' || v_right::text else '' end
            || case when json_typeof(v_condition) = 'object'
                then ',"condition_node":' || v_condition::text else '' end
            || case when json_typeof(v_extra) = 'array' then ',"extra_nodes":' || v_extra::text else '' end
            || coalesce(',"query":' || to_json(v_query #>> '{}')::text, '')
            || case when json_typeof(v_options) = 'object' then ',"options":' || v_options::text else '' end
            || coalesce(',"result_name":' || to_json(v_name #>> '{}')::text, '')
            || '}';
    end if;
exception
    when data_exception then
        -- Not JSON: plain text. But JSON can also hold what PostgreSQL can't: \u0000, lone surrogates.
        node := null;
        node_type := case when v_is_json then substring(p_text from E'"node_type"\\s*:\\s*"([A-Z_]+)"') end;
        if df._is_node_type(node_type) then
            problem := sqlerrm;
        else
            node_type := null;
        end if;
end
$$;

-- JSON text without the blanks between its tokens, keys in their order.
create function df._compact_json(p_text text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select regexp_replace(p_text, E'("(?:[^"\\\\]|\\\\.)*")|[ \\t\\n\\r]+', E'\\1', 'g')
$$;

comment on function df._compact_json(text) is 'JSON text without blanks';

-- Remembers, for the rest of this statement, that a function was called whose answer is no step.
create function df._mark_helper(p_function text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config('df.non_future_helper', p_function || E'\n' || df._statement_stamp(), true);
end
$$;

create function df._statement_stamp() returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select (extract(epoch from statement_timestamp()) * 1000000)::bigint::text
    );
end
$$;

-- The function, called in this very statement, whose answer `p_text` probably is; else null. Only its
-- possible answers are suspected, so that a helper call does no harm to real steps beside it.
create function df._misused_helper(p_text text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_mark text;
begin
    if p_text not in ('OK', 'completed', 'failed', 'cancelled') then
        return null;
    end if;
    v_mark := current_setting('df.non_future_helper', true);
    return case when split_part(v_mark, E'\n', 2) = df._statement_stamp() then split_part(v_mark, E'\n', 1) end;
end
$$;

create function df._in_workflow() returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select coalesce(current_setting('df.in_workflow', true), '') = 'true'
    );
end
$$;

-- The step that an argument of a builder stands for: node text as it is, anything else as a SQL step.
create function df._step(p_text text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_node text;
    v_type text;
    v_problem text;
    v_helper text;
begin
    if p_text is null then
        return null;
    end if;
    select p.node, p.node_type, p.problem into v_node, v_type, v_problem from df._parse_node(p_text) as p;
    if v_node is not null then
        return v_node;
    end if;
    if v_type is not null and df._is_node_type(v_type) then
        raise exception 'Invalid Durofut JSON: failed to deserialize workflow step: %', v_problem
            using errcode = 'XX000';
    end if;
    v_helper := df._misused_helper(p_text);
    if v_helper is not null then
        raise exception '% cannot be used as a workflow step. Call % before df.start().', v_helper, v_helper
            using errcode = 'XX000';
    end if;
    return '{"node_type":"SQL","query":' || to_json(p_text)::text || '}';
end
$$;

comment on function df._unknown_node_type(text) is 'Error text';
comment on function df._is_node_type(text) is 'Whether a node type exists';
comment on function df._try_json(text) is 'json, or why it is none';
comment on function df._parse_node(text) is 'Tells node text from plain text';
comment on function df._misshapen(text, text, text, text, text, text) is 'Error text for a node with fields of a wrong type';
comment on function df._mark_helper(text) is 'Notes that a function that is no step was called';
comment on function df._statement_stamp() is 'Tells one statement of a session from the next';
comment on function df._misused_helper(text) is 'The helper whose answer a step probably is';
comment on function df._in_workflow() is 'Whether this session runs a workflow step';
comment on function df._step(text) is 'The step that a builder''s argument stands for';
