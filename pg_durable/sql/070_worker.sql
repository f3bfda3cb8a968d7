-- What the worker calls. Statuses of instances and nodes are written in the very commit of the fact that
-- they describe: by the commit hook for turns, and by _finish_step_v1 for SQL steps.
--
-- All run in READ COMMITTED, on arrays, one statement per kind of write. Plans are pinned to index
-- lookups: an instance has few rows, whatever the statistics of a table that has just been filled say.

-- Text as a document: JSON as it is, anything else as a JSON string. jsonb can't hold \u0000; it becomes
-- the replacement character.
create function df._document(p_text text) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return p_text::jsonb;
exception
    when untranslatable_character then
        begin
            return regexp_replace(p_text, E'(?<!\\\\)((?:\\\\\\\\)*)\\\\u0000', E'\\1\\\\ufffd', 'g')::jsonb;
        exception
            when data_exception then
                return to_jsonb(p_text);
        end;
    when data_exception then
        return to_jsonb(p_text);
end
$$;

comment on function df._document(text) is 'JSON text as jsonb, other text as a JSON string';

-- The records in the projections of turns, the last one of every node, as one array of
-- {"instance", "node", "status", "stamp", "result", "source", "error", "details"}. A projection is a record, an
-- array of them, or a JSON string that holds either.
create function df._node_records(p_engine_ids text[], p_projections text[]) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
begin
    return (
        select jsonb_agg(jsonb_build_object(
            'instance', l.instance, 'node', l.record -> 'node', 'status', l.record -> 'status',
            'stamp', l.record -> 'stamp', 'result', l.record -> 'result', 'source', l.record -> 'result_from',
            'error', l.record -> 'error', 'details', l.record -> 'details'
        ))
        from (
            select distinct on (split_part(t.engine_id, '::', 1), r.record ->> 'node')
                split_part(t.engine_id, '::', 1) as instance, r.record
            from unnest(p_engine_ids, p_projections) with ordinality as t (engine_id, projections, turn)
            cross join lateral df._document(t.projections) as d (document)
            cross join lateral jsonb_array_elements(
                case jsonb_typeof(d.document) when 'array' then d.document else jsonb_build_array(d.document) end
            ) with ordinality as e (entry, n)
            cross join lateral (
                select case jsonb_typeof(e.entry) when 'string' then df._document(e.entry #>> '{}') else e.entry end
            ) as s (entry)
            cross join lateral jsonb_array_elements(
                case jsonb_typeof(s.entry) when 'array' then s.entry else jsonb_build_array(s.entry) end
            ) with ordinality as r (record, m)
            where t.projections is not null
                and jsonb_typeof(r.record) = 'object'
                and r.record ->> 'status' in ('running', 'completed', 'failed')
            order by 1, r.record ->> 'node', t.turn desc, e.n desc, r.m desc
        ) as l
    );
end
$$;

comment on function df._node_records(text[], text[]) is 'The records in the projections of turns';

create function df._node_details(p_status text, p_stamp text, p_details jsonb, p_error jsonb) returns jsonb
language sql stable
as $$
    select jsonb_build_object('execution_id', p_stamp)
        || case when jsonb_typeof(p_details) = 'object' then p_details else '{}' end
        || case when p_status = 'failed' and jsonb_typeof(p_error) = 'object'
            then jsonb_build_object('error', p_error) else '{}' end
$$;

comment on function df._node_details(text, text, jsonb, jsonb) is 'What status_details of a node says';

-- Writes node records. `source` names the node whose result is copied, or named in result_from if it takes more
-- than 8 KiB; one that is written by the same records counts as written.
create function df._write_nodes(p_records jsonb) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
begin
    if not p_records @? '$[*].source ? (@ != null)' then  -- nothing is copied
        update df.nodes as n
        set status = r.status,
            result = case r.status
                when 'completed' then df._document(r.result)
                when 'failed' then to_jsonb(coalesce(r.error ->> 'message', r.result))
            end,
            result_from = null,
            error = case when r.status = 'failed' then coalesce(r.error ->> 'message', r.result) end,
            status_details = df._node_details(r.status, r.stamp, r.details, r.error),
            updated_at = clock_timestamp()
        from jsonb_to_recordset(p_records) as r (
            instance text, node text, status text, stamp text, result text, error jsonb, details jsonb
        )
        where n.instance_id = r.instance and n.id = r.node;
        return;
    end if;
    with recursive record as materialized (
        select r.*
        from jsonb_to_recordset(p_records) as r (
            instance text, node text, status text, stamp text, result text, source text, error jsonb,
            details jsonb
        )
    ),
    chain (instance, node, source) as (
        select r.instance, r.node, r.source from record as r where r.source is not null
        union
        select c.instance, c.node, r.source
        from chain as c
        join record as r on r.instance = c.instance and r.node = c.source
        where r.source is not null
    ),
    -- Once, and not once for each record.
    copied as materialized (
        select
            c.instance, c.node, coalesce(df._document(r.result), n.result) as result,
            case when r.node is null and n.result is null then n.result_from else c.source end as source
        from chain as c
        left join record as r on r.instance = c.instance and r.node = c.source
        left join df.nodes as n on n.instance_id = c.instance and n.id = c.source
        where r.source is null
    )
    update df.nodes as n
    set status = r.status,
        result = case r.status
            when 'completed'
                then coalesce(df._document(r.result), case when pg_column_size(c.result) <= 8192 then c.result end)
            when 'failed' then to_jsonb(coalesce(r.error ->> 'message', r.result))
        end,
        result_from = case
            when r.status = 'completed' and r.result is null and coalesce(pg_column_size(c.result) > 8192, true)
                then c.source
        end,
        error = case when r.status = 'failed' then coalesce(r.error ->> 'message', r.result) end,
        status_details = df._node_details(r.status, r.stamp, r.details, r.error),
        updated_at = clock_timestamp()
    from record as r
    left join copied as c on c.instance = r.instance and c.node = r.node
    where n.instance_id = r.instance and n.id = r.node;
end
$$;

comment on function df._write_nodes(jsonb) is 'Writes node records';

-- The commit hook: called once per batch, before the turns are written, in their transaction.
--
-- A row may be locked by a session that asked to cancel, or by a step that is about to commit; the batch
-- never waits for those. The instances concerned are returned and left alone, and the caller commits
-- each of them by itself with p_wait. A status that is final is never replaced.
create function df._project_v1(
    p_instance_ids text[], p_execution_ids bigint[], p_names text[], p_statuses text[], p_outputs text[],
    p_projections text[], p_wait boolean
)
returns text[]
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_records jsonb := coalesce(df._node_records(p_instance_ids, p_projections), '[]');
    v_ids text[];
    v_ends boolean[];
    v_locked text[];
    v_busy text[] := '{}';
    v_busy_nodes text[];
    v_rows integer;
begin
    -- Instances that begin or end in these turns.
    select array_agg(w.id), array_agg(w.ends) into v_ids, v_ends
    from (
        select i.id, bool_or(t.ends) as ends
        from (
            select
                split_part(u.engine_id, '::', 1) as id,
                strpos(u.engine_id, '::') = 0 and u.status in ('Completed', 'Failed') as ends
            from unnest(p_instance_ids, p_statuses) as u (engine_id, status)
        ) as t
        join df.instances as i on i.id = t.id
        where i.status = 'pending' or (i.status = 'running' and t.ends)
        group by i.id
    ) as w;
    if v_ids is not null then
        if p_wait then
            perform from df.instances as i where i.id = any (v_ids) order by i.id for no key update;
        else
            select coalesce(array_agg(l.id), '{}') into v_locked
            from (
                select i.id from df.instances as i
                where i.id = any (v_ids)
                for no key update skip locked
            ) as l;
            select coalesce(array_agg(x), '{}') into v_busy from unnest(v_ids) as x where x <> all (v_locked);
        end if;
    end if;

    if v_records <> '[]' and not p_wait then
        perform from jsonb_to_recordset(v_records) as r (instance text, node text)
        join df.nodes as n on n.instance_id = r.instance and n.id = r.node
        for no key update of n skip locked;
        get diagnostics v_rows = row_count;
        if v_rows < jsonb_array_length(v_records) then  -- locked by others, or gone
            with record as materialized (
                select r.instance, r.node from jsonb_to_recordset(v_records) as r (instance text, node text)
            ),
            locked as materialized (
                select n.instance_id, n.id
                from df.nodes as n
                join record as r on n.instance_id = r.instance and n.id = r.node
                for no key update of n skip locked
            )
            select array_agg(distinct n.instance_id) into v_busy_nodes
            from df.nodes as n
            join record as r on n.instance_id = r.instance and n.id = r.node
            where not exists (select from locked as l where l.instance_id = n.instance_id and l.id = n.id);
            v_busy := v_busy || coalesce(v_busy_nodes, '{}');
        end if;
    end if;

    if v_busy <> '{}' then
        select coalesce(jsonb_agg(e.record), '[]') into v_records
        from jsonb_array_elements(v_records) as e (record)
        where e.record ->> 'instance' <> all (v_busy);
    end if;
    if v_records <> '[]' then
        perform df._write_nodes(v_records);
    end if;

    if v_ids is not null then
        update df.instances as i
        set status = t.status,
            error = t.error,
            -- What ends without a failed node has the last reason why no worker could go on.
            error_details = case when t.status = 'failed' then coalesce((
                select e.record -> 'error'
                from jsonb_array_elements(v_records) as e (record)
                where e.record ->> 'instance' = i.id and e.record ->> 'node' = i.root_node
                    and jsonb_typeof(e.record -> 'error') = 'object'
            ), i.error_details) end,
            updated_at = clock_timestamp(),
            completed_at = case when t.status <> 'running' then clock_timestamp() end
        from (
            select w.id,
                case when w.ends then lower(o.status) else 'running' end as status,
                case when w.ends and o.status = 'Failed' then o.output end as error
            from unnest(v_ids, v_ends) as w (id, ends)
            left join unnest(p_instance_ids, p_statuses, p_outputs) as o (id, status, output)
                on o.id = w.id and o.status in ('Completed', 'Failed')
            where w.id <> all (v_busy)
        ) as t
        where i.id = t.id and (i.status = 'pending' or (i.status = 'running' and t.status <> 'running'));
        if true = any (v_ends) then
            delete from df._signal_waiters as w where w.instance_id = any (v_ids) and w.instance_id <> all (v_busy)
                and exists (select from df.instances as i where i.id = w.instance_id and i.completed_at is not null);
        end if;
    end if;

    if v_busy = '{}' then
        return v_busy;
    end if;
    return (
        select coalesce(array_agg(distinct p), '{}')
        from unnest(p_instance_ids) as p
        where split_part(p, '::', 1) = any (v_busy)
    );
end
$$;

comment on function df._project_v1(text[], bigint[], text[], text[], text[], text[], boolean) is 'The commit hook of the worker';

-- Ends a SQL step inside the step's own transaction: effect, completion and node status are one commit.
-- Returns the id of the completion's message, which the worker takes into the next turn without a poll.
-- It is called in the submitter's session, or (identity set_role) in one of the owner of df, who is the
-- current_user here. The token is secret and for one step; the completion that the
-- submitter could forge with it is one that his SQL could have produced.
--
-- The lock on the instance makes a request to cancel and this commit take turns, so that after a
-- committed cancel no step commits (except the one that asked for it).
create function df._finish_step_v1(p_token text, p_body text, p_projection text) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_engine_id text;
    v_message_id bigint;
    v_instance_id text;
    v_submitted_by regrole;
    v_status text;
    v_cancelled_in xid8;
    v_record jsonb;
    v_records jsonb;
begin
    select c.o_instance_id, c.o_message_id into v_engine_id, v_message_id
    from duroxide.complete_activity_v1(p_token, 3::smallint, p_body) as c;
    v_instance_id := split_part(v_engine_id, '::', 1);
    select i.submitted_by, i.status, i.cancelled_in into v_submitted_by, v_status, v_cancelled_in
    from df.instances as i where i.id = v_instance_id for key share;
    if v_submitted_by is distinct from quote_ident(session_user)::regrole and session_user <> current_user then
        raise exception 'a step of instance % can be finished only by role %, not by %',
            v_instance_id, v_submitted_by, session_user using errcode = '42501';
    end if;
    if v_status = 'cancelled' and v_cancelled_in is distinct from pg_current_xact_id() then
        raise exception 'instance % was cancelled', v_instance_id using errcode = 'PD002';
    end if;
    v_record := df._document(p_projection);
    if jsonb_typeof(v_record) = 'object' and v_record ->> 'status' = 'completed' and not v_record ? 'result_from' then
        -- What the worker sends: _write_nodes for one node, without what it takes for many.
        update df.nodes as n
        set status = 'completed',
            result = df._document(v_record ->> 'result'),
            error = null,
            status_details = jsonb_build_object('execution_id', v_record ->> 'stamp')
                || case when jsonb_typeof(v_record -> 'details') = 'object' then v_record -> 'details' else '{}' end,
            updated_at = clock_timestamp()
        where n.instance_id = v_instance_id and n.id = v_record ->> 'node';
        return v_message_id;
    end if;
    v_records := df._node_records(array[v_engine_id], array[p_projection]);
    if v_records is not null then
        perform df._write_nodes(v_records);
    end if;
    return v_message_id;
end
$$;

comment on function df._finish_step_v1(text, text, text) is 'Ends a SQL step inside its own transaction';

-- Ends instances whose engine state has ended without them, or is gone. Both are written in one commit,
-- so there are none, unless somebody wrote to the tables, or restored some of them.
create function df._repair_v1(p_at_most integer) returns table (instance_id text, status text, error text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
        with wrong as materialized (
            select
                i.id,
                case when e.status = 'Completed' then 'completed' else 'failed' end as status,
                case e.status when 'Completed' then null when 'Failed' then e.output else 'engine state lost' end as error
            from df.instances as i
            left join duroxide.instances as e on e.instance_id = i.id
            where i.status in ('pending', 'running')
                and case
                    when e.instance_id is not null then e.status in ('Completed', 'Failed')
                    -- One that has not begun has its start message.
                    else not exists (select from duroxide.orchestrator_queue as q where q.instance_id = i.id)
                end
            order by i.created_at
            limit p_at_most
            for no key update of i skip locked
        ),
        ended as (
            update df.instances as i
            set status = w.status, error = w.error, updated_at = clock_timestamp(), completed_at = clock_timestamp()
            from wrong as w
            where i.id = w.id
            returning i.id, i.status, i.error
        ),
        waiters as (
            delete from df._signal_waiters as s using wrong as w where s.instance_id = w.id
        )
        select d.id::text, d.status, d.error from ended as d;
end
$$;

comment on function df._repair_v1(integer) is 'Ends instances whose engine state has ended without them or is gone';

revoke execute on function df._repair_v1(integer) from public;
revoke execute on function df._write_nodes(jsonb) from public;
revoke execute on function df._project_v1(text[], bigint[], text[], text[], text[], text[], boolean) from public;
