-- df.explain_mermaid: the graph of df.explain as a Mermaid flow chart, for documents and web pages.

create function df._mermaid_label(p_text text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select replace(replace(replace(replace(
        regexp_replace(p_text, E'\\s+', ' ', 'g'), '#', '#35;'), '"', '#quot;'), '<', '#lt;'), '>', '#gt;')
$$;

comment on function df._mermaid_label(text) is 'Text as it may stand in a label';

-- One box for every node but THEN, which is an arrow from the box where its left side ends to the one
-- where its right side begins; the parts of IF, LOOP, JOIN and RACE hang on dotted, named arrows.
create function df._mermaid(p_nodes jsonb, p_root text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        with recursive nodes as materialized (
            select e.key as id, r.type, r.query, r.name, r."left", r."right", r.status
            from jsonb_each(p_nodes) as e
            cross join lateral jsonb_to_record(e.value)
                as r (type text, query text, name text, "left" text, "right" text, status text)
        ),
        walk (sort, id, parent, place) as (
            select array[]::bigint[], p_root, null::text, null::bigint
            union all
            select w.sort || c.place, c.id, w.id, c.place
            from walk as w
            join nodes as n on n.id = w.id
            cross join lateral df._children(n.type, n.query, n."left", n."right") as c
        ),
        boxes as materialized (
            select w.id, 'n' || row_number() over (order by w.sort) as box, n.type, n.query, n.name, n.status, w.sort
            from walk as w
            join nodes as n on n.id = w.id
            where n.type <> 'THEN'
        ),
        ends (id, first_id, last_id) as (
            select n.id, n.id, n.id from nodes as n where n.type <> 'THEN'
            union all
            -- Up a chain: what a side begins and ends with, its THEN begins and ends with as well.
            select t.id, case when t."left" = e.id then e.first_id end, case when t."right" = e.id then e.last_id end
            from ends as e
            join nodes as t on t.type = 'THEN' and (t."left" = e.id or t."right" = e.id)
            where (t."left" = e.id and e.first_id is not null) or (t."right" = e.id and e.last_id is not null)
        ),
        sides as materialized (
            select e.id, max(e.first_id) as first_id, max(e.last_id) as last_id from ends as e group by e.id
        ),
        lines (rank, sort, line) as (
            select 0, array[]::bigint[], 'flowchart TD'
            union all
            select 1, b.sort,
                '    ' || b.box || '["' || df._mermaid_label(df._caption(b.type, b.query, b.name)) || '"]'
                || coalesce(':::' || b.status, '')
            from boxes as b
            union all
            select 2, t.sort, '    ' || f.box || ' --> ' || t.box
            from walk as w
            join nodes as n on n.id = w.id and n.type = 'THEN'
            join sides as l on l.id = n."left"
            join sides as r on r.id = n."right"
            join boxes as f on f.id = l.last_id
            join boxes as t on t.id = r.first_id
            union all
            select 2, t.sort, '    ' || f.box || ' -. ' || case f.type
                when 'IF' then (array['condition', 'then', 'else'])[w.place]
                when 'LOOP' then (array['body', 'while'])[w.place]
                else 'branch ' || w.place
            end || ' .-> ' || t.box
            from walk as w
            join boxes as f on f.id = w.parent
            join sides as s on s.id = w.id
            join boxes as t on t.id = s.first_id
            union all
            select 3, array[s.place], '    classDef ' || s.status || ' ' || s.style
            from (
                values
                    (1, 'completed', 'stroke:#2a2,stroke-width:2px'), (2, 'failed', 'stroke:#c22,stroke-width:2px'),
                    (3, 'running', 'stroke:#26c,stroke-width:2px'), (4, 'skipped', 'stroke-dasharray:4'),
                    (5, 'cancelled', 'stroke-dasharray:4'), (6, 'pending', 'stroke:#999')
            ) as s (place, status, style)
            where exists (select from boxes as b where b.status = s.status)
        )
        select string_agg(l.line, E'\n' order by l.rank, l.sort) from lines as l
    );
end
$$;

comment on function df._mermaid(jsonb, text) is 'A graph as a Mermaid flow chart';

create function df._mermaid_node(p_node text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select df._mermaid(g.nodes, g.root) from df._drawable_node(p_node) as g);
exception
    when internal_error then
        return sqlerrm;
end
$$;

comment on function df._mermaid_node(text) is 'Node text as a Mermaid flow chart';

create function df._mermaid_known(p_input text, p_mode text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id text := lower(p_input);
    v_graph record;
begin
    case p_mode
        when 'instance' then
            select g.nodes, g.root into v_graph from df._drawable_instance(v_id) as g;
            return case
                when v_graph.nodes is null or not df._is_tree(v_id) then df._explain_instance(p_input)
                else df._mermaid(v_graph.nodes, v_graph.root)
            end;
        when 'node', 'sql' then
            return df._mermaid_node(df._start_step(p_input));
        else
            return df._explain_known(p_input, p_mode);
    end case;
end
$$;

comment on function df._mermaid_known(text, text) is 'The answer for input that need not be evaluated';

-- As df.explain: the caller's search_path, names in full, side effects undone.
create function df.explain_mermaid(input text) returns text
language plpgsql strict
as $$
declare
    v_input text := pg_catalog.btrim(input, E' \t\n\r');
    v_mode text := df._explain_mode(v_input);
    v_value text;
begin
    if pg_catalog.textne(v_mode, 'expression') then
        return df._mermaid_known(v_input, v_mode);
    end if;
    begin
        execute pg_catalog.concat('SELECT ', v_input) into v_value;
        raise exception using errcode = 'PD003', message = 'undo';
    exception
        when sqlstate 'PD003' then
            null;
    end;
    if pg_catalog.textne(df._explain_mode(pg_catalog.concat(v_value)), 'node') then
        return df._explain_value(v_value);
    end if;
    return df._mermaid_node(df._start_step(v_value));
end
$$;

comment on function df.explain_mermaid(text) is 'The graph of df.explain as a Mermaid flow chart';
