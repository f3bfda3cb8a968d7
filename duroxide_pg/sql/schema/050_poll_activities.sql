-- Lease up to p_want activities, oldest first.
--
-- p_tag_keys: the tags that the caller accepts, '' for untagged; null: any. With a null in front: any but
-- the others and those below them, as `a/b` is below `a`. Without p_session_owner,
-- activities of sessions are left alone; with it, they go to the owner of their session, and at most
-- p_max_new sessions without a live owner become the caller's.
--
-- The first row has no instance: the store's clock and when the next delayed activity becomes visible.
create function {schema}.poll_activities_v1(
    p_worker text,
    p_nonce text,
    p_want integer,
    p_lease_ms bigint,
    p_tag_keys text[],
    p_session_owner text,
    p_session_lease_ms bigint,
    p_max_new integer,
    p_now bigint default null
) returns table (
    o_instance_id text,
    o_id bigint,
    o_execution_id bigint,
    o_activity_id bigint,
    o_nonce text,
    o_expires bigint,
    o_attempt integer,
    o_body text,
    o_tag text,
    o_session text,
    o_heartbeat text,
    o_waited bigint,
    o_now bigint,
    o_next_due bigint
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
    v_keys text[] := p_tag_keys;
    v_instances text[];
    v_ids bigint[];
begin
    if exists (select from {schema}.late_cancellations) then
        perform {schema}._sweep_cancellations_v1();
    end if;

    if v_keys is null or v_keys[1] is null and cardinality(v_keys) > 0 then
        -- The distinct keys, one index probe each.
        with recursive keys as (
            (select q.tag_key from {schema}.worker_queue as q
              where q.session_id is null order by q.tag_key limit 1)
            union all
            select (select q.tag_key from {schema}.worker_queue as q
                     where q.session_id is null and q.tag_key > k.tag_key
                     order by q.tag_key limit 1)
              from keys as k where k.tag_key is not null
        )
        select coalesce(array_agg(k.tag_key), '{}') into v_keys
          from keys as k
         where k.tag_key is not null
           and not exists (
               select from unnest(p_tag_keys[2:]) as e
                where k.tag_key = e or starts_with(k.tag_key, e || '/')
           );
    end if;

    return query
    select null::text, null::bigint, null::bigint, null::bigint, null::text, null::bigint,
           null::integer, null::text, null::text, null::text, null::text, null::bigint, v_now,
           (
               select ceil(extract(epoch from min(soon.visible_at)) * 1000)::bigint
                 from unnest(v_keys) as k
                cross join lateral (
                    select q.visible_at from {schema}.worker_queue as q
                     where q.session_id is null and q.tag_key = k and q.visible_at > v_ts
                     order by q.tag_key, q.visible_at, q.id
                     limit 1
                ) as soon
           );

    if p_session_owner is not null then
        select s.o_instances, s.o_ids into v_instances, v_ids
          from {schema}._claim_sessions_v1(
              p_session_owner, p_want, p_session_lease_ms, p_max_new, p_tag_keys, p_tag_keys is null,
              v_ts, v_now) as s;
    end if;

    return query
    with free as materialized (
        select q.*
          from unnest(v_keys) as k
         cross join lateral (
             select w.instance_id, w.id, w.visible_at
               from {schema}.worker_queue as w
              where w.session_id is null
                and w.tag_key = k
                and w.visible_at <= v_ts
                and w.locked_until <= v_now
                and not exists (
                    select from {schema}.late_cancellations as late
                     where late.instance_id = w.instance_id and late.id = w.id
                    offset 0
                )
              order by w.tag_key, w.visible_at, w.id
              limit p_want
                for update of w skip locked
         ) as q
    ),
    bound as materialized (
        select w.instance_id, w.id, w.visible_at
          from unnest(v_instances, v_ids) as s (instance_id, id)
         cross join lateral (
             select x.instance_id, x.id, x.visible_at
               from {schema}.worker_queue as x
              where x.instance_id = s.instance_id
                and x.id = s.id
                and x.visible_at <= v_ts
                and x.locked_until <= v_now
             offset 0
                for update skip locked
         ) as w
    ),
    picked as materialized (
        select u.instance_id, u.id
          from (select * from free union all select * from bound) as u
         order by u.visible_at, u.id
         limit p_want
    ),
    leased as (
        update {schema}.worker_queue as w
           set lock_token = p_nonce,
               locked_until = v_now + p_lease_ms,
               owner = p_worker,
               attempt_count = w.attempt_count + 1
          from (
            select x.instance_id collate "C" as instance_id, x.row_id
              from picked as p
             cross join lateral (
                 select y.instance_id, y.ctid as row_id
                   from {schema}.worker_queue as y
                  where y.instance_id = p.instance_id and y.id = p.id
                 offset 0
             ) as x
          ) as p
         where w.instance_id = p.instance_id and w.ctid = p.row_id
        returning w.*
    )
    select l.instance_id, l.id, l.execution_id, l.activity_id, l.lock_token, l.locked_until,
           l.attempt_count, l.work_item, nullif(l.tag_key, ''), l.session_id, l.heartbeat,
           greatest(floor(extract(epoch from v_ts - l.visible_at) * 1000)::bigint, 0), null::bigint, null::bigint
      from leased as l
     order by l.visible_at, l.id;
end;
$$;

-- Sessions for a worker: those that are its own and live, and up to p_max_new that nobody has. Returns
-- activities of theirs that may be leased, in order; what it claims it holds for p_lease_ms.
create function {schema}._claim_sessions_v1(
    p_owner text,
    p_want integer,
    p_lease_ms bigint,
    p_max_new integer,
    p_tag_keys text[],
    p_any_tag boolean,
    p_ts timestamptz,
    p_now bigint,
    out o_instances text[],
    out o_ids bigint[]
)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_lost text[] := '{}';
    v_wanted text[];
    v_claimed text[];
begin
    -- A claim that somebody else wins is left out of the next round.
    for v_round in 1 .. 3 loop
        with recursive names as (
            (select q.session_id from {schema}.worker_queue as q
              where q.session_id is not null order by q.session_id limit 1)
            union all
            select (select q.session_id from {schema}.worker_queue as q
                     where q.session_id is not null and q.session_id > n.session_id
                     order by q.session_id limit 1)
              from names as n where n.session_id is not null
        ),
        mine as materialized (
            select n.session_id, s.owner is not null as is_held
              from (select names.session_id from names where names.session_id is not null limit 1000)
                   as n
              left join lateral (
                  select x.owner from {schema}.sessions as x
                   where x.session_id = n.session_id and x.locked_until > p_now
                  offset 0
              ) as s on true
             where (s.owner is null or s.owner = p_owner) and n.session_id <> all (v_lost)
        ),
        ready as materialized (
            select m.session_id, m.is_held, w.instance_id, w.id, w.visible_at
              from mine as m
             cross join lateral (
                 select q.instance_id, q.id, q.visible_at
                   from {schema}.worker_queue as q
                  where q.session_id = m.session_id
                    and q.visible_at <= p_ts
                    and q.locked_until <= p_now
                    and (
                        p_any_tag
                        or q.tag_key = any (p_tag_keys)
                        or p_tag_keys[1] is null and cardinality(p_tag_keys) > 0 and not exists (
                            select from unnest(p_tag_keys[2:]) as e
                             where q.tag_key = e or starts_with(q.tag_key, e || '/')
                        )
                    )
                  order by q.session_id, q.visible_at, q.id
                  limit p_want
             ) as w
        ),
        newcomers as (
            select r.session_id from ready as r where not r.is_held
             group by r.session_id
             order by min(r.visible_at), min(r.id)
             limit p_max_new
        ),
        chosen as (
            select r.* from ready as r
             where r.is_held or r.session_id in (select n.session_id from newcomers as n)
             order by r.visible_at, r.id
             limit p_want
        )
        select array_agg(c.instance_id order by c.visible_at, c.id),
               array_agg(c.id order by c.visible_at, c.id),
               array_agg(distinct c.session_id)
          into o_instances, o_ids, v_wanted
          from chosen as c;
        exit when v_wanted is null;
        with claimed as (
            insert into {schema}.sessions as s (session_id, owner, locked_until, last_activity_at)
            select w, p_owner, p_now + p_lease_ms, p_now from unnest(v_wanted) as w order by w
            on conflict (session_id) do update
               set owner = excluded.owner,
                   locked_until = excluded.locked_until,
                   last_activity_at = excluded.last_activity_at
             where s.owner = excluded.owner or s.locked_until <= p_now
            returning s.session_id
        )
        select coalesce(array_agg(claimed.session_id), '{}') into v_claimed from claimed;
        exit when cardinality(v_claimed) = cardinality(v_wanted);
        select v_lost || array_agg(w) into v_lost
          from unnest(v_wanted) as w where w <> all (v_claimed);
        o_instances := null;
        o_ids := null;
    end loop;
end;
$$;

-- Cancelled activities whose transaction has ended: committed, and gone, or rolled back, and to be removed.
create function {schema}._sweep_cancellations_v1() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
    delete from {schema}.worker_queue as q
     using (
        select x.instance_id collate "C" as instance_id, x.row_id
          from {schema}.late_cancellations as late
         cross join lateral (
             select w.instance_id, w.ctid as row_id
               from {schema}.worker_queue as w
              where w.instance_id = late.instance_id and w.id = late.id
             offset 0
                for update skip locked
         ) as x
     ) as y
     where q.instance_id = y.instance_id and q.ctid = y.row_id;
    delete from {schema}.late_cancellations as late
     where not exists (
         select from {schema}.worker_queue as q
          where q.instance_id = late.instance_id and q.id = late.id
         offset 0
     );
end;
$$;
