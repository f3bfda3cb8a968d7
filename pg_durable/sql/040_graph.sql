-- From node text to the rows of df.nodes: one row per step, ids for children, and every rule of a whole
-- graph checked. Shared by df.start and df.explain.

-- Every node of a tree with its place. `sort` is the way from the root as slot numbers (1 left, 2 right,
-- 3 condition, 4.. extra), so its order is: parents first, then left, right, condition, extras.
create function df._walk(
    p_root jsonb, out sort integer[], out path text, out depth integer, out node jsonb
)
returns setof record
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
        with recursive walk (sort, path, depth, node) as (
            select array[]::integer[], 'root', 0, p_root
            union all
            select w.sort || c.slot, w.path || c.step, w.depth + 1, c.child
            from walk as w
            cross join lateral (
                values
                    (1, '.left', w.node -> 'left_node'),
                    (2, '.right', w.node -> 'right_node'),
                    (3, '.condition_node', w.node -> 'condition_node')
                union all
                select 3 + e.n::integer, format('.extra_nodes[%s]', e.n - 1), e.entry
                from jsonb_array_elements(
                    case jsonb_typeof(w.node -> 'extra_nodes') when 'array' then w.node -> 'extra_nodes' end
                ) with ordinality as e (entry, n)
            ) as c (slot, step, child)
            -- One level below the limit is enough to see that it is passed.
            where w.depth <= 256 and jsonb_typeof(c.child) is distinct from 'null' and c.child is not null
        )
        select w.sort, w.path, w.depth, w.node from walk as w;
end
$$;

comment on function df._walk(jsonb) is 'Every node of a tree with its place';

-- What is wrong with one node by itself; null: nothing.
create function df._node_fault(p_node jsonb, p_depth integer) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_type text;
    v_config json;
    v_problem text;
begin
    if p_depth > 256 then
        return 'Graph exceeds maximum nesting depth of 256. A chain of ~> nests to the left, so it can have '
            '257 steps; longer ones need groups in parentheses or a second workflow.';
    end if;
    if jsonb_typeof(p_node) <> 'object' then
        return 'Durofut children must be JSON objects';
    end if;
    if jsonb_typeof(p_node -> 'node_type') is distinct from 'string' then
        return 'node_type is missing';
    end if;
    v_type := p_node ->> 'node_type';
    if not df._is_node_type(v_type) then
        return df._unknown_node_type(v_type);
    end if;
    v_problem := df._misshapen(
        jsonb_typeof(p_node -> 'left_node'), jsonb_typeof(p_node -> 'right_node'),
        jsonb_typeof(p_node -> 'condition_node'), jsonb_typeof(p_node -> 'extra_nodes'),
        jsonb_typeof(p_node -> 'query'), jsonb_typeof(p_node -> 'result_name')
    );
    if v_problem is not null then
        return format('Malformed Durofut JSON with node_type ''%s'': %s', v_type, v_problem);
    end if;
    if jsonb_typeof(p_node -> 'condition_node') = 'object' and v_type not in ('IF', 'LOOP') then
        return format('condition_node is not valid for %s nodes', v_type);
    end if;
    if jsonb_typeof(p_node -> 'extra_nodes') = 'array' and v_type <> 'JOIN' then
        return format('extra_nodes is not valid for %s nodes', v_type);
    end if;
    if coalesce(jsonb_typeof(p_node -> 'options'), 'null') <> 'null' then
        if v_type <> 'SQL' then
            return format('options is not valid for %s nodes', v_type);
        end if;
        v_problem := df._sql_options_fault(p_node -> 'options');
        if v_problem is not null then
            return v_problem;
        end if;
    end if;
    if v_type in ('IF', 'LOOP', 'JOIN') and p_node ->> 'query' is not null then
        select t.value, t.problem into v_config, v_problem from df._try_json(p_node ->> 'query') as t;
        if v_problem is not null then
            return format('query in %s must be valid JSON config: %s', v_type, v_problem);
        end if;
        if json_typeof(v_config) <> 'object' then
            return format('query in %s must be a JSON config object', v_type);
        end if;
        if v_type = 'JOIN' and v_config -> 'extra_nodes' is not null then
            return 'extra_nodes in JOIN must be a first-class Durofut field, not embedded in query';
        end if;
        if v_type <> 'JOIN' and v_config -> 'condition_node' is not null then
            return format('condition_node in %s must be a first-class Durofut field, not embedded in query', v_type);
        end if;
    end if;
    return null;
end
$$;

comment on function df._node_fault(jsonb, integer) is 'What is wrong with one node by itself';

-- A configuration object as text with one more entry.
create function df._with_entry(p_config text, p_entry text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_config is null then
        return '{' || p_entry || '}';
    end if;
    return (
        select '{' || coalesce(
            string_agg(to_json(e.key)::text || ':' || e.value::text, ',' order by e.n) || ',', ''
        ) || p_entry || '}'
        from json_each(p_config::json) with ordinality as e (key, value, n)
    );
end
$$;

comment on function df._with_entry(text, text) is 'A configuration object with one more entry';

-- The rows of a graph, parents first; the first row is the root. Raises if the graph breaks a rule.
--
-- Ids are distinct by construction: multiples of an odd number, modulo 2^32, from a random start.
create function df._flatten(
    p_node text, out ord bigint, out id text, out node_type text, out query text, out result_name text,
    out left_node text, out right_node text, out options jsonb
)
returns setof record
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_root jsonb;
    v_start bigint := ('x' || right(gen_random_uuid()::text, 8))::bit(32)::bigint;
    v_fault text;
    v_row record;
begin
    begin
        v_root := p_node::jsonb;
    exception
        when data_exception then
            raise exception 'Invalid durable function graph: root: %', sqlerrm using errcode = 'XX000';
    end;
    for v_row in
        with numbered as materialized (
            select
                w.sort, w.path, w.depth, w.node, row_number() over (order by w.sort) as n
            from df._walk(v_root) as w
        ),
        named as materialized (
            select
                d.sort, d.path, d.depth, d.node, d.n, d.sort[cardinality(d.sort)] as slot,
                lpad(to_hex((v_start + d.n * 2654435761) & 4294967295), 8, '0') as id
            from numbered as d
        ),
        families as (
            select
                c.sort[1:cardinality(c.sort) - 1] as parent,
                max(c.id) filter (where c.slot = 1) as left_node,
                max(c.id) filter (where c.slot = 2) as right_node,
                max(c.id) filter (where c.slot = 3) as condition_node,
                string_agg('"' || c.id || '"', ',' order by c.n) filter (where c.slot > 3) as extra_nodes
            from named as c
            where c.slot is not null
            group by c.sort[1:cardinality(c.sort) - 1]
        )
        select
            n.n, n.id, n.path, n.depth, n.node, f.left_node, f.right_node, f.condition_node, f.extra_nodes
        from named as n
        left join families as f on f.parent = n.sort
        order by n.n
    loop
        v_fault := case
            when v_row.n > 10000
                then 'Workflow exceeds maximum node count of 10000. Let one workflow start another for a part of the work.'
            else df._node_fault(v_row.node, v_row.depth)
        end;
        if v_fault is not null then
            raise exception 'Invalid durable function graph: %: %', v_row.path, v_fault using errcode = 'XX000';
        end if;
        ord := v_row.n;
        id := v_row.id;
        node_type := v_row.node ->> 'node_type';
        query := v_row.node ->> 'query';
        if v_row.condition_node is not null then
            query := df._with_entry(query, '"condition_node":"' || v_row.condition_node || '"');
        elsif v_row.extra_nodes is not null then
            query := df._with_entry(query, '"extra_nodes":[' || v_row.extra_nodes || ']');
        end if;
        result_name := v_row.node ->> 'result_name';
        left_node := v_row.left_node;
        right_node := v_row.right_node;
        options := nullif(v_row.node -> 'options', 'null');
        return next;
    end loop;
end
$$;

comment on function df._flatten(text) is 'The rows of a graph; raises if it breaks a rule';

-- The strict reading of what is given to df.start: unknown and malformed nodes are errors.
create function df._start_step(p_text text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_node text;
    v_type text;
    v_problem text;
    v_helper text;
begin
    select p.node, p.node_type, p.problem into v_node, v_type, v_problem from df._parse_node(p_text) as p;
    if v_node is not null then
        return v_node;
    end if;
    if v_type is null then
        v_helper := df._misused_helper(p_text);
        if v_helper is not null then
            raise exception 'Invalid durable function: % cannot be used as a workflow step. Call % before df.start().',
                v_helper, v_helper using errcode = 'XX000';
        end if;
        return '{"node_type":"SQL","query":' || to_json(p_text)::text || '}';
    end if;
    if not df._is_node_type(v_type) then
        raise exception 'Invalid durable function: %', df._unknown_node_type(v_type) using errcode = 'XX000';
    end if;
    raise exception 'Invalid durable function: Malformed Durofut JSON with node_type ''%'': %', v_type, v_problem
        using errcode = 'XX000';
end
$$;

comment on function df._start_step(text) is 'The step that df.start is given';
