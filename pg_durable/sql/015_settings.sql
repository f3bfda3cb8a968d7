-- Settings of this installation. Any session can SET a placeholder, so nothing that matters for
-- security is read from one: a setting is a row here, an ALTER DATABASE entry, or its default.

create table df._settings (
    name text not null,
    value text not null,
    constraint _settings_pkey primary key (name)
);

comment on table df._settings is 'Settings that differ from their defaults; writable by the owner only';

-- What can be set. A setting with bounds is a whole number; one with words is one of them.
create function df._setting_specs(
    out name text, out fallback text, out lowest bigint, out highest bigint, out words text[]
)
returns setof record
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
        values
            ('enable_superuser_instances', 'off', null::bigint, null::bigint, array['on', 'off']),
            ('list_instances_max_limit', '1000', 1, 1000000, null),
            ('max_new_transaction_starts', '2', 1, 1000, null),
            ('new_transaction_start_timeout', '5', 1, 3600, null),
            ('retention_days', '30', 0, 36500, null),
            ('retain_instances', '10000', 0, 1000000000, null),
            ('max_loop_iterations', '0', 0, 1000000000000, null),
            ('min_loop_interval_ms', '1000', 0, 3600000, null),
            ('max_carried_bytes', '1048576', 1024, 1073741823, null),
            ('keep_executions', '10', 1, 100000, null),
            ('cron_dialect', 'classic', null, null, array['classic', 'quartz']),
            ('workflow_timezone', 'UTC', null, null, null);
end
$$;

comment on function df._setting_specs() is 'Every setting with its default and what it may be';

create function df._check_setting() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_spec record;
begin
    select * into v_spec from df._setting_specs() as s where s.name = new.name;
    if not found then
        raise exception 'pg-durable has no setting "%"', new.name
            using errcode = '22023', hint = 'Known settings: ' || (
                select string_agg(s.name, ', ' order by s.name) from df._setting_specs() as s
            ) || '. How a worker behaves is told to the worker: see `pg-durable worker --help`.';
    end if;
    if v_spec.lowest is not null then
        if new.value !~ '^[0-9]{1,15}$' or new.value::bigint not between v_spec.lowest and v_spec.highest then
            raise exception 'setting "%" must be a whole number between % and %, not "%"',
                new.name, v_spec.lowest, v_spec.highest, new.value using errcode = '22023';
        end if;
    elsif v_spec.words is not null and new.value <> all (v_spec.words) then
        raise exception 'setting "%" must be one of %, not "%"',
            new.name, array_to_string(v_spec.words, ', '), new.value using errcode = '22023';
    elsif new.name = 'workflow_timezone'
        and not exists (select from pg_timezone_names as z where z.name = new.value) then
        raise exception 'setting "workflow_timezone" must be the name of a time zone, not "%"', new.value
            using errcode = '22023', hint = 'See pg_timezone_names.';
    end if;
    return new;
end
$$;

comment on function df._check_setting() is 'Refuses unknown settings and values out of range';

revoke execute on function df._check_setting() from public;

create trigger _settings_check before insert or update on df._settings
    for each row execute function df._check_setting();

-- What ALTER DATABASE said about this one.
create function df._database_settings() returns setof text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
        select c.entry
        from pg_db_role_setting as d
        cross join unnest(d.setconfig) as c (entry)
        where d.setrole = 0
            and d.setdatabase = (select b.oid from pg_database as b where b.datname = current_database())
            and starts_with(c.entry, 'pg_durable.');
end
$$;

comment on function df._database_settings() is 'Entries of ALTER DATABASE … SET pg_durable.…, as name=value';

-- The value in force, from sources that an ordinary session can't change. In PL/pgSQL, whose plans a session
-- keeps: every start asks.
create function df._setting(p_name text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_value text;
begin
    select s.value into v_value from df._settings as s where s.name = p_name;
    if found then
        return v_value;
    end if;
    select substr(e.entry, length(p_name) + 13) into v_value
    from df._database_settings() as e (entry) where starts_with(e.entry, 'pg_durable.' || p_name || '=');
    if found then
        return v_value;
    end if;
    return (select s.fallback from df._setting_specs() as s where s.name = p_name);
end
$$;

comment on function df._setting(text) is 'The value of a setting: df._settings, else ALTER DATABASE, else the default';

-- Those settings that decide what a workflow does, as far as they differ from their defaults. They are
-- pinned when it starts, so that it replays.
create function df._pinned_settings() returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_pinned constant text[] := array[
        'max_loop_iterations', 'min_loop_interval_ms', 'max_carried_bytes', 'cron_dialect', 'workflow_timezone'
    ];
begin
    if not exists (select from df._settings as s where s.name = any (v_pinned))
        and not exists (select from df._database_settings()) then
        return null;
    end if;
    return (
        select json_object_agg(s.name, coalesce(o.value, d.value) order by s.name)::text
        from df._setting_specs() as s
        left join df._settings as o on o.name = s.name
        left join (
            select split_part(substr(e.entry, 12), '=', 1) as name, substr(e.entry, strpos(e.entry, '=') + 1) as value
            from df._database_settings() as e (entry)
        ) as d on d.name = s.name
        where s.name = any (v_pinned) and coalesce(o.value, d.value) <> s.fallback
    );
end
$$;

comment on function df._pinned_settings() is 'Settings that a workflow keeps from its start, as JSON; null: all are defaults';

grant select on df._settings to public;
