-- From node text to the rows of df.nodes: one row per step, ids for children, and every rule of a whole
-- graph checked. Shared by df.start and df.explain.

-- Every node of a tree with its place. `sort` is the way from the root as slot numbers (1 left, 2 right,
-- 3 condition, 4.. extra), so its order is: parents first, then left, right, condition, extras.
create function df._walk(
    p_root jsonb, out sort integer[], out path text, out depth integer, out node jsonb
)
returns setof record
language sql stable
set search_path = pg_catalog, pg_temp
as $$
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
    select w.sort, w.path, w.depth, w.node from walk as w
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
        (p_node -> 'left_node')::json, (p_node -> 'right_node')::json, (p_node -> 'condition_node')::json,
        (p_node -> 'extra_nodes')::json, (p_node -> 'query')::json, (p_node -> 'result_name')::json
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
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select '{' || coalesce(
        (
            select string_agg(to_json(e.key)::text || ':' || e.value::text, ',' order by e.n) || ','
            from json_each(p_config::json) with ordinality as e (key, value, n)
        ), ''
    ) || p_entry || '}'
$$;

comment on function df._with_entry(text, text) is 'A configuration object with one more entry';

-- The rows of a graph, parents first; the first row is the root. Raises if the graph breaks a rule.
--
-- Ids are distinct by construction: multiples of an odd number, modulo 2^32, from a random start.
create function df._flatten(
    p_node text, out ord bigint, out id text, out node_type text, out query text, out result_name text,
    out left_node text, out right_node text
)
returns setof record
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_root jsonb;
    v_start bigint := ('x' || right(gen_random_uuid()::text, 8))::bit(32)::bigint;
    v_fault text;
    v_path text;
begin
    begin
        v_root := p_node::jsonb;
    exception
        when data_exception then
            raise exception 'Invalid durable function graph: root: %', sqlerrm using errcode = 'XX000';
    end;
    -- The first fault in the order of the walk; too many children are their parent's fault.
    select f.path, f.fault into v_path, v_fault
    from (
        select w.sort, w.path, df._node_fault(w.node, w.depth) as fault, 0 as rank
        from df._walk(v_root) as w
        union all
        select
            coalesce(c.sort[1:cardinality(c.sort) - 1], '{}'), c.path,
            'Workflow exceeds maximum node count of 10000. Let one workflow start another for a part of the work.', 1
        from (
            select w.sort, w.path, row_number() over (order by w.sort) as n from df._walk(v_root) as w
        ) as c
        where c.n > 10000
    ) as f
    where f.fault is not null
    order by f.sort, f.rank
    limit 1;
    if found then
        raise exception 'Invalid durable function graph: %: %', v_path, v_fault using errcode = 'XX000';
    end if;
    return query
        with numbered as (
            select w.sort, w.node, row_number() over (order by w.sort) as n from df._walk(v_root) as w
        ),
        named as (
            select
                d.sort, d.node, d.n,
                lpad(to_hex((v_start + d.n * 2654435761) & 4294967295), 8, '0') as id
            from numbered as d
        ),
        families as (
            select
                c.sort[1:cardinality(c.sort) - 1] as parent,
                max(c.id) filter (where c.sort[cardinality(c.sort)] = 1) as left_node,
                max(c.id) filter (where c.sort[cardinality(c.sort)] = 2) as right_node,
                max(c.id) filter (where c.sort[cardinality(c.sort)] = 3) as condition_node,
                string_agg('"' || c.id || '"', ',' order by c.n)
                    filter (where c.sort[cardinality(c.sort)] > 3) as extra_nodes
            from named as c
            where c.sort <> '{}'
            group by c.sort[1:cardinality(c.sort) - 1]
        )
        select
            n.n, n.id, n.node ->> 'node_type',
            case
                when f.condition_node is not null
                    then df._with_entry(n.node ->> 'query', '"condition_node":"' || f.condition_node || '"')
                when f.extra_nodes is not null
                    then df._with_entry(n.node ->> 'query', '"extra_nodes":[' || f.extra_nodes || ']')
                else n.node ->> 'query'
            end,
            n.node ->> 'result_name', f.left_node, f.right_node
        from named as n
        left join families as f on f.parent = n.sort
        order by n.n;
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
