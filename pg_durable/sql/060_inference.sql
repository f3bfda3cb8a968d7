-- What the stored statuses of nodes mean together. The worker writes a status when something happens to
-- a node; that a branch was not taken, a race lost or an iteration superseded is seen only in the whole.

-- The children of a node in the order in which people read them.
create function df._children(
    p_node_type text, p_query text, p_left text, p_right text, out place bigint, out id text
)
returns setof record
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select c.place, c.id
    from (
        values
            (case p_node_type when 'IF' then 2 else 1 end, p_left),
            (case p_node_type when 'IF' then 3 else 2 end, p_right)
        union all
        -- The cast is inside the CASE: in a WHERE it could be made first, and fail on a SQL node's text.
        select
            case p_node_type when 'IF' then 1 else 2 end,
            case when p_node_type in ('IF', 'LOOP') then p_query::json ->> 'condition_node' end
        union all
        select 2 + e.n, e.id
        from json_array_elements_text(
            case when p_node_type = 'JOIN' then p_query::json -> 'extra_nodes' end
        ) with ordinality as e (id, n)
    ) as c (place, id)
    where c.id is not null
$$;

comment on function df._children(text, text, text, text) is 'The children of a node in reading order';

-- Whether the nodes of an instance can be walked through: none has two parents, the root has none, and
-- configuration can be read. Those that df.start has written can; the worker refuses others.
create function df._is_tree(p_instance_id text) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return not exists (
        select
        from (
            select c.id
            from df.nodes as n
            cross join lateral df._children(n.node_type, n.query, n.left_node, n.right_node) as c
            where n.instance_id = p_instance_id
            union all
            select i.root_node from df.instances as i where i.id = p_instance_id
        ) as u (id)
        group by u.id
        having count(*) > 1
    );
exception
    when data_exception then
        return false;
end
$$;

comment on function df._is_tree(text) is 'Whether the nodes of an instance can be walked through';

-- For every node the status to show, and the ancestor that it follows from.
--
-- A stamp is "<scope>::<generation>"; a scope below the root names its parents as
-- "<parent scope>::<generation>::<node>". A stamp is superseded when its scope, or one that it lies in,
-- has been stamped with a later generation.
create function df._inferred(p_instance_id text, out id text, out status text, out ancestor text)
returns setof record
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with recursive stamped as (
        select
            n.id, n.node_type, n.query, n.left_node, n.right_node, n.status,
            string_to_array(n.status_details ->> 'execution_id', '::') as parts
        from df.nodes as n
        where n.instance_id = p_instance_id
    ),
    -- A malformed stamp is ignored.
    nodes as (
        select
            s.id, s.node_type, s.query, s.left_node, s.right_node, s.status,
            case when m.well_formed then s.parts end as parts
        from stamped as s
        cross join lateral (
            select cardinality(s.parts) % 2 = 0 and bool_and(p.part ~ '^[0-9]{1,15}$') filter (where p.n % 2 = 0)
            from unnest(s.parts) with ordinality as p (part, n)
        ) as m (well_formed)
    ),
    scopes as (
        select
            n.parts[1:cardinality(n.parts) - 1] as scope, max(n.parts[cardinality(n.parts)]::bigint) as generation
        from nodes as n
        where n.parts is not null
        group by 1
    ),
    judged as (
        select
            n.id, n.node_type, n.query, n.left_node, n.right_node, n.status,
            n.parts[cardinality(n.parts)]::bigint as generation,
            exists (
                select
                from generate_series(2, cardinality(n.parts), 2) as k
                join scopes as s on s.scope = n.parts[1:k - 1]
                where s.generation > n.parts[k]::bigint
            ) as superseded
        from nodes as n
    ),
    walk (id, status, ancestor, ended, highest, highest_id) as (
        select j.id, v.status, null::text, v.ended, j.generation, j.id::text
        from df.instances as i
        join judged as j on j.id = i.root_node
        cross join lateral (
            select
                case when j.status in ('completed', 'failed') and j.superseded then 'pending' else j.status end,
                case when j.status in ('completed', 'failed') and not j.superseded then j.id::text end
        ) as v (status, ended)
        where i.id = p_instance_id and (select df._is_tree(p_instance_id))
        union all
        select j.id, v.status, v.ancestor, v.ended, h.highest, h.highest_id
        from walk as w
        join judged as p on p.id = w.id
        cross join lateral df._children(p.node_type, p.query, p.left_node, p.right_node) as c
        join judged as j on j.id = c.id
        cross join lateral (
            select
                j.status in ('completed', 'failed') and not j.superseded,
                j.status in ('completed', 'failed') and j.superseded,
                j.left_node is null
        ) as f (final, stale, leaf)
        cross join lateral (
            select
                case
                    when f.final then j.status
                    when w.ended is null then case when f.stale then 'pending' else j.status end
                    -- A step that still ran when its race was decided was cancelled.
                    when j.status = 'running' and f.leaf and not j.superseded then 'cancelled'
                    else 'skipped'
                end,
                case
                    when f.final then null
                    when w.ended is not null then w.ended
                    when f.stale then w.highest_id
                end,
                case when f.final then j.id::text else w.ended end
        ) as v (status, ancestor, ended)
        cross join lateral (
            select
                greatest(w.highest, j.generation),
                case when w.highest >= j.generation or j.generation is null then w.highest_id else j.id::text end
        ) as h (highest, highest_id)
    )
    select
        n.id,
        case
            when i.status = 'cancelled' and coalesce(w.status, n.status) = 'running' then 'cancelled'
            when i.status = 'cancelled' and coalesce(w.status, n.status) = 'pending' then 'skipped'
            else coalesce(w.status, n.status)
        end,
        w.ancestor
    from nodes as n
    join df.instances as i on i.id = p_instance_id
    left join walk as w on w.id = n.id
$$;

comment on function df._inferred(text) is 'The status to show for every node of an instance';

create function df.instance_nodes(instance_id_param text)
returns table (
    node_id text, node_type text, query text, result_name text, left_node text, right_node text, status text,
    result text, status_details text, inferred_status text, inferred_status_from_ancestor_id text,
    updated_at timestamptz
)
language sql volatile strict
set search_path = pg_catalog, pg_temp
as $$
    select
        n.id, n.node_type, n.query, n.result_name, n.left_node, n.right_node, n.status,
        coalesce(n.result, s.result)::text, n.status_details::text, f.status, f.ancestor, n.updated_at
    from df.nodes as n
    left join df.nodes as s on s.instance_id = n.instance_id and s.id = n.result_from
    join df._inferred(instance_id_param) as f on f.id = n.id
    where n.instance_id = instance_id_param
$$;

comment on function df.instance_nodes(text) is 'The steps of a workflow with their results and statuses';

create function df.instance_nodes(instance_id_param text, _last_n_executions integer)
returns table (
    execution_id bigint, node_id text, node_type text, query text, result_name text, left_node text,
    right_node text, status text, result text, updated_at timestamptz
)
language sql volatile strict
set search_path = pg_catalog, pg_temp
as $$
    select
        1::bigint, n.id, n.node_type, n.query, n.result_name, n.left_node, n.right_node, n.status,
        coalesce(n.result, s.result)::text, n.updated_at
    from df.nodes as n
    left join df.nodes as s on s.instance_id = n.instance_id and s.id = n.result_from
    where n.instance_id = instance_id_param
$$;

comment on function df.instance_nodes(text, integer) is 'The steps of a workflow, for older clients; the second argument is ignored';
