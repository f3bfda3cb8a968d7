-- df.explain: a workflow as a tree of text.

create function df._clip(p_text text, p_longest integer) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case when length(p_text) > p_longest then left(p_text, p_longest - 3) || '...' else p_text end
$$;

-- The text of one node, without its place in the tree.
create function df._caption(p_node_type text, p_query text, p_result_name text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_config json;
begin
    if p_node_type not in ('SQL', 'SLEEP') then
        select t.value into v_config from df._try_json(p_query) as t;
        if json_typeof(v_config) <> 'object' then
            v_config := null;
        end if;
    end if;
    return case p_node_type
        when 'SQL' then 'SQL: ' || df._clip(p_query, 50)
        when 'SLEEP' then 'SLEEP ' || p_query || 's'
        when 'WAIT_SCHEDULE' then format('WAIT ''%s''', v_config ->> 'cron_expr')
            || coalesce(' (' || (v_config ->> 'timezone') || ')', '')
        when 'SIGNAL' then format('SIGNAL ''%s''', v_config ->> 'signal_name')
            || coalesce(' ' || (v_config ->> 'mode'), '')
            || coalesce(' (' || (v_config ->> 'timeout_seconds') || 's)', '')
        when 'LOOP' then case when v_config -> 'condition_node' is null then 'LOOP (infinite)' else 'LOOP (while)' end
        when 'BREAK' then 'BREAK' || coalesce(' ''' || df._clip(v_config ->> 'break_value', 20) || '''', '')
        when 'JOIN' then format('JOIN (%s)', 2 + coalesce(json_array_length(v_config -> 'extra_nodes'), 0))
        when 'HTTP' then format('HTTP %s %s', v_config ->> 'method', df._clip(v_config ->> 'url', 40))
        when 'HTTP_MULTIPART'
            then format('HTTP_MULTIPART %s %s', v_config ->> 'method', df._clip(v_config ->> 'url', 40))
        else p_node_type
    end || case
        when p_result_name is not null and p_node_type <> 'RACE' then format(' |=> ''%s''', p_result_name)
        else ''
    end;
end
$$;

create function df._mark_of(p_status text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case p_status
        when 'completed' then ' ✓'
        when 'failed' then ' ✗'
        when 'running' then ' ⏳'
        when 'skipped' then ' ⊘'
        when 'cancelled' then ' ⊘'
        when 'pending' then ' ○'
        else ''
    end
$$;

-- What is drawn below a node: headings and further nodes, each with its indentation and lead.
--   THEN draws nothing itself; its sides stand one below the other at its own place.
create function df._below(
    p_node_type text, p_query text, p_left text, p_right text, p_indent integer, p_lead text,
    out place bigint, out node_id text, out indent integer, out lead text, out heading text
)
returns setof record
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select 2 * c.place, c.id, p_indent, case when c.place = 1 then p_lead else '→ ' end, null::text
    from df._children(p_node_type, p_query, p_left, p_right) as c
    where p_node_type = 'THEN'
    union all
    select
        2 * c.place + s.part, case when s.part = 1 then c.id end,
        p_indent + 4 + 2 * s.part,
        case
            when s.part = 0 then ''
            when p_node_type in ('JOIN', 'RACE') and c.place < max(c.place) over () then '├─'
            else '└─'
        end,
        case
            when s.part = 1 then null
            when p_node_type = 'LOOP' then (array['↻ body:', '? while:'])[c.place]
            when p_node_type = 'IF' then (array['? condition:', '✓ then:', '✗ else:'])[c.place]
            else format('║ branch %s:', c.place)
        end
    from df._children(p_node_type, p_query, p_left, p_right) as c
    cross join (values (0), (1)) as s (part)
    where p_node_type <> 'THEN'
$$;

-- The drawing of rows like those of df.nodes, given as
-- {"<id>": {"type", "query", "name", "left", "right", "status"?}}.
create function df._draw(p_nodes jsonb, p_root text) returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with recursive nodes as materialized (
        select n.key as id, n.type, n.query, n.name, n."left", n."right", n.status
        from (
            select e.key, r.*
            from jsonb_each(p_nodes) as e
            cross join lateral jsonb_to_record(e.value)
                as r (type text, query text, name text, "left" text, "right" text, status text)
        ) as n
    ),
    drawing (sort, node_id, indent, lead, heading) as (
        select array[]::bigint[], p_root, 0, '', null::text
        union all
        select d.sort || b.place, b.node_id, b.indent, b.lead, b.heading
        from drawing as d
        join nodes as n on n.id = d.node_id
        cross join lateral df._below(n.type, n.query, n."left", n."right", d.indent, d.lead) as b
    )
    select
        repeat(' ', d.indent) || coalesce(
            d.heading, d.lead || df._caption(n.type, n.query, n.name) || df._mark_of(n.status)
        )
    from drawing as d
    left join nodes as n on n.id = d.node_id
    where d.heading is not null or n.type <> 'THEN'
    order by d.sort
$$;

-- Lines side by side as one text, each padded to the longest and four more.
create function df._framed(p_lines text[]) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select string_agg(
        l.line || repeat(' ', (select max(length(m.line)) from unnest(p_lines) as m (line)) + 4 - length(l.line)),
        E'\n' order by l.n
    )
    from unnest(p_lines) with ordinality as l (line, n)
$$;

-- What can be drawn, as _draw takes it: a graph that was built, and one that runs.
create function df._drawable_node(p_node text, out nodes jsonb, out root text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    select
        jsonb_object_agg(f.id, jsonb_build_object(
            'type', f.node_type, 'query', f.query, 'name', f.result_name, 'left', f.left_node, 'right', f.right_node
        )), min(f.id) filter (where f.ord = 1)
    into nodes, root
    from df._flatten(p_node) as f;
end
$$;

create function df._drawable_instance(p_instance_id text, out nodes jsonb, out root text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    select i.root_node into root from df.instances as i where i.id = p_instance_id;
    select jsonb_object_agg(n.node_id, jsonb_build_object(
        'type', n.node_type, 'query', n.query, 'name', n.result_name, 'left', n.left_node,
        'right', n.right_node, 'status', n.inferred_status
    )) into nodes
    from df.instance_nodes(p_instance_id) as n;
end
$$;

create function df._explain_node(p_node text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform df._warn_mistakes(p_node);
    return (
        select df._framed(array(select d from df._draw(g.nodes, g.root) as d))
        from df._drawable_node(p_node) as g
    );
exception
    when internal_error then
        return sqlerrm;
end
$$;

-- Where and why a workflow failed, or does not go on: lines for its header.
create function df._explain_problem(p_error text, p_details jsonb, p_nodes jsonb) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_node jsonb := p_nodes -> (p_details ->> 'node_id');
begin
    return array(
        select rpad(l.name || ':', 10) || regexp_replace(l.line, E'\\s+', ' ', 'g')
        from (
            values
                (1, 'Error', case when length(p_error) > 60 then p_error end),
                (2, 'At', df._caption(v_node ->> 'type', v_node ->> 'query', v_node ->> 'name')
                    || format(' (node %s)', p_details ->> 'node_id')),
                (3, 'SQLSTATE', p_details ->> 'sqlstate'),
                (4, 'Detail', p_details ->> 'detail'),
                (5, 'Hint', p_details ->> 'hint'),
                (6, 'Reason', p_details ->> 'reason')
        ) as l (n, name, line)
        where l.line <> ''
        order by l.n
    );
end
$$;

create function df._explain_instance(p_instance_id text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_instance record;
    v_word text;
    v_output text;
    v_nodes jsonb;
    v_lines text[];
begin
    select
        i.id, i.label, i.status, i.root_node, i.error, i.error_details, e.status as engine_status, e.output
    into v_instance
    from df.instances as i
    left join df._engine_instances as e on e.instance_id = i.id
    where i.id = lower(p_instance_id);
    if not found then
        return format('Instance ''%s'' not found', p_instance_id);
    end if;
    if not df._is_tree(v_instance.id) then
        return format('Cannot explain instance ''%s'': its nodes are no tree; see df.instance_nodes(''%s'')', v_instance.id, v_instance.id);
    end if;
    select g.nodes into v_nodes from df._drawable_instance(v_instance.id) as g;
    if v_nodes is null then
        return format('No nodes found for instance ''%s''', v_instance.id);
    end if;
    -- The engine's word; of a cancelled workflow it would say Failed, or nothing yet.
    v_word := case
        when v_instance.status = 'cancelled' then 'cancelled'
        when v_instance.status in ('completed', 'failed', 'running') then initcap(v_instance.status)
        else coalesce(v_instance.engine_status, v_instance.status)
    end;
    v_output := df._clip(coalesce(v_instance.error, df.result(v_instance.id), v_instance.output), 60);
    v_lines := array[
        format('Instance: %s', v_instance.id) || coalesce(' (' || v_instance.label || ')', ''),
        format('Status:   %s %s', case
            when lower(v_word) in ('completed', 'continuedasnew') then '✓'
            when lower(v_word) in ('failed', 'cancelled') then '✗'
            when lower(v_word) = 'running' then '⏳'
            else '○'
        end, v_word)
    ];
    if v_output is not null then
        v_lines := v_lines || ('Output:   ' || v_output);
    end if;
    v_lines := v_lines || df._explain_problem(v_instance.error, v_instance.error_details, v_nodes);
    return df._framed(v_lines || array[''] || array(select d from df._draw(v_nodes, v_instance.root_node) as d));
end
$$;

-- How df.explain understands its input: instance, node, sql, nothing or expression.
create function df._explain_mode(p_input text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_marked boolean := p_input ~ E'~>|\\|=>|\\?>|!>|@>|df\\.';
    v_keyword boolean := p_input ~* E'^((select|insert|update|delete|with)[ \\n]|(create|alter|drop|call|do|truncate|grant|revoke|explain) )';
begin
    if p_input ~ '^[0-9A-Fa-f]{8}$' then
        return 'instance';
    end if;
    if (select p.node is not null from df._parse_node(p_input) as p) then
        return 'node';
    end if;
    return case when v_marked then 'expression' when v_keyword then 'sql' else 'nothing' end;
end
$$;

-- The answer for the text that an expression gave.
create function df._explain_value(p_value text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_node text;
    v_type text;
    v_problem text;
begin
    if p_value is null then
        return 'Expression returned NULL';
    end if;
    select p.node, p.node_type, p.problem into v_node, v_type, v_problem from df._parse_node(p_value) as p;
    if v_node is null then
        return 'Failed to parse Durofut JSON: ' || case
            when v_type is null then 'the expression gave no workflow but: ' || df._clip(p_value, 200)
            when not df._is_node_type(v_type) then df._unknown_node_type(v_type)
            else v_problem
        end;
    end if;
    return df._explain_node(v_node);
end
$$;

create function df._explain_known(p_input text, p_mode text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return case p_mode
        when 'instance' then df._explain_instance(p_input)
        when 'node' then df._explain_value(p_input)
        when 'sql' then df._explain_value(df.sql(p_input))
        else 'Cannot explain input: not a valid Durofut JSON, instance ID, SQL statement, or DSL expression.'
            || E'\nHint: DSL expressions use df.*() functions and operators like ~>, |=>, &, |.'
    end;
end
$$;

-- An expression is evaluated under the caller's own search_path, so this function has none of its own
-- and calls everything by its full name. What the expression did besides giving a value is undone: to
-- look at a workflow must not start it.
create function df.explain(input text) returns text
language plpgsql strict
as $$
declare
    v_input text := pg_catalog.btrim(input, E' \t\n\r');
    v_mode text := df._explain_mode(v_input);
    v_value text;
begin
    if pg_catalog.textne(v_mode, 'expression') then
        return df._explain_known(v_input, v_mode);
    end if;
    begin
        execute pg_catalog.concat('SELECT ', v_input) into v_value;
        raise exception using errcode = 'PD003', message = 'undo';
    exception
        when sqlstate 'PD003' then
            null;
    end;
    perform df._warn_precedence(v_input);
    return df._explain_value(v_value);
end
$$;

comment on function df._clip(text, integer) is 'Text cut to a length';
comment on function df._caption(text, text, text) is 'The text of one node';
comment on function df._mark_of(text) is 'The sign for a status';
comment on function df._below(text, text, text, text, integer, text) is 'What is drawn below a node';
comment on function df._draw(jsonb, text) is 'The lines of a drawing';
comment on function df._framed(text[]) is 'Lines padded to one width';
comment on function df._drawable_node(text) is 'Node text as rows to draw';
comment on function df._drawable_instance(text) is 'An instance as rows to draw';
comment on function df._explain_node(text) is 'The drawing of node text';
comment on function df._explain_problem(text, jsonb, jsonb) is 'Where and why a workflow failed, or does not go on';
comment on function df._explain_instance(text) is 'The drawing of an instance with its statuses';
comment on function df._explain_mode(text) is 'How df.explain understands its input';
comment on function df._explain_value(text) is 'The drawing of what an expression gave';
comment on function df._explain_known(text, text) is 'The answer for input that need not be evaluated';
comment on function df.explain(text) is 'A workflow as a tree of text: an instance id, node text, SQL, or an expression of df functions';
