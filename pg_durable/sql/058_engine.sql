-- What sessions may see of the engine's state. The views run with the owner's rights, for the engine's
-- tables are nobody else's, and say themselves whose instances are shown: the caller's, or all to those
-- whom row security does not bind.

create function df._sees_all() returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select r.rolsuper or r.rolbypassrls or r.oid = c.relowner
        from pg_roles as r
        cross join pg_class as c
        where r.rolname = current_user and c.oid = 'df.instances'::regclass
    );
end
$$;

comment on function df._sees_all() is 'Whether row security of df does not bind the caller';

create view df._engine_instances with (security_barrier) as
select
    e.instance_id, e.orchestration_name, e.orchestration_version, e.current_execution_id, e.status, e.output
from duroxide.instances as e
where exists (
    select from df.instances as i
    where i.id = e.instance_id
        and (
            i.submitted_by = (select quote_ident(current_user)::regrole)
            or (select df._sees_all())
        )
);

comment on view df._engine_instances is 'The engine''s state of the workflows that the caller may see';

create view df._engine_executions with (security_barrier) as
select
    x.instance_id, x.execution_id, x.status, x.output, x.started_at, x.completed_at, (
        select coalesce(sum(h.last_event_id - h.first_event_id + 1), 0)::bigint
        from duroxide.history_log as h
        where h.instance_id = x.instance_id and h.execution_id = x.execution_id
    ) as event_count
from duroxide.executions as x
where exists (
    select from df.instances as i
    where i.id = x.instance_id
        and (
            i.submitted_by = (select quote_ident(current_user)::regrole)
            or (select df._sees_all())
        )
);

comment on view df._engine_executions is 'The executions of the workflows that the caller may see';
