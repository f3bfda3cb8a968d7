-- Suspending an instance: nobody can lease it, because somebody who never lets go has it leased. The row of
-- instance_locks is what suspending, resuming and holding messages are serialised by.

-- One row per instance: changed, unchanged, ended or unknown. Takes leases from whoever has them; what they
-- were given counts as not delivered.
create function {schema}.suspend_instances_v1(p_instances text[], p_now bigint default null)
returns table (o_instance_id text, o_outcome text)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    v_ts constant timestamptz := coalesce(to_timestamp(p_now / 1000.0), clock_timestamp());
begin
    for o_instance_id in select distinct i from unnest(p_instances) as i order by i loop
        begin
            insert into {schema}.instance_locks as l
                   (instance_id, lock_token, owner, locked_until, locked_at)
            values (o_instance_id, '', 'suspended', 9007199254740991,
                    floor(extract(epoch from v_ts) * 1000)::bigint)
            on conflict (instance_id) do update
               set lock_token = excluded.lock_token,
                   owner = excluded.owner,
                   locked_until = excluded.locked_until,
                   locked_at = excluded.locked_at,
                   msg_ids = '{}';
            update {schema}.instances as s
               set suspended_at = v_ts
             where s.instance_id = o_instance_id
               and s.suspended_at is null
               and s.status not in ('Completed', 'Failed');
            if not found then
                raise exception using errcode = 'PD004';  -- takes the lease back
            end if;
            o_outcome := 'changed';
        exception when sqlstate 'PD004' then
            select case when s.suspended_at is null then 'ended' else 'unchanged' end into o_outcome
              from {schema}.instances as s
             where s.instance_id = o_instance_id;
            o_outcome := coalesce(o_outcome, 'unknown');
        end;
        return next;
    end loop;
end;
$$;

-- One row per instance: changed, unchanged or unknown. Wakes workers when it commits.
create function {schema}.resume_instances_v1(p_instances text[])
returns table (o_instance_id text, o_outcome text)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    for o_instance_id in select distinct i from unnest(p_instances) as i order by i loop
        perform from {schema}.instance_locks as l
          where l.instance_id = o_instance_id and l.lock_token = '' for update;
        if found then
            perform {schema}._resume_v1(array[o_instance_id]);
            perform pg_notify('{channel}', 'turns');
            o_outcome := 'changed';
        else
            o_outcome := case when exists (
                select from {schema}.instances as s where s.instance_id = o_instance_id
            ) then 'unchanged' else 'unknown' end;
        end if;
        return next;
    end loop;
end;
$$;

-- The caller holds the rows of instance_locks.
create function {schema}._resume_v1(p_instances text[]) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    delete from {schema}.instance_locks as l
     where l.instance_id = any (p_instances) and l.lock_token = '';
    update {schema}.instances as s set suspended_at = null where s.instance_id = any (p_instances);
    update {schema}.orchestrator_queue as q
       set visible_at = q.held_visible_at, held_visible_at = null
     where q.instance_id = any (p_instances) and q.held_visible_at is not null;
end;
$$;

-- Take the due messages of suspended instances out of the way of polls, which would pass them over again and
-- again. An instance that is to be cancelled is resumed instead; whether there was one.
create function {schema}._hold_messages_v1(p_ts timestamptz) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $$
declare
    v_held text[];
    v_cancelled text[];
begin
    select array_agg(l.instance_id) into v_held
      from (
        select s.instance_id from {schema}.instances as s
         where s.suspended_at is not null
           and exists (
               select from {schema}.orchestrator_queue as q
                where q.instance_id = s.instance_id and q.visible_at <= p_ts
               offset 0
           )
         order by s.instance_id
      ) as due
     cross join lateral (
         select k.instance_id from {schema}.instance_locks as k
          where k.instance_id = due.instance_id and k.lock_token = ''
         offset 0
            for update skip locked
     ) as l;
    select array_agg(i) into v_cancelled
      from unnest(v_held) as i
     where exists (
         select from {schema}.orchestrator_queue as q
          where q.instance_id = i and q.visible_at <= p_ts and q.kind = 8
         offset 0
     );
    if v_cancelled is not null then
        perform {schema}._resume_v1(v_cancelled);
    end if;
    update {schema}.orchestrator_queue as q
       set held_visible_at = q.visible_at, visible_at = timestamptz '9999-01-01 00:00:00+00'
     where q.instance_id = any (v_held)
       and (v_cancelled is null or q.instance_id <> all (v_cancelled))
       and q.visible_at <= p_ts;
    return v_cancelled is not null;
end;
$$;
