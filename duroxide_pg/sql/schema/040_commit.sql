-- Write a batch: turns, ended and abandoned activities, abandoned turns and messages, in one transaction.
--
-- Never raises for an expected condition; the codes say what became of each turn, ended activity and
-- abandoned lease: 0 applied, 1 lease lost, 2 history conflict, 3 applied before, 5 refused by the hook because
-- somebody has locked its rows; 4 is a first turn that says nothing about its execution. What is refused leaves the rest alone.
--
-- Order: the batch's number, classification without locks, the hook, then leases before everything else.
-- Each write repeats the condition that classification saw, and a count that differs raises 40001: the
-- caller sends the same batch again, which then sees what happened. Rows of each table are taken in
-- sorted order (the caller sorts), instance_locks before instances before worker_queue, so that two
-- batches can't wait for each other.
--
-- Arrays of one letter are columns of the same rows: t turns, c consumed messages, d turns whose consumed
-- messages become dead letters, a new activities,
-- n cancelled activities, f ended activities, m messages, r cancelled timers, k key-values, x abandoned turns,
-- y abandoned activities. A turn's rows name it by its instance: one turn of an instance per batch.
create function {schema}.commit_v1(
    p_writer text,
    p_seq bigint,
    p_nonce text,
    p_owner text,
    p_eager_lease_ms bigint,
    p_hook text,
    p_hook_wait boolean,
    t_instance text[],
    t_nonce text[],
    t_execution bigint[],
    t_first bigint[],
    t_last bigint[],
    t_events text[],
    t_key text[],
    t_name text[],
    t_version text[],
    t_pin bigint[],
    t_parent text[],
    t_status text[],
    t_output text[],
    t_keep bigint[],
    t_custom_set bigint[],
    t_custom text[],
    t_projection text[],
    c_instance text[],
    c_id bigint[],
    d_instance text[],
    d_reason text[],
    a_instance text[],
    a_execution bigint[],
    a_activity bigint[],
    a_body text[],
    a_tag text[],
    a_session text[],
    a_eager bigint[],
    n_instance text[],
    n_execution bigint[],
    n_activity bigint[],
    f_instance text[],
    f_id bigint[],
    f_nonce text[],
    f_turn text[],
    m_turn text[],
    m_finish bigint[],
    m_instance text[],
    m_kind bigint[],
    m_body text[],
    m_visible bigint[],
    m_timer_execution bigint[],
    m_timer bigint[],
    r_instance text[],
    r_execution bigint[],
    r_timer bigint[],
    k_instance text[],
    k_key text[],
    k_value text[],
    k_time bigint[],
    k_cleared text[],
    x_instance text[],
    x_nonce text[],
    x_delay bigint[],
    x_count bigint[],
    y_instance text[],
    y_id bigint[],
    y_nonce text[],
    y_delay bigint[],
    y_count bigint[],
    p_now bigint default null
) returns table (
    o_turn_codes smallint[],
    o_finish_codes smallint[],
    o_abandon_turn_codes smallint[],
    o_abandon_activity_codes smallint[],
    o_eager_ids bigint[],
    o_repeated boolean,
    o_more boolean,
    o_now bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_ts constant timestamptz := coalesce(to_timestamp(p_now / 1000.0), clock_timestamp());
    v_now constant bigint := coalesce(p_now, floor(extract(epoch from v_ts) * 1000)::bigint);
    v_turns constant integer := cardinality(t_instance);
    v_finishes constant integer := cardinality(f_id);
    v_all boolean := true;
    v_ok text[] := t_instance;
    v_old text[];
    v_new text[];
    v_superseding text[];
    v_ended text[];
    v_busy text[];
    v_told text[] := t_instance;  -- to the hook: all that goes well so far
    v_executions bigint[] := t_execution;
    v_names text[] := t_name;
    v_statuses text[] := t_status;
    v_outputs text[] := t_output;
    v_projections text[] := t_projection;
    v_lost_finishes integer;
    v_lost_ordinals bigint[];
    v_rows integer;
    v_expected integer;
begin
    o_now := v_now;
    o_repeated := false;
    o_more := false;

    -- The number of the batch. The same one again: it was applied; a smaller one: from a connection that
    -- was given up, whose batch has been decided since.
    insert into {schema}.writers as w (writer, seq, updated_at) values (p_writer, p_seq, v_ts)
    on conflict (writer) do update
       set seq = excluded.seq,
           turn_codes = null,
           finish_codes = null,
           abandon_codes = null,
           updated_at = excluded.updated_at
     where w.seq < excluded.seq;
    if not found then
        o_repeated := true;
        select w.turn_codes, w.finish_codes,
               w.abandon_codes[:cardinality(x_instance)], w.abandon_codes[cardinality(x_instance) + 1:]
          into o_turn_codes, o_finish_codes, o_abandon_turn_codes, o_abandon_activity_codes
          from {schema}.writers as w
         where w.writer = p_writer and w.seq = p_seq;
        if not found then
            raise exception 'batch % of writer % was given up', p_seq, p_writer
                using errcode = 'PD003';
        end if;
        select array_agg(q.id order by q.id) into o_eager_ids
          from (select distinct i from unnest(a_instance) as i) as a
         cross join lateral (
             select x.id from {schema}.worker_queue as x
              where x.instance_id = a.i and x.lock_token = p_nonce
             offset 0
         ) as q;
        o_more := true;
        return next;
        return;
    end if;

    -- Ended activities: all of them live, as a rule.
    if v_finishes > 0 then
        select v_finishes - count(*) into v_lost_finishes
          from unnest(f_instance, f_id, f_nonce) as f (instance_id, id, nonce)
         cross join lateral (
             select from {schema}.worker_queue as x
              where x.instance_id = f.instance_id
                and x.id = f.id
                and x.lock_token = f.nonce
                and x.locked_until > v_now
             offset 0
         ) as q;
        if v_lost_finishes > 0 then
            select array_agg(case when q.lock_token = f.nonce and q.locked_until > v_now then 0
                                  else 1 end::smallint order by f.ordinal)
              into o_finish_codes
              from unnest(f_instance, f_id, f_nonce) with ordinality
                   as f (instance_id, id, nonce, ordinal)
              left join lateral (
                  select x.lock_token, x.locked_until from {schema}.worker_queue as x
                   where x.instance_id = f.instance_id and x.id = f.id
                  offset 0
              ) as q on true;
            select array_agg(ordinal) into v_lost_ordinals
              from unnest(o_finish_codes) with ordinality as f (code, ordinal)
             where code <> 0;
        end if;
    end if;

    if v_turns > 0 then
        select array_agg(seen.code order by seen.ordinal),
               array_agg(seen.instance_id order by seen.ordinal) filter (where seen.code = 0),
               array_agg(seen.instance_id order by seen.ordinal)
                   filter (where seen.code = 0 and seen.is_old),
               array_agg(seen.instance_id order by seen.ordinal)
                   filter (where seen.code = 0 and not seen.is_old),
               array_agg(seen.instance_id order by seen.ordinal)
                   filter (where seen.code = 0 and seen.supersedes),
               array_agg(seen.instance_id order by seen.ordinal)
                   filter (where seen.code = 0 and seen.has_ended)
          into o_turn_codes, v_ok, v_old, v_new, v_superseding, v_ended
          from (
            select t.ordinal, t.instance_id,
                   s.instance_id is not null as is_old,
                   s.current_execution_id < t.execution_id as supersedes,
                   t.status <> 'Running'
                       and t.instance_id <> all (d_instance)  -- which may be reopened
                       and (s.status is distinct from t.status)
                       and (s.flags & 2 = 2 or cardinality(k_instance) > 0) as has_ended,
                   case
                       when substr(s.last_commit, 13) = t.key then 3
                       when l.lock_token is distinct from t.nonce or l.locked_until <= v_now then 1
                       when v_lost_ordinals is not null and exists (
                           select from unnest(v_lost_ordinals) as lost
                            where f_turn[lost] = t.instance_id
                       ) then 1
                       when s.instance_id is null then case
                           when t.execution_id <> 1 or t.first <> 1 then 2
                           when t.name is null and t.last >= t.first then 4
                           else 0 end
                       when t.execution_id = s.current_execution_id + 1
                           then case when t.first = 1 and t.name is not null then 0 else 2 end
                       when t.execution_id <> s.current_execution_id then 2
                       when t.first <> s.next_event_id then 2
                       when s.status <> 'Running' and t.last >= t.first then 2
                       when t.first = 1 and t.name is null and t.last >= t.first then 4
                       else 0
                   end::smallint as code
              from unnest(t_instance, t_nonce, t_execution, t_first, t_last, t_key, t_name, t_status)
                   with ordinality
                   as t (instance_id, nonce, execution_id, first, last, key, name, status, ordinal)
              left join lateral (
                  select k.lock_token, k.locked_until from {schema}.instance_locks as k
                   where k.instance_id = t.instance_id
                  offset 0
              ) as l on true
              left join lateral (
                  select i.* from {schema}.instances as i
                   where i.instance_id = t.instance_id
                  offset 0
              ) as s on true
          ) as seen;
        v_ok := coalesce(v_ok, '{}');
        v_all := cardinality(v_ok) = v_turns;
    end if;

    if p_hook is not null and cardinality(v_ok) > 0 then
        if not v_all then
            select array_agg(t.instance_id order by t.ordinal), array_agg(t.execution_id order by t.ordinal),
                   array_agg(t.name order by t.ordinal), array_agg(t.status order by t.ordinal),
                   array_agg(t.output order by t.ordinal), array_agg(t.projection order by t.ordinal)
              into v_told, v_executions, v_names, v_statuses, v_outputs, v_projections
              from unnest(t_instance, t_execution, t_name, t_status, t_output, t_projection)
                   with ordinality
                   as t (instance_id, execution_id, name, status, output, projection, ordinal)
             where t.instance_id = any (v_ok);
        end if;
        if array_position(v_names, null) is not null then  -- only first turns say a name
            select array_agg(coalesce(t.name, s.orchestration_name) order by t.ordinal) into v_names
              from unnest(v_told, v_names) with ordinality as t (instance_id, name, ordinal)
              left join lateral (
                  select i.orchestration_name from {schema}.instances as i
                   where i.instance_id = t.instance_id
                  offset 0
              ) as s on true;
        end if;
        execute format('select %s($1, $2, $3, $4, $5, $6, $7)', p_hook::regproc)
           into v_busy
          using v_told, v_executions, v_names, v_statuses, v_outputs, v_projections, p_hook_wait;
        v_busy := array_remove(v_busy, null);
        if cardinality(v_busy) > 0 then
            v_all := false;
            select array_agg(case when i = any (v_busy) then 5 else code end::smallint order by ordinal)
              into o_turn_codes
              from unnest(t_instance, o_turn_codes) with ordinality as t (i, code, ordinal);
            select coalesce(array_agg(i), '{}') into v_ok from unnest(v_ok) as i where i <> all (v_busy);
            select array_agg(i) into v_old from unnest(v_old) as i where i <> all (v_busy);
            select array_agg(i) into v_new from unnest(v_new) as i where i <> all (v_busy);
            select array_agg(i) into v_superseding
              from unnest(v_superseding) as i where i <> all (v_busy);
            select array_agg(i) into v_ended from unnest(v_ended) as i where i <> all (v_busy);
        end if;
    end if;

    if cardinality(v_ok) > 0 then
        -- Leases: end them, or go on with them.
        v_expected := cardinality(v_ok);
        delete from {schema}.instance_locks as l
         using (
            select x.instance_id collate "C" as instance_id, x.row_id
              from unnest(t_instance, t_nonce, t_keep) as t (instance_id, nonce, keep)
             cross join lateral (
                 select k.instance_id, k.ctid as row_id
                   from {schema}.instance_locks as k
                  where k.instance_id = t.instance_id and k.lock_token = t.nonce
                 offset 0
             ) as x
             where t.keep is null and (v_all or t.instance_id = any (v_ok))
         ) as y
         where l.instance_id = y.instance_id and l.ctid = y.row_id;
        get diagnostics v_rows = row_count;
        if v_rows < v_expected then
            v_expected := v_expected - v_rows;
            -- What a poll has handed to the holder meanwhile stays his: it must not be handed out twice.
            update {schema}.instance_locks as l
               set locked_until = v_now + t.keep, locked_at = v_now,
                   msg_ids = array(select i from unnest(l.msg_ids) as i where i <> all (c_id))
              from (
                select x.instance_id collate "C" as instance_id, x.row_id, u.keep
                  from unnest(t_instance, t_nonce, t_keep) as u (instance_id, nonce, keep)
                 cross join lateral (
                     select k.instance_id, k.ctid as row_id
                       from {schema}.instance_locks as k
                      where k.instance_id = u.instance_id and k.lock_token = u.nonce
                     offset 0
                 ) as x
                 where u.keep is not null and (v_all or u.instance_id = any (v_ok))
              ) as t
             where l.instance_id = t.instance_id and l.ctid = t.row_id;
            get diagnostics v_rows = row_count;
            if v_rows <> v_expected then
                raise exception 'a lease changed hands' using errcode = '40001';
            end if;
        end if;

        if v_superseding is not null then
            insert into {schema}.executions_done
                   (instance_id, execution_id, status, output, pinned_version, started_at,
                    completed_at)
            select s.instance_id, s.current_execution_id, s.status, s.output, s.pinned_version,
                   s.started_at, coalesce(s.completed_at, v_ts)
              from unnest(v_superseding) as i
             cross join lateral (
                 select x.* from {schema}.instances as x where x.instance_id = i offset 0
             ) as s
            on conflict do nothing;
        end if;

        if v_old is not null then
            update {schema}.instances as s
               set orchestration_name = coalesce(t.name, s.orchestration_name),
                   orchestration_version = coalesce(t.version, s.orchestration_version),
                   parent_instance_id = coalesce(s.parent_instance_id, t.parent),
                   current_execution_id = t.execution_id,
                   -- What has ended stays ended, whatever a turn that only consumes messages says.
                   status = case when s.status = 'Running' or t.execution_id > s.current_execution_id
                       then t.status else s.status end,
                   output = case when s.status = 'Running' or t.execution_id > s.current_execution_id
                       then t.output else s.output end,
                   next_event_id = t.last + 1,
                   pinned_version = case
                       when t.execution_id = s.current_execution_id
                           then coalesce(t.pin, s.pinned_version)
                       else t.pin end,
                   last_commit = p_writer || t.key,
                   custom_status = case when t.custom_set = 1 then t.custom
                       else s.custom_status end,
                   custom_status_version = s.custom_status_version + t.custom_set::integer,
                   history_events = t.last::integer,
                   history_bytes = coalesce(octet_length(t.events), 0) + case
                       when t.execution_id = s.current_execution_id then s.history_bytes
                       else 0 end,
                   started_at = case
                       when t.execution_id = s.current_execution_id then s.started_at
                       else v_ts end,
                   completed_at = case
                       when s.status <> 'Running' and t.execution_id = s.current_execution_id
                           then s.completed_at
                       when t.status <> 'Running' then v_ts end,
                   updated_at = v_ts
              from (
                select u.execution_id, u.first, u.last, u.events, u.key, u.name, u.version, u.pin,
                       u.parent, u.status, u.output, u.custom_set, u.custom,
                       x.instance_id collate "C" as instance_id, x.row_id
                  from unnest(
                           t_instance, t_execution, t_first, t_last, t_events, t_key, t_name,
                           t_version, t_pin, t_parent, t_status, t_output, t_custom_set, t_custom
                       ) as u (instance_id, execution_id, first, last, events, key, name, version,
                               pin, parent, status, output, custom_set, custom)
                 cross join lateral (
                     select i.instance_id, i.ctid as row_id
                       from {schema}.instances as i
                      where i.instance_id = u.instance_id
                     offset 0
                 ) as x
                 where v_all or u.instance_id = any (v_old)
              ) as t
             where s.instance_id = t.instance_id
               and s.ctid = t.row_id
               and (
                   (t.execution_id = s.current_execution_id and t.first = s.next_event_id)
                   or (t.execution_id = s.current_execution_id + 1 and t.first = 1)
               );
            get diagnostics v_rows = row_count;
            if v_rows <> cardinality(v_old) then
                raise exception 'history has moved on' using errcode = '40001';
            end if;
        end if;

        if v_new is not null then
            -- A turn that only consumes messages (name is null) makes no instance.
            insert into {schema}.instances
                   (instance_id, orchestration_name, orchestration_version, parent_instance_id,
                    status, output, next_event_id, pinned_version, last_commit, custom_status,
                    custom_status_version, history_events, history_bytes, started_at, completed_at,
                    created_at, updated_at, incarnation)
            select t.instance_id, t.name, t.version, t.parent, t.status, t.output, t.last + 1, t.pin,
                   p_writer || t.key, t.custom, t.custom_set, t.last,
                   coalesce(octet_length(t.events), 0), v_ts,
                   case when t.status <> 'Running' then v_ts end, v_ts, v_ts, t.nonce
              from unnest(v_new) as i
              join unnest(
                       t_instance, t_last, t_events, t_key, t_name, t_version, t_pin, t_parent,
                       t_status, t_output, t_custom_set, t_custom, t_nonce
                   ) as t (instance_id, last, events, key, name, version, pin, parent,
                           status, output, custom_set, custom, nonce)
                on t.instance_id = i
             where t.name is not null;
        end if;

        if cardinality(d_instance) > 0 then
            insert into {schema}.dead_letters
                   (instance_id, kind, work_item, timer_execution_id, timer_id, attempt_count, reason,
                    buried_at)
            select m.instance_id, m.kind, m.work_item, m.timer_execution_id, m.timer_id,
                   m.attempt_count + 1, d.reason, v_ts
              from unnest(d_instance, d_reason) as d (instance_id, reason)
              join unnest(c_instance, c_id) as c (instance_id, id) on c.instance_id = d.instance_id
              join {schema}.orchestrator_queue as m on m.instance_id = c.instance_id and m.id = c.id
             where v_all or d.instance_id = any (v_ok)
             order by m.instance_id, m.id;
        end if;
        if cardinality(c_id) > 0 then
            delete from {schema}.orchestrator_queue as q
             using (
                select x.instance_id collate "C" as instance_id, x.row_id
                  from unnest(c_instance, c_id) as c (instance_id, id)
                 cross join lateral (
                     select m.instance_id, m.ctid as row_id
                       from {schema}.orchestrator_queue as m
                      where m.instance_id = c.instance_id and m.id = c.id
                     offset 0
                 ) as x
                 where v_all or c.instance_id = any (v_ok)
             ) as y
             where q.instance_id = y.instance_id and q.ctid = y.row_id;
        end if;

        insert into {schema}.history_log
               (instance_id, execution_id, first_event_id, last_event_id, events, created_at)
        select t.instance_id, t.execution_id, t.first, t.last, t.events, v_ts
          from unnest(t_instance, t_execution, t_first, t_last, t_events)
               as t (instance_id, execution_id, first, last, events)
         where t.events is not null and (v_all or t.instance_id = any (v_ok));

        if cardinality(a_instance) > 0 then
            with added as (
                insert into {schema}.worker_queue
                       (instance_id, execution_id, activity_id, tag_key, session_id, work_item,
                        visible_at, lock_token, locked_until, owner, attempt_count, created_at)
                select a.instance_id, a.execution_id, a.activity_id, coalesce(a.tag, ''), a.session,
                       a.body, v_ts,
                       case when a.eager = 1 then p_nonce end,
                       case when a.eager = 1 then v_now + p_eager_lease_ms else 0 end,
                       case when a.eager = 1 then p_owner end,
                       a.eager, v_ts
                  from unnest(a_instance, a_execution, a_activity, a_body, a_tag, a_session, a_eager)
                       with ordinality
                       as a (instance_id, execution_id, activity_id, body, tag, session, eager,
                             ordinal)
                 where v_all or a.instance_id = any (v_ok)
                 order by a.ordinal
                returning id, lock_token
            )
            select array_agg(added.id order by added.id) into o_eager_ids
              from added where added.lock_token is not null;
        end if;

        if cardinality(r_instance) > 0 then
            -- All timers of an instance in one pass: there may be thousands, and all given up at once.
            delete from {schema}.orchestrator_queue as q
             using (
                select x.instance_id collate "C" as instance_id, x.row_id
                  from (select distinct i from unnest(r_instance) as i) as r
                 cross join lateral (
                     select m.instance_id, m.ctid as row_id
                       from {schema}.orchestrator_queue as m
                      where m.instance_id = r.i
                        -- "is true" keeps it a look into a table in memory; it would be a join.
                        and ((m.instance_id, m.timer_execution_id, m.timer_id) in (
                            select u.instance_id, u.execution_id, u.timer_id
                              from unnest(r_instance, r_execution, r_timer)
                                   as u (instance_id, execution_id, timer_id)
                        )) is true
                     offset 0
                 ) as x
                 where v_all or r.i = any (v_ok)
             ) as y
             where q.instance_id = y.instance_id and q.ctid = y.row_id;
        end if;

        if cardinality(k_cleared) > 0 or cardinality(k_instance) > 0 then
            perform {schema}._write_key_values_v1(
                v_ok, k_cleared, k_instance, k_key, k_value, k_time, v_now);
        end if;
        if v_ended is not null then
            perform {schema}._merge_key_values_v1(v_ended);
        end if;
    end if;

    if v_finishes > 0 then
        with gone as (
            delete from {schema}.worker_queue as q
             using (
                select x.instance_id collate "C" as instance_id, x.row_id
                  from unnest(f_instance, f_id, f_nonce, f_turn) with ordinality
                       as f (instance_id, id, nonce, turn, ordinal)
                 cross join lateral (
                     select w.instance_id, w.ctid as row_id
                       from {schema}.worker_queue as w
                      where w.instance_id = f.instance_id
                        and w.id = f.id
                        and w.lock_token = f.nonce
                     offset 0
                 ) as x
                 where (v_lost_ordinals is null or f.ordinal <> all (v_lost_ordinals))
                   and (v_all or f.turn is null or f.turn = any (v_ok))
             ) as y
             where q.instance_id = y.instance_id and q.ctid = y.row_id
            returning q.session_id
        ),
        touched as (
            update {schema}.sessions as s
               set last_activity_at = v_now
              from (
                select x.row_id
                  from (select distinct gone.session_id from gone where gone.session_id is not null)
                       as g
                 cross join lateral (
                     select y.ctid as row_id from {schema}.sessions as y
                      where y.session_id = g.session_id and y.locked_until > v_now
                     offset 0
                 ) as x
              ) as touched
             where s.ctid = touched.row_id
        )
        select count(*) into v_rows from gone;
        select count(*) into v_expected
          from unnest(f_turn) with ordinality as f (turn, ordinal)
         where (v_lost_ordinals is null or f.ordinal <> all (v_lost_ordinals))
           and (v_all or f.turn is null or f.turn = any (v_ok));
        if v_rows <> v_expected then
            raise exception 'an activity''s lease changed hands' using errcode = '40001';
        end if;
    end if;

    -- After those that ended: one that ends in the batch that gives it up has ended, and is no loss
    -- that sending the batch again could mend.
    if cardinality(n_instance) > 0 and cardinality(v_ok) > 0 then
        perform {schema}._cancel_activities_v1(n_instance, n_execution, n_activity)
          where v_all;
        if not v_all then
            perform {schema}._cancel_activities_v1(
                array_agg(n.instance_id), array_agg(n.execution_id), array_agg(n.activity_id))
               from unnest(n_instance, n_execution, n_activity)
                    as n (instance_id, execution_id, activity_id)
              where n.instance_id = any (v_ok)
             having count(*) > 0;
        end if;
    end if;

    if cardinality(m_instance) > 0 then
        insert into {schema}.orchestrator_queue
               (instance_id, kind, work_item, visible_at, timer_execution_id, timer_id, created_at)
        select m.instance_id, m.kind, m.body,
               coalesce(to_timestamp(m.visible / 1000.0), v_ts), m.timer_execution_id, m.timer_id,
               v_ts
          from unnest(m_turn, m_finish, m_instance, m_kind, m_body, m_visible, m_timer_execution,
                      m_timer)
               with ordinality
               as m (turn, finish, instance_id, kind, body, visible, timer_execution_id, timer_id,
                     ordinal)
         where (v_all or m.turn is null or m.turn = any (v_ok))
           and (v_lost_ordinals is null or m.finish is null or m.finish <> all (v_lost_ordinals))
         order by m.ordinal;
    end if;

    if cardinality(x_instance) > 0 then
        o_abandon_turn_codes := {schema}._abandon_turns_v1(
            x_instance, x_nonce, x_delay, x_count, v_ts, v_now);
    end if;
    if cardinality(y_instance) > 0 then
        o_abandon_activity_codes := {schema}._abandon_activities_v1(
            y_instance, y_id, y_nonce, y_delay, y_count, v_ts, v_now);
    end if;

    -- Something may have come for an instance while it was leased; nobody else will look for it.
    o_more := exists (
        select from unnest(v_ok) as i
         cross join lateral (
             select from {schema}.orchestrator_queue as x
              where x.instance_id = i and x.visible_at <= v_ts
             limit 1
         ) as q
    );

    if 0 <> any (o_turn_codes) or v_lost_ordinals is not null
        or 0 <> any (o_abandon_turn_codes) or 0 <> any (o_abandon_activity_codes) then
        update {schema}.writers as w
           set turn_codes = o_turn_codes,
               finish_codes = o_finish_codes,
               abandon_codes = coalesce(o_abandon_turn_codes, '{}')
                   || coalesce(o_abandon_activity_codes, '{}')
         where w.writer = p_writer;
    end if;
    return next;
end;
$$;

-- Remove activities that nobody waits for any more, running or not. One whose last transaction is
-- open right now is left to it and remembered: if that rolls back, it must not run again.
create function {schema}._cancel_activities_v1(
    n_instance text[], n_execution bigint[], n_activity bigint[]
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
    -- In one pass over what an instance has there, as with timers.
    delete from {schema}.worker_queue as q
     using (
        select x.instance_id collate "C" as instance_id, x.row_id
          from (select distinct i from unnest(n_instance) as i) as n
         cross join lateral (
             select w.instance_id, w.ctid as row_id
               from {schema}.worker_queue as w
              where w.instance_id = n.i
                and ((w.instance_id, w.execution_id, w.activity_id) in (
                    select u.instance_id, u.execution_id, u.activity_id
                      from unnest(n_instance, n_execution, n_activity)
                           as u (instance_id, execution_id, activity_id)
                )) is true
             offset 0
                for update skip locked
         ) as x
     ) as y
     where q.instance_id = y.instance_id and q.ctid = y.row_id;
    insert into {schema}.late_cancellations (instance_id, id)
    select x.instance_id, x.id
      from (select distinct i from unnest(n_instance) as i) as n
     cross join lateral (
         select w.instance_id, w.id from {schema}.worker_queue as w
          where w.instance_id = n.i
            and ((w.instance_id, w.execution_id, w.activity_id) in (
                select u.instance_id, u.execution_id, u.activity_id
                  from unnest(n_instance, n_execution, n_activity)
                       as u (instance_id, execution_id, activity_id)
            )) is true
         offset 0
     ) as x
    on conflict do nothing;
end;
$$;

-- The net effect of a turn on its key-values: all cleared (p_cleared names the instance), then set or,
-- with a null value, cleared one by one.
create function {schema}._write_key_values_v1(
    p_ok text[], p_cleared text[],
    k_instance text[], k_key text[], k_value text[], k_time bigint[],
    p_now bigint
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
    update {schema}.kv_delta as d
       set value = null, last_updated_at_ms = p_now
      from (
        select x.instance_id collate "C" as instance_id, x.row_id
          from unnest(p_cleared) as i
         cross join lateral (
             select k.instance_id, k.ctid as row_id
               from {schema}.kv_delta as k
              where k.instance_id = i
             offset 0
         ) as x
         where i = any (p_ok)
      ) as y
     where d.instance_id = y.instance_id and d.ctid = y.row_id;
    insert into {schema}.kv_delta (instance_id, key, value, last_updated_at_ms)
    select i, s.key, null, p_now
      from unnest(p_cleared) as i
     cross join lateral (
         select x.key from {schema}.kv_store as x where x.instance_id = i offset 0
     ) as s
     where i = any (p_ok)
    on conflict do nothing;
    insert into {schema}.kv_delta (instance_id, key, value, last_updated_at_ms)
    select k.instance_id, k.key, k.value, k.time
      from unnest(k_instance, k_key, k_value, k_time) as k (instance_id, key, value, time)
     where k.instance_id = any (p_ok)
    on conflict (instance_id, key) do update
       set value = excluded.value, last_updated_at_ms = excluded.last_updated_at_ms;
    update {schema}.instances as s
       set flags = s.flags | 2
      from (
        select x.instance_id collate "C" as instance_id, x.row_id
          from (select unnest(k_instance) union select unnest(p_cleared)) as k (instance_id)
         cross join lateral (
             select i.instance_id, i.ctid as row_id
               from {schema}.instances as i
              where i.instance_id = k.instance_id and i.flags & 2 = 0
             offset 0
         ) as x
         where k.instance_id = any (p_ok)
      ) as y
     where s.instance_id = y.instance_id and s.ctid = y.row_id;
end;
$$;

-- An execution ended: what it changed becomes what the next one begins with.
create function {schema}._merge_key_values_v1(p_instances text[]) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
    insert into {schema}.kv_store (instance_id, key, value, execution_id, last_updated_at_ms)
    select d.instance_id, d.key, d.value, s.current_execution_id, d.last_updated_at_ms
      from unnest(p_instances) as i
     cross join lateral (
         select x.current_execution_id from {schema}.instances as x where x.instance_id = i offset 0
     ) as s
     cross join lateral (
         select x.* from {schema}.kv_delta as x
          where x.instance_id = i and x.value is not null
         offset 0
     ) as d
    on conflict (instance_id, key) do update
       set value = excluded.value,
           execution_id = excluded.execution_id,
           last_updated_at_ms = excluded.last_updated_at_ms;
    delete from {schema}.kv_store as s
     using (
        select x.instance_id collate "C" as instance_id, x.row_id
          from unnest(p_instances) as i
         cross join lateral (
             select k.key from {schema}.kv_delta as k
              where k.instance_id = i and k.value is null
             offset 0
         ) as d
         cross join lateral (
             select k.instance_id, k.ctid as row_id
               from {schema}.kv_store as k
              where k.instance_id = i and k.key = d.key
             offset 0
         ) as x
     ) as y
     where s.instance_id = y.instance_id and s.ctid = y.row_id;
    delete from {schema}.kv_delta as d
     using (
        select x.instance_id collate "C" as instance_id, x.row_id
          from unnest(p_instances) as i
         cross join lateral (
             select k.instance_id, k.ctid as row_id
               from {schema}.kv_delta as k
              where k.instance_id = i
             offset 0
         ) as x
     ) as y
     where d.instance_id = y.instance_id and d.ctid = y.row_id;
    update {schema}.instances as s
       set flags = case when exists (
               select from {schema}.kv_store as k where k.instance_id = s.instance_id offset 0
           ) then 1 else 0 end
      from (
        select x.instance_id collate "C" as instance_id, x.row_id
          from unnest(p_instances) as i
         cross join lateral (
             select k.instance_id, k.ctid as row_id
               from {schema}.instances as k
              where k.instance_id = i
             offset 0
         ) as x
      ) as y
     where s.instance_id = y.instance_id and s.ctid = y.row_id;
end;
$$;

-- Give instances back. Only the messages of that lease are delayed or counted.
create function {schema}._abandon_turns_v1(
    x_instance text[], x_nonce text[], x_delay bigint[], x_count bigint[],
    p_ts timestamptz, p_now bigint
) returns smallint[]
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_codes smallint[];
begin
    perform l.instance_id
       from unnest(x_instance) as i  -- sorted
      cross join lateral (
          select k.instance_id from {schema}.instance_locks as k
           where k.instance_id = i
          offset 0
             for update
      ) as l;
    select array_agg(case when l.lock_token = x.nonce and l.locked_until > p_now then 0 else 1 end::smallint order by x.ordinal)
      into v_codes
      from unnest(x_instance, x_nonce) with ordinality as x (instance_id, nonce, ordinal)
      left join lateral (
          select k.lock_token, k.locked_until from {schema}.instance_locks as k
           where k.instance_id = x.instance_id
          offset 0
      ) as l on true;
    update {schema}.orchestrator_queue as q
       set attempt_count = q.attempt_count + x.counts::integer,
           visible_at = case when x.delay > 0 then p_ts + x.delay * interval '1 millisecond'
               else q.visible_at end
      from (
        select u.delay, u.counts, m.instance_id collate "C" as instance_id, m.row_id
          from unnest(x_instance, x_nonce, x_delay, x_count)
               as u (instance_id, nonce, delay, counts)
         cross join lateral (
             select k.msg_ids from {schema}.instance_locks as k
              where k.instance_id = u.instance_id
                and k.lock_token = u.nonce
                and k.locked_until > p_now
             offset 0
         ) as l
         cross join lateral (
             select y.instance_id, y.ctid as row_id
               from {schema}.orchestrator_queue as y
              where y.instance_id = u.instance_id and y.id = any (l.msg_ids)
             offset 0
         ) as m
         where u.delay > 0 or u.counts > 0
      ) as x
     where q.instance_id = x.instance_id and q.ctid = x.row_id;
    delete from {schema}.instance_locks as l
     using (
        select x.instance_id collate "C" as instance_id, x.row_id
          from unnest(x_instance, x_nonce) as u (instance_id, nonce)
         cross join lateral (
             select k.instance_id, k.ctid as row_id
               from {schema}.instance_locks as k
              where k.instance_id = u.instance_id
                and k.lock_token = u.nonce
                and k.locked_until > p_now
             offset 0
         ) as x
     ) as y
     where l.instance_id = y.instance_id and l.ctid = y.row_id;
    return v_codes;
end;
$$;

create function {schema}._abandon_activities_v1(
    y_instance text[], y_id bigint[], y_nonce text[], y_delay bigint[], y_count bigint[],
    p_ts timestamptz, p_now bigint
) returns smallint[]
language sql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $$
    with given_back as (
        update {schema}.worker_queue as q
           set lock_token = null,
               locked_until = 0,
               owner = null,
               attempt_count = greatest(q.attempt_count - (1 - y.counts)::integer, 0),
               visible_at = case when y.delay > 0 then p_ts + y.delay * interval '1 millisecond'
                   else least(q.visible_at, p_ts) end  -- later only if the clock was set back
          from (
            select u.delay, u.counts, x.instance_id collate "C" as instance_id, x.row_id
              from unnest(y_instance, y_id, y_nonce, y_delay, y_count)
                   as u (instance_id, id, nonce, delay, counts)
             cross join lateral (
                 select w.instance_id, w.ctid as row_id
                   from {schema}.worker_queue as w
                  where w.instance_id = u.instance_id
                    and w.id = u.id
                    and w.lock_token = u.nonce
                    and w.locked_until > p_now
                 offset 0
             ) as x
          ) as y
         where q.instance_id = y.instance_id and q.ctid = y.row_id
        returning q.instance_id, q.id
    )
    select array_agg(case when exists (
               select from given_back as g where g.instance_id = y.instance_id and g.id = y.id
           ) then 0 else 1 end::smallint order by y.ordinal)
      from unnest(y_instance, y_id) with ordinality as y (instance_id, id, ordinal);
$$;
