-- What is installed here.

create function df.version() returns text
language sql volatile strict
set search_path = pg_catalog, pg_temp
as $$
    select format(
        '0.2.6 (built %s)', to_char(i.installed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
    )
    from df._install as i
$$;

comment on function df.version() is 'The level of the SQL surface; df.implementation() tells what provides it';

create function df.implementation() returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select 'pg-durable: SQL and Python, schema version 1'::text
$$;

comment on function df.implementation() is 'What provides the df functions';

create function df.target_database() returns text
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select current_database()::text
$$;

comment on function df.target_database() is 'The database that holds df and the engine: this one';

create function df.duroxide_schema() returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select 'duroxide'::text
$$;

comment on function df.duroxide_schema() is 'The schema of the engine''s tables';

grant select on df._install to public;
