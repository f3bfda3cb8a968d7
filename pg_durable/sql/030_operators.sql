-- Operators, in df and again in public: an operator is found only through search_path, and public is on
-- everybody's. (In pg_catalog they would be found always, but that needs a superuser, and pg_dump
-- leaves them out.)

create function df.as_op(fut text, name text) returns text
language sql stable
set search_path = pg_catalog, df, pg_temp
as $$
    select df."as"(fut, name)
$$;

comment on function df.as_op(text, text) is 'Operator |=>';

create function df.loop_prefix_op(body text) returns text
language sql stable
set search_path = pg_catalog, df, pg_temp
as $$
    select df."loop"(body)
$$;

comment on function df.loop_prefix_op(text) is 'Prefix operator @>';

-- Half of an IF. Operands are kept as they are: the branches are normalised when !> completes it.
create function df.if_then_op(condition text, then_branch text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return jsonb_build_object(
        '_partial_if', true, 'condition', condition, 'then_branch', then_branch
    )::text;
end
$$;

comment on function df.if_then_op(text, text) is 'Operator ?>; needs !> to complete it';

create function df.if_else_op(partial_if text, else_branch text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_partial jsonb := partial_if::jsonb;
begin
    if jsonb_typeof(v_partial) <> 'object' or not v_partial ? '_partial_if' then
        raise exception 'Invalid if-then-else: left side of !> must be a ?> expression'
            using errcode = 'P0001',
                hint = 'All these operators have one precedence and group to the left: put a branch of more than one step in parentheses, as in cond ?> (a ~> b) !> c.';
    end if;
    return df."if"(v_partial ->> 'condition', v_partial ->> 'then_branch', else_branch);
end
$$;

comment on function df.if_else_op(text, text) is 'Operator !>';

do $$
declare
    v_schema text;
begin
    if not has_schema_privilege('public', 'create') then
        raise exception 'the operators need CREATE on schema public, which role "%" does not have', current_user
            using errcode = '42501',
                hint = format('Run as its owner: GRANT CREATE ON SCHEMA public TO %I;', current_user);
    end if;
    foreach v_schema in array array['df', 'public'] loop
        execute format('create operator %I.~> (leftarg = text, rightarg = text, function = df.seq)', v_schema);
        execute format('create operator %I.|=> (leftarg = text, rightarg = text, function = df.as_op)', v_schema);
        execute format('create operator %I.& (leftarg = text, rightarg = text, function = df."join")', v_schema);
        execute format('create operator %I.| (leftarg = text, rightarg = text, function = df.race)', v_schema);
        execute format('create operator %I.?> (leftarg = text, rightarg = text, function = df.if_then_op)', v_schema);
        execute format('create operator %I.!> (leftarg = text, rightarg = text, function = df.if_else_op)', v_schema);
        execute format('create operator %I.@> (rightarg = text, function = df.loop_prefix_op)', v_schema);
    end loop;
end
$$;
