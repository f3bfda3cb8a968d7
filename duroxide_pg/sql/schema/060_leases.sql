-- Extend live leases. Returns the ordinals of those that are live no more: expired, taken over,
-- cancelled, or deleted. A row that a transaction has locked is being finished, and counts as live.
create function {schema}.renew_v1(
    t_instance text[],
    t_nonce text[],
    p_turn_lease_ms bigint,
    y_instance text[],
    y_id bigint[],
    y_nonce text[],
    p_activity_lease_ms bigint,
    p_now bigint default null,
    out o_lost_turns bigint[],
    out o_lost_activities bigint[],
    out o_now bigint
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
    v_sessions text[];
begin
    o_now := v_now;
    if cardinality(t_instance) > 0 then
        with held as materialized (
            select l.*
              from unnest(t_instance, t_nonce) as t (instance_id, nonce)
             cross join lateral (
                 select k.instance_id collate "C" as instance_id, k.locked_until, k.ctid as row_id
                   from {schema}.instance_locks as k
                  where k.instance_id = t.instance_id and k.lock_token = t.nonce
                 offset 0
                    for update skip locked
             ) as l
        ),
        extended as (
            update {schema}.instance_locks as l
               set locked_until = v_now + p_turn_lease_ms
              from held as h
             where l.instance_id = h.instance_id and l.ctid = h.row_id and h.locked_until > v_now
            returning l.instance_id
        )
        select array_agg(t.ordinal) into o_lost_turns
          from unnest(t_instance, t_nonce) with ordinality as t (instance_id, nonce, ordinal)
          left join lateral (
              select k.lock_token from {schema}.instance_locks as k
               where k.instance_id = t.instance_id
              offset 0
          ) as l on true
         where l.lock_token is distinct from t.nonce
            or exists (
                select from held as h
                 where h.instance_id = t.instance_id and h.locked_until <= v_now
            );
    end if;

    if cardinality(y_id) > 0 then
        with held as materialized (
            select q.*
              from unnest(y_instance, y_id, y_nonce) as y (instance_id, id, nonce)
             cross join lateral (
                 select w.instance_id collate "C" as instance_id, w.id, w.locked_until,
                        w.ctid as row_id
                   from {schema}.worker_queue as w
                  where w.instance_id = y.instance_id and w.id = y.id and w.lock_token = y.nonce
                 offset 0
                    for update skip locked
             ) as q
        ),
        extended as (
            update {schema}.worker_queue as q
               set locked_until = v_now + p_activity_lease_ms
              from held as h
             where q.instance_id = h.instance_id and q.ctid = h.row_id and h.locked_until > v_now
            returning q.session_id
        )
        select array_agg(distinct y.ordinal), max(e.sessions)
          into o_lost_activities, v_sessions
          from (select array_agg(distinct extended.session_id) as sessions from extended) as e
          left join (
              select y.ordinal
                from unnest(y_instance, y_id, y_nonce) with ordinality
                     as y (instance_id, id, nonce, ordinal)
                left join lateral (
                    select w.lock_token from {schema}.worker_queue as w
                     where w.instance_id = y.instance_id and w.id = y.id
                    offset 0
                ) as q on true
               where q.lock_token is distinct from y.nonce
                  or exists (
                      select from held as h
                       where h.instance_id = y.instance_id
                         and h.id = y.id
                         and h.locked_until <= v_now
                  )
                  or exists (
                      select from {schema}.late_cancellations as late
                       where late.instance_id = y.instance_id and late.id = y.id
                      offset 0
                  )
          ) as y on true;
        update {schema}.sessions as s
           set last_activity_at = v_now
         where s.ctid = any (array(
             select x.ctid
               from unnest(v_sessions) as touched (session_id)
              cross join lateral (
                  select y.ctid from {schema}.sessions as y
                   where y.session_id = touched.session_id and y.locked_until > v_now
                  offset 0
              ) as x
         ));
    end if;
end;
$$;

-- Keep a text with each leased activity, for its next delivery; extends nothing. A row that a transaction has
-- locked is being finished, and needs none.
create function {schema}.heartbeat_v1(
    y_instance text[], y_id bigint[], y_nonce text[], y_data text[], p_now bigint default null
) returns void
language sql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
as $$
    update {schema}.worker_queue as q
       set heartbeat = y.data
      from (
        select u.data, x.instance_id collate "C" as instance_id, x.row_id
          from unnest(y_instance, y_id, y_nonce, y_data) as u (instance_id, id, nonce, data)
         cross join lateral (
             select w.instance_id, w.ctid as row_id
               from {schema}.worker_queue as w
              where w.instance_id = u.instance_id
                and w.id = u.id
                and w.lock_token = u.nonce
                and w.locked_until
                    > coalesce(p_now, floor(extract(epoch from clock_timestamp()) * 1000)::bigint)
             offset 0
                for update skip locked
         ) as x
      ) as y
     where q.instance_id = y.instance_id and q.ctid = y.row_id;
$$;

create function {schema}.renew_sessions_v1(
    p_owner text, p_lease_ms bigint, p_idle_ms bigint, p_now bigint default null
) returns bigint
language sql
set search_path = pg_catalog, pg_temp
as $$
    with clock as (
        select coalesce(p_now, floor(extract(epoch from clock_timestamp()) * 1000)::bigint) as now
    ),
    extended as (
        update {schema}.sessions as s
           set locked_until = clock.now + p_lease_ms
          from clock
         where s.owner = p_owner
           and s.locked_until > clock.now
           and s.last_activity_at > clock.now - p_idle_ms
        returning 1
    )
    select count(*) from extended;
$$;
