-- What a workflow probably does not mean, told as a WARNING.

-- The steps after a loop that never ends: `@> 'a' ~> 'b'` is `(@> 'a') ~> 'b'`. Behind a condition that never
-- ends it is the branches.
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
        join places as t on (t.node_type = 'THEN' and t.sort || 1 = e.sort)
            or (t.node_type = 'IF' and t.sort || 3 = e.sort)
        join places as r on r.sort = t.sort || case t.node_type when 'THEN' then 2 else 1 end
        order by r.sort
    loop
        raise warning 'the step at % can never run: the loop before it has neither a condition nor a df.break()', v_path
            using hint = 'All these operators group to the left: @> ''a'' ~> ''b'' is (@> ''a'') ~> ''b''. Put what is to be repeated in parentheses.';
    end loop;
end
$$;

comment on function df._warn_unreachable(text) is 'Warns of steps after a loop that never ends';

-- A ?> whose !> is missing: its text is no node, so it became a step of SQL that can only fail.
create function df._warn_half_if(p_node text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_path text;
begin
    if strpos(p_node, '_partial_if') = 0 then
        return;
    end if;
    for v_path in
        select w.path from df._walk(p_node::jsonb) as w
        where w.node ->> 'node_type' = 'SQL' and w.node ->> 'query' like '{"condition": %"_partial_if": true%'
        order by w.sort
    loop
        raise warning 'the step at % is half an if: a ?> without its !>', v_path
            using hint = 'Write cond ?> a !> b, or df.if(cond, a, b). All these operators group to the left: put a branch of more than one step in parentheses.';
    end loop;
end
$$;

comment on function df._warn_half_if(text) is 'Warns of a ?> without its !>';

create function df._warn_mistakes(p_node text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform df._warn_unreachable(p_node);
    perform df._warn_half_if(p_node);
end
$$;

comment on function df._warn_mistakes(text) is 'Warns of what a graph can hardly mean';

-- Operators side by side that look as if one bound tighter than another; none does.
create function df._warn_precedence(p_expression text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rest text := regexp_replace(
        p_expression, E'(?:[eE]?''(?:[^'']|'''')*''|\\$([A-Za-z_]*)\\$.*?\\$\\1\\$|"[^"]*")', 'x', 'g'
    );
    v_group text;
    v_signs text;
    v_rule text[];
begin
    loop
        v_group := coalesce(substring(v_rest from E'\\(([^()]*)\\)'), v_rest);
        foreach v_group in array string_to_array(v_group, ',') loop
            select string_agg(m.sign[1], ' ') into v_signs
            from regexp_matches(v_group, E'(~>|\\|=>|\\?>|!>|@>|&|\\|)', 'g') as m (sign);
            foreach v_rule slice 1 in array array[
                [E'~> .*(&|\\|)( |$)', 'a ~> b & c is (a ~> b) & c: the steps before & or | are a part of its first branch'],
                [E'(^| )(&|\\|) .*\\|=>', 'a & b |=> ''x'' is (a & b) |=> ''x'': it names the whole, not b'],
                ['(^| )& &( |$)', 'a & b & c is (a & b) & c, with an array in an array; df.join(a, b, c) is flat'],
                [E'(^| )\\| (.* )?&( |$)', 'a | b & c is (a | b) & c: the race is the first branch of the join'],
                ['!> .*~>', 'c ?> t !> e ~> f is (c ?> t !> e) ~> f: f runs after either branch'],
                [E'!> .*\\?>', 'c ?> t !> d ?> u !> e is (c ?> t !> d) ?> u !> e: the first if is the condition of the second'],
                ['@> .*&( |$)', '@> a & b is (@> a) & b: only a is repeated']
            ] loop
                if v_signs ~ v_rule[1] then
                    raise warning '%', v_rule[2] using hint = 'All these operators have one precedence and group to the left. Parentheses say what is meant.';
                end if;
            end loop;
            if v_signs is not null and v_group ~ '[^|<>!=]=([^>]|$)' then
                raise warning 'a ~> b = ''x'' is (a ~> b) = ''x'': a comparison, not a workflow'
                    using hint = 'All comparisons bind looser than these operators.';
            end if;
        end loop;
        exit when v_rest !~ E'\\([^()]*\\)';
        v_rest := regexp_replace(v_rest, E'\\([^()]*\\)', ' x ');
    end loop;
end
$$;

comment on function df._warn_precedence(text) is 'Warns of operators that group otherwise than they look';
