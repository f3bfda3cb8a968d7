-- Hints between processes: who waits for what, and telling them. A waiter registers, commits, looks once
-- more, and only then waits; whoever has something for it calls wake_v1 after its own commit. So either
-- the waiter sees the change, or the other one sees the waiter.

create function {schema}.register_waiter_v1(p_waiter text, p_topics text[], p_for_ms bigint)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    insert into {schema}.wake_waiters as w (topic, waiter, until_ms)
    select t, p_waiter, floor(extract(epoch from clock_timestamp()) * 1000)::bigint + p_for_ms
      from unnest(p_topics) as t order by t
    on conflict (topic, waiter) do update set until_ms = excluded.until_ms;
$$;

-- Wake one waiter of each queue, and all that wait for an instance. Topics: a queue, or 'i:' and an
-- instance.
create function {schema}.wake_v1(p_waker text, p_queues text[], p_instances text[]) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_woken text[];
begin
    if not exists (select from {schema}.wake_waiters as w where w.waiter <> p_waker) then
        return;
    end if;
    with chosen as materialized (
        select one.topic, one.waiter
          from unnest(p_queues) as t (topic)
         cross join lateral (
             select w.topic, w.waiter
               from {schema}.wake_waiters as w
              where w.topic = t.topic and w.waiter <> p_waker
              limit 1
                for update skip locked
         ) as one
        union all
        select w.topic, w.waiter
          from unnest(p_instances) as i
          join {schema}.wake_waiters as w on w.topic = 'i:' || i
         where w.waiter <> p_waker
    ),
    gone as (
        delete from {schema}.wake_waiters as w
         using chosen as c
         where w.topic = c.topic and w.waiter = c.waiter
        returning w.waiter || '/' || case when w.topic like 'i:%' then 'i' else w.topic end as told
    )
    select array_agg(distinct gone.told) into v_woken from gone;
    perform pg_notify('{channel}', w) from unnest(v_woken) as w;
end;
$$;

-- The whole cost of being idle: one call every few seconds. Goes on waiting, and says whether there is
-- something to do after all.
create function {schema}.idle_v1(
    p_waiter text, p_topics text[], p_for_ms bigint,
    out o_turns boolean, out o_activities boolean, out o_next_due bigint, out o_now bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    v_ts constant timestamptz := clock_timestamp();
begin
    o_now := floor(extract(epoch from v_ts) * 1000)::bigint;
    perform {schema}.register_waiter_v1(p_waiter, p_topics, p_for_ms);
    o_turns := exists (
        select from {schema}.orchestrator_queue as q where q.visible_at <= v_ts
    );
    o_activities := exists (select from {schema}.worker_queue);
    select ceil(extract(epoch from q.visible_at) * 1000)::bigint into o_next_due
      from {schema}.orchestrator_queue as q
     where q.visible_at > v_ts
     order by q.visible_at, q.id
     limit 1;
end;
$$;

-- Once in a while, from any process: what nobody will come back for. A batch can be sent again for as
-- long as its process lives and has no answer; one without an answer for a month counts as dead.
create function {schema}.sweep_v1() returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    delete from {schema}.wake_waiters as w
     where w.until_ms < floor(extract(epoch from clock_timestamp()) * 1000);
    delete from {schema}.writers as w where w.updated_at < clock_timestamp() - interval '30 days';
$$;
