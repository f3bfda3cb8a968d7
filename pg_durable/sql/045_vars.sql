-- Variables: key-value pairs of the calling role, of which df.start takes a copy.

create function df._refuse_in_workflow(p_function text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if df._in_workflow() then
        raise exception '%() cannot be called inside a workflow - set variables before starting the workflow', p_function
            using errcode = 'XX000';
    end if;
end
$$;

comment on function df._refuse_in_workflow(text) is 'Raises inside a workflow step';

create function df.setvar(name text, value text) returns text
language plpgsql strict
set search_path = pg_catalog, pg_temp
as $$
begin
    perform df._refuse_in_workflow('df.setvar');
    insert into df.vars (name, value, owner)
    values (setvar.name, setvar.value, quote_ident(current_user)::regrole)
    on conflict on constraint vars_pkey do update set value = excluded.value;
    perform df._mark_helper('df.setvar');
    return 'OK';
end
$$;

comment on function df.setvar(text, text) is 'Sets a variable of the calling role; {name} in step texts of workflows started later';

create function df.getvar(name text) returns text
language plpgsql strict
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select v.value from df.vars as v
        where v.owner = quote_ident(current_user)::regrole and v.name = getvar.name
    );
end
$$;

comment on function df.getvar(text) is 'A variable of the calling role; null if it is not set';

create function df.unsetvar(name text) returns text
language plpgsql strict
set search_path = pg_catalog, pg_temp
as $$
begin
    perform df._refuse_in_workflow('df.unsetvar');
    delete from df.vars as v where v.owner = quote_ident(current_user)::regrole and v.name = unsetvar.name;
    perform df._mark_helper('df.unsetvar');
    return 'OK';
end
$$;

comment on function df.unsetvar(text) is 'Removes a variable, if it is there';

create function df.clearvars() returns text
language plpgsql strict
set search_path = pg_catalog, pg_temp
as $$
begin
    perform df._refuse_in_workflow('df.clearvars');
    delete from df.vars as v where v.owner = quote_ident(current_user)::regrole;
    perform df._mark_helper('df.clearvars');
    return 'OK';
end
$$;

comment on function df.clearvars() is 'Removes all variables of the calling role';
