-- Listings. A workflow is listed from the moment it was started, whether the engine has seen it or not.

create function df._check_limit(p_limit integer) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_most bigint := df._setting('list_instances_max_limit')::bigint;
    v_session text := current_setting('pg_durable.list_instances_max_limit', true);
begin
    if p_limit is null or p_limit < 1 then
        raise exception 'limit_count must be at least 1' using errcode = 'XX000';
    end if;
    if v_session ~ '^[0-9]{1,9}$' then
        v_most := least(v_most, v_session::bigint);  -- a session may lower the limit for itself
    end if;
    if p_limit > v_most then
        raise exception 'df.list_instances: limit_count (%) exceeds pg_durable.list_instances_max_limit (%); ask for less, page by page', p_limit, v_most
            using errcode = 'XX000', hint = 'The owner of schema df can change list_instances_max_limit in df._settings.';
    end if;
end
$$;

comment on function df._check_limit(integer) is 'Refuses page sizes out of range';

create function df._cursor_of(p_created_at timestamptz, p_id text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select encode(
        convert_to('v1|' || to_char(p_created_at, 'YYYY-MM-DD"T"HH24:MI:SS.USOF') || '|' || p_id, 'UTF8'), 'hex'
    )
$$;

comment on function df._cursor_of(timestamptz, text) is 'The cursor after a row';

create function df._parse_cursor(p_cursor text, out created_at timestamptz, out id text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_parts text[];
begin
    if length(p_cursor) <= 512 and p_cursor ~ '^([0-9A-Fa-f]{2})+$' then
        v_parts := regexp_match(
            convert_from(decode(p_cursor, 'hex'), 'UTF8'),
            E'^v1\\|(\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{6}[+-]\\d\\d(?::\\d\\d)?)\\|(.+)$'
        );
    end if;
    if v_parts is null then
        raise exception using errcode = 'XX000', message = 'df.list_instances: invalid after_cursor';
    end if;
    created_at := v_parts[1]::timestamptz;
    id := v_parts[2];
exception
    when data_exception then
        raise exception 'df.list_instances: invalid after_cursor' using errcode = 'XX000';
end
$$;

comment on function df._parse_cursor(text) is 'The row that a cursor stands behind';

-- A page, newest first. Planned anew each time, so that a filter that is not given is not there.
create function df._page(
    p_status text, p_label text, p_limit integer, p_created_at timestamptz, p_id text,
    out id text, out label text, out status text, out error text, out created_at timestamptz,
    out completed_at timestamptz
)
returns setof record
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
begin
    return query
        select i.id::text, i.label, i.status, i.error, i.created_at, i.completed_at
        from df.instances as i
        where i.created_at is not null
            and (p_status is null or i.status = p_status)
            and (p_label is null or i.label = p_label)
            and (
                p_created_at is null
                or (i.created_at <= p_created_at and (i.created_at < p_created_at or i.id > p_id))
            )
        order by i.created_at desc, i.id
        limit p_limit;
end
$$;

comment on function df._page(text, text, integer, timestamptz, text) is 'A page of instances, newest first';

create function df.list_instances(status_filter text default null, limit_count integer default 100)
returns table (
    instance_id text, label text, function_name text, status text, execution_count bigint, output text
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform df._check_limit(limit_count);
    return query
        select
            p.id, p.label, 'pg_durable::orchestration::execute-function-graph'::text, p.status,
            coalesce(e.current_execution_id, 0), coalesce(p.error, e.output)
        from df._page(status_filter, null, limit_count, null, null) as p
        left join df._engine_instances as e on e.instance_id = p.id
        order by p.created_at desc, p.id;
end
$$;

comment on function df.list_instances(text, integer) is 'The newest workflows of the caller';

create function df.list_instances(
    status_filter text, limit_count integer, label_filter text, after_cursor text default null
)
returns table (
    instance_id text, label text, function_name text, status text, execution_count bigint, output text,
    created_at timestamptz, completed_at timestamptz, next_cursor text
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    v_created_at timestamptz;
    v_id text;
begin
    perform df._check_limit(limit_count);
    if after_cursor is not null then
        select c.created_at, c.id into v_created_at, v_id from df._parse_cursor(after_cursor) as c;
    end if;
    return query
        with page as materialized (
            select p.*, row_number() over (order by p.created_at desc, p.id) as n
            from df._page(status_filter, label_filter, limit_count + 1, v_created_at, v_id) as p
        )
        select
            p.id, p.label, 'pg_durable::orchestration::execute-function-graph'::text, p.status,
            coalesce(e.current_execution_id, 0), coalesce(p.error, e.output), p.created_at, p.completed_at, (
                select df._cursor_of(l.created_at, l.id) from page as l
                where l.n = limit_count and exists (select from page as m where m.n > limit_count)
            )
        from page as p
        left join df._engine_instances as e on e.instance_id = p.id
        where p.n <= limit_count
        order by p.n;
end
$$;

comment on function df.list_instances(text, integer, text, text) is 'The workflows of the caller page by page, newest first; give next_cursor back as after_cursor';

create function df.instance_info(instance_id text)
returns table (
    instance_id text, label text, function_name text, function_version text, current_execution_id bigint,
    status text, output text
)
language sql volatile strict
set search_path = pg_catalog, pg_temp
as $$
    select
        i.id, i.label, coalesce(e.orchestration_name, 'pg_durable::orchestration::execute-function-graph'),
        coalesce(e.orchestration_version, 'unknown'), coalesce(e.current_execution_id, 1), i.status,
        coalesce(i.error, e.output)
    from df.instances as i
    left join df._engine_instances as e on e.instance_id = i.id
    where i.id = $1  -- by its place: a column has the same name
$$;

comment on function df.instance_info(text) is 'One workflow in one row';

create function df.instance_executions(instance_id text, limit_count integer default 5)
returns table (execution_id bigint, status text, event_count bigint, duration_ms bigint, output text)
language plpgsql strict
set search_path = pg_catalog, pg_temp
as $$
begin
    if limit_count < 1 then
        raise exception 'limit_count must be at least 1' using errcode = 'XX000';
    end if;
    return query
        select
            x.execution_id, x.status, x.event_count,
            coalesce((extract(epoch from x.completed_at - x.started_at) * 1000)::bigint, 0), x.output
        from df._engine_executions as x
        where x.instance_id = instance_executions.instance_id
        order by x.execution_id desc
        limit least(limit_count, 10000);
end
$$;

comment on function df.instance_executions(text, integer) is 'The generations of a workflow, newest first; a loop at its root begins a new one at each turn';

create function df.metrics()
returns table (
    total_instances bigint, running_instances bigint, completed_instances bigint, failed_instances bigint,
    total_executions bigint, total_events bigint
)
language plpgsql strict security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
        select
            count(*), count(*) filter (where e.status = 'Running'), count(*) filter (where e.status = 'Completed'),
            count(*) filter (where e.status = 'Failed'), coalesce(sum(e.current_execution_id), 0)::bigint,
            coalesce(sum(e.history_events), 0)::bigint
        from duroxide.instances as e;
end
$$;

comment on function df.metrics() is 'Counts over the whole engine, of everybody''s workflows';

revoke execute on function df.metrics() from public;
