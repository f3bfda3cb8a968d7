-- What a workflow probably does not mean, told as a WARNING.

-- The steps after a loop that never ends: `@> 'a' ~> 'b'` is `(@> 'a') ~> 'b'`.
--   A loop ends a side of a THEN if only right sides lead down to it.
create function df._warn_unreachable(p_node text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_path text;
begin
    if strpos(p_node, '"LOOP"') = 0 then
        return;
    end if;
    for v_path in
        with recursive places as materialized (
            select w.sort, w.path, w.node ->> 'node_type' as node_type, w.node from df._walk(p_node::jsonb) as w
        ),
        endless (sort) as (
            select p.sort from places as p
            where p.node_type = 'LOOP' and p.node -> 'condition_node' is null
                and not exists (
                    select from places as b
                    where b.node_type = 'BREAK' and b.sort[1:cardinality(p.sort)] = p.sort
                )
            union
            select t.sort from endless as e
            join places as t on t.node_type = 'THEN' and t.sort || 2 = e.sort
        )
        select r.path from endless as e
        join places as t on t.node_type = 'THEN' and t.sort || 1 = e.sort
        join places as r on r.sort = t.sort || 2
        order by r.sort
    loop
        raise warning 'the step at % can never run: the loop before it has neither a condition nor a df.break()', v_path
            using hint = 'All these operators group to the left: @> ''a'' ~> ''b'' is (@> ''a'') ~> ''b''. Put what is to be repeated in parentheses.';
    end loop;
end
$$;

comment on function df._warn_unreachable(text) is 'Warns of steps after a loop that never ends';

-- Operators side by side that look as if one bound tighter than another; none does.
create function df._warn_precedence(p_expression text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rest text := regexp_replace(
        p_expression, '(?:[eE]?''(?:[^'']|'''')*''|\$([A-Za-z_]*)\$.*?\$\1\$|"[^"]*")', 'x', 'g'
    );
    v_group text;
    v_signs text;
    v_rule text[];
begin
    loop
        v_group := coalesce(substring(v_rest from '\(([^()]*)\)'), v_rest);
        foreach v_group in array string_to_array(v_group, ',') loop
            select string_agg(m.sign[1], ' ') into v_signs
            from regexp_matches(v_group, '(~>|\|=>|\?>|!>|@>|&|\|)', 'g') as m (sign);
            foreach v_rule slice 1 in array array[
                ['~> .*(&|\|)( |$)', 'a ~> b & c is (a ~> b) & c: the steps before & or | are a part of its first branch'],
                ['(^| )(&|\|) .*\|=>', 'a & b |=> ''x'' is (a & b) |=> ''x'': it names the whole, not b'],
                ['!> .*~>', 'c ?> t !> e ~> f is (c ?> t !> e) ~> f: f runs after either branch']
            ] loop
                if v_signs ~ v_rule[1] then
                    raise warning '%', v_rule[2] using hint = 'All these operators have one precedence and group to the left. Parentheses say what is meant.';
                end if;
            end loop;
        end loop;
        exit when v_rest !~ '\([^()]*\)';
        v_rest := regexp_replace(v_rest, '\([^()]*\)', ' x ');
    end loop;
end
$$;

comment on function df._warn_precedence(text) is 'Warns of operators that group otherwise than they look';
