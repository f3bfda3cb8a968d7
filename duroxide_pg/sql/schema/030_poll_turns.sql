-- Lease up to p_want instances that have something to do, and return all that a turn needs.
--
-- The statements are separate on purpose: each has its own snapshot, so that what is read after the
-- lease was taken is not older than the lease. One statement that locks and reads would return
-- messages that somebody consumed in between.
--
-- Every access by key stands in a subquery with OFFSET 0, and rows are written by their instance and ctid: so
-- each plan is index probes, one per row of the batch, whatever the statistics of these ever-changing tables
-- say. A ctid alone would do on one machine; where tables are spread by instance, each machine has its own.
-- The instance is compared by bytes (collate "C"): equal is equal in any collation, and only the ctid is left
-- to find the row by. The index is in another order, and it would be walked through while the table is
-- small, or searched for all rows of the instance.
--
-- History is left out of an instance whose last turn was written by p_cached_by: that process has it in
-- its cache, as a rule, and asks for it in the rare case that it has not.
--
-- The first row has no instance: the store's clock, when the next message becomes visible, and whether
-- visible messages were passed over because their instance is leased (1: by p_worker, 2: by others, 3: both).
create function {schema}.poll_turns_v1(
    p_worker text,
    p_nonce text,
    p_want integer,
    p_lease_ms bigint,
    p_low_versions bigint[],
    p_high_versions bigint[],
    p_cached_by text,
    p_held_ids text[],
    p_held_nonces text[],
    p_now bigint default null,
    p_try_locks boolean default true
) returns table (
    o_instance_id text,
    o_nonce text,
    o_expires bigint,
    o_execution_id bigint,
    o_next_event_id bigint,
    o_attempt integer,
    o_status text,
    o_name text,
    o_version text,
    o_parent text,
    o_message_ids bigint[],
    o_kinds smallint[],
    o_bodies text[],
    o_history text[],
    o_history_omitted boolean,
    o_keys text[],
    o_values text[],
    o_value_times bigint[],
    o_incarnation text,
    o_waited bigint,
    o_now bigint,
    o_next_due bigint,
    o_blocked smallint
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
    v_space constant integer := hashtext('{channel}');
    v_leased text[] := '{}';
    v_held text[] := '{}';
    v_want integer := p_want;
    v_page_ids text[];
    v_last_ts timestamptz := '-infinity';
    v_last_id bigint := 0;
    v_page_size integer := greatest(4 * p_want, 32);
    v_page_rows integer;
    v_blocked smallint := 0;
    v_page_blocked smallint;
    v_candidates integer;
    v_redelivered boolean;
    v_rows integer;
begin
    -- What arrived under leases that the caller has kept.
    if cardinality(p_held_ids) > 0 then
        select coalesce(array_agg(held.instance_id), '{}') into v_held
          from (
            select l.instance_id
              from unnest(p_held_ids, p_held_nonces) as h (instance_id, nonce)
             cross join lateral (
                 select k.instance_id
                   from {schema}.instance_locks as k
                  where k.instance_id = h.instance_id
                    and k.lock_token = h.nonce
                    and k.locked_until > v_now
                    and exists (
                        select from {schema}.orchestrator_queue as q
                         where q.instance_id = k.instance_id
                           and q.visible_at <= v_ts
                           and q.id <> all (k.msg_ids)
                        offset 0
                    )
                 offset 0
                    for update skip locked
             ) as l
             limit p_want
          ) as held;
        v_want := p_want - cardinality(v_held);
    end if;

    -- Candidates, by the oldest visible message. Pages, so that instances at the head that can't be
    -- taken do not hide later ones.
    for v_page in 1 .. 8 loop
        exit when cardinality(v_leased) >= v_want;
        with page as materialized (
            select q.instance_id, q.visible_at, q.id
              from {schema}.orchestrator_queue as q
             where (q.visible_at, q.id) > (v_last_ts, v_last_id) and q.visible_at <= v_ts
             order by q.visible_at, q.id
             limit v_page_size
        ),
        seen as materialized (
            select p.instance_id, p.visible_at, p.id,
                   case when l.locked_until <= v_now or l.instance_id is null then 0
                        when p.id = any (l.msg_ids) then -1
                        when l.lock_token = '' then 4
                        when l.owner = p_worker then 1
                        else 2 end as blocked,
                   s.pinned_version
              from page as p
              left join lateral (
                  select k.* from {schema}.instance_locks as k
                   where k.instance_id = p.instance_id
                  offset 0
              ) as l on true
              left join lateral (
                  select i.pinned_version from {schema}.instances as i
                   where i.instance_id = p.instance_id
                  offset 0
              ) as s on p_low_versions is not null
        ),
        candidate as materialized (
            select c.instance_id
              from seen as c
             where c.blocked = 0
               and c.instance_id <> all (v_leased)
               and (
                   p_low_versions is null
                   or c.pinned_version is null
                   or exists (
                       select from unnest(p_low_versions, p_high_versions) as v (low, high)
                        where c.pinned_version between v.low and v.high
                   )
               )
             group by c.instance_id
             order by min(c.visible_at), min(c.id)
             limit v_want - cardinality(v_leased)
        ),
        -- A try-lock in memory, so that nobody waits for another poll's uncommitted lease. Only for
        -- that: where a server has no such locks, the rows decide.
        mine as materialized (
            select c.instance_id from candidate as c
             where not p_try_locks or pg_try_advisory_xact_lock(v_space, hashtext(c.instance_id))
        )
        select (select array_agg(m.instance_id order by m.instance_id) from mine as m),
               (select count(*) from candidate),
               (select count(*) from page),
               coalesce((select bit_or(c.blocked) from seen as c where c.blocked > 0), 0),
               last.visible_at, last.id
          into v_page_ids, v_candidates, v_page_rows, v_page_blocked, v_last_ts, v_last_id
          from (select) as one
          left join lateral (
              select p.visible_at, p.id from page as p order by p.visible_at desc, p.id desc limit 1
          ) as last on true;
        if v_page_blocked & 4 > 0 then
            if {schema}._hold_messages_v1(v_ts) then  -- some are candidates now: look from the beginning
                v_last_ts := '-infinity';
                v_last_id := 0;
                continue;
            end if;
            v_page_blocked := v_page_blocked & 3;
        end if;
        v_blocked := v_blocked | v_page_blocked;
        if v_candidates > coalesce(cardinality(v_page_ids), 0) then
            v_blocked := 2;
        end if;

        if v_page_ids is not null then
            -- msg_ids stays what it was, for the account of failed deliveries below.
            with leased as (
                insert into {schema}.instance_locks as l
                       (instance_id, lock_token, owner, locked_until, locked_at)
                select i, p_nonce, p_worker, v_now + p_lease_ms, v_now from unnest(v_page_ids) as i
                on conflict (instance_id) do update
                   set lock_token = excluded.lock_token,
                       owner = excluded.owner,
                       locked_until = excluded.locked_until,
                       locked_at = excluded.locked_at
                 where l.locked_until <= v_now
                returning l.instance_id, l.msg_ids
            )
            select v_leased || coalesce(array_agg(leased.instance_id), '{}'),
                   coalesce(bool_or(leased.msg_ids <> '{}'), false)
              into v_leased, v_redelivered
              from leased;
            if v_redelivered then
                update {schema}.orchestrator_queue as q
                   set attempt_count = q.attempt_count + 1
                  from (
                    select m.instance_id collate "C" as instance_id, m.row_id
                      from unnest(v_page_ids) as i
                     cross join lateral (
                         select l.msg_ids from {schema}.instance_locks as l
                          where l.instance_id = i and l.lock_token = p_nonce
                         offset 0
                     ) as l
                     cross join lateral (
                         select x.instance_id, x.ctid as row_id
                           from {schema}.orchestrator_queue as x
                          where x.instance_id = i and x.id = any (l.msg_ids)
                         offset 0
                     ) as m
                  ) as y
                 where q.instance_id = y.instance_id and q.ctid = y.row_id;
                update {schema}.instance_locks as l
                   set msg_ids = '{}'
                  from (
                    select x.instance_id collate "C" as instance_id, x.row_id
                      from unnest(v_page_ids) as i
                     cross join lateral (
                         select k.instance_id, k.ctid as row_id
                           from {schema}.instance_locks as k
                          where k.instance_id = i and k.lock_token = p_nonce and k.msg_ids <> '{}'
                         offset 0
                     ) as x
                  ) as y
                 where l.instance_id = y.instance_id and l.ctid = y.row_id;
            end if;
        end if;

        exit when v_page_rows < v_page_size;
        v_page_size := 2 * v_page_size;
    end loop;

    return query
    select null::text, null::text, null::bigint, null::bigint, null::bigint, null::integer, null::text,
           null::text, null::text, null::text, null::bigint[], null::smallint[], null::text[],
           null::text[], null::boolean, null::text[], null::text[], null::bigint[], null::text, null::bigint, v_now,
           (
               select ceil(extract(epoch from q.visible_at) * 1000)::bigint
                 from {schema}.orchestrator_queue as q
                where q.visible_at > v_ts
                order by q.visible_at, q.id
                limit 1
           ),
           v_blocked;

    v_leased := v_leased || v_held;
    if cardinality(v_leased) = 0 then
        return;
    end if;
    return query
    with message as materialized (
        select q.instance_id,
               array_agg(q.id order by q.id) as ids,
               array_agg(q.kind order by q.id) as kinds,
               array_agg(q.work_item order by q.id) as bodies,
               max(q.attempt_count) + 1 as attempt,
               min(q.visible_at) as since
          from unnest(v_leased) as i
         cross join lateral (
             select k.msg_ids from {schema}.instance_locks as k where k.instance_id = i offset 0
         ) as l
         cross join lateral (
             select x.* from {schema}.orchestrator_queue as x
              where x.instance_id = i and x.visible_at <= v_ts and x.id <> all (l.msg_ids)
             offset 0
         ) as q
         group by q.instance_id
    ),
    handed as (
        update {schema}.instance_locks as l
           set msg_ids = l.msg_ids || m.ids
          from (
            select y.ids, y.kinds, y.bodies, y.attempt, y.since,
                   x.instance_id collate "C" as instance_id, x.row_id
              from message as y
             cross join lateral (
                 select k.instance_id, k.ctid as row_id
                   from {schema}.instance_locks as k
                  where k.instance_id = y.instance_id
                 offset 0
             ) as x
          ) as m
         where l.instance_id = m.instance_id and l.ctid = m.row_id
        returning l.instance_id, l.lock_token, l.locked_until,
                  m.ids, m.kinds, m.bodies, m.attempt, m.since
    )
    select h.instance_id, h.lock_token, h.locked_until,
           coalesce(s.current_execution_id, 1), coalesce(s.next_event_id, 1), h.attempt,
           coalesce(s.status, 'Running'), s.orchestration_name, s.orchestration_version,
           s.parent_instance_id, h.ids, h.kinds, h.bodies, past.events,
           coalesce(left(s.last_commit, 12) = p_cached_by, false),
           kv.keys, kv.vals, kv.times, coalesce(s.incarnation, h.lock_token),
           greatest(floor(extract(epoch from v_ts - h.since) * 1000)::bigint, 0), null::bigint, null::bigint, null::smallint
      from handed as h
      left join lateral (
          select i.* from {schema}.instances as i where i.instance_id = h.instance_id offset 0
      ) as s on true
      left join lateral (
          select array_agg(x.events order by x.first_event_id) as events
            from {schema}.history_log as x
           where x.instance_id = s.instance_id
             and x.execution_id = s.current_execution_id
             and left(s.last_commit, 12) is distinct from p_cached_by
      ) as past on true
      left join lateral (
          select array_agg(k.key) as keys,
                 array_agg(k.value) as vals,
                 array_agg(k.last_updated_at_ms) as times
            from {schema}.kv_store as k
           where k.instance_id = s.instance_id and s.flags & 1 = 1
      ) as kv on true
     order by h.since, h.ids[1];

    get diagnostics v_rows = row_count;
    if v_rows < cardinality(v_leased) then
        -- Consumed by somebody between the candidate's snapshot and the lease.
        delete from {schema}.instance_locks as l
         using (
            select x.instance_id collate "C" as instance_id, x.row_id
              from unnest(v_leased) as i
             cross join lateral (
                 select k.instance_id, k.ctid as row_id
                   from {schema}.instance_locks as k
                  where k.instance_id = i and k.lock_token = p_nonce and k.msg_ids = '{}'
                 offset 0
             ) as x
         ) as y
         where l.instance_id = y.instance_id and l.ctid = y.row_id;
    end if;
end;
$$;
