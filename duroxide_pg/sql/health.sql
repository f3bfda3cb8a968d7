-- What a health report is made of. Nothing here reads more than a few pages, however much is stored.

-- name: health_holders
-- Who keeps removed rows from being cleaned up, or rows locked. The longest first.
select h.kind, h.name, h.who, h.seconds::float8, h.transactions::bigint
  from (
      select 'transaction' as kind, a.pid::text as name,
             concat_ws(', ', a.usename, nullif(a.application_name, ''), a.state) as who,
             extract(epoch from clock_timestamp() - a.xact_start) as seconds,
             age(coalesce(a.backend_xmin, a.backend_xid)) as transactions
        from pg_stat_activity as a
       where a.datname = current_database()
         and a.pid <> pg_backend_pid()
         and a.backend_type = 'client backend'
         and (a.xact_start is not null or a.backend_xmin is not null)
      union all
      select 'prepared transaction', p.gid, p.owner, extract(epoch from clock_timestamp() - p.prepared),
             age(p.transaction)
        from pg_prepared_xacts as p
       where p.database = current_database()
      union all
      select 'replication slot', s.slot_name, case when s.active then 'active' else 'inactive' end, null,
             greatest(age(s.xmin), age(s.catalog_xmin))
        from pg_replication_slots as s
       where s.xmin is not null or s.catalog_xmin is not null
  ) as h
 order by h.seconds desc nulls last, h.transactions desc nulls last
 limit 20;

-- name: health_tables
-- Numbers of rows are the server's estimates.
select c.relname, pg_table_size(c.oid), pg_indexes_size(c.oid),
       coalesce(t.n_live_tup, 0), coalesce(t.n_dead_tup, 0),
       extract(epoch from clock_timestamp() - greatest(t.last_vacuum, t.last_autovacuum))::float8
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  left join pg_stat_all_tables as t on t.relid = c.oid
 where n.nspname = '{channel}' and c.relkind in ('r', 'p')
 order by c.relname;

-- name: health_indexes
-- Those that can be used.
select c.relname
  from pg_index as i
  join pg_class as c on c.oid = i.indexrelid
  join pg_namespace as n on n.oid = c.relnamespace
 where n.nspname = '{channel}' and i.indisvalid and i.indisready;

-- name: health_queues
-- Ages in milliseconds of the oldest message and the oldest activity that could be taken and that nobody
-- has, and of the oldest lease that nobody renewed; null: there is none. Then what has failed repeatedly,
-- among the oldest thousand of each queue, and up to five of the instances that it belongs to.
with recursive clock as (
    select x.ts, floor(extract(epoch from x.ts) * 1000)::bigint as ms
      from (select coalesce(to_timestamp(%(now)s::bigint / 1000.0), clock_timestamp()) as ts) as x
),
tag as (
    (select q.tag_key from {schema}.worker_queue as q
      where q.session_id is null order by q.tag_key limit 1)
    union all
    select (select q.tag_key from {schema}.worker_queue as q
             where q.session_id is null and q.tag_key > t.tag_key order by q.tag_key limit 1)
      from tag as t
     where t.tag_key is not null
),
failing as materialized (
    select m.instance_id
      from (select q.instance_id, q.attempt_count from {schema}.orchestrator_queue as q, clock
             where q.visible_at <= clock.ts order by q.visible_at, q.id limit 1000) as m
     where m.attempt_count >= 3
    union all
    select a.instance_id
      from (select q.instance_id, q.attempt_count from {schema}.worker_queue as q
             where q.session_id is null order by q.tag_key, q.visible_at, q.id limit 1000) as a
     where a.attempt_count >= 3
)
select (
           select clock.ms - floor(extract(epoch from q.visible_at) * 1000)::bigint
             from {schema}.orchestrator_queue as q, clock
            where q.visible_at <= clock.ts
              and not exists (
                  select from {schema}.instance_locks as l
                   where l.instance_id = q.instance_id and l.locked_until > clock.ms
              )
            order by q.visible_at, q.id
            limit 1
       ),
       (
           select clock.ms - floor(extract(epoch from min(oldest.visible_at)) * 1000)::bigint
             from tag as t
            cross join clock
            cross join lateral (
                select q.visible_at from {schema}.worker_queue as q
                 where q.tag_key = t.tag_key and q.session_id is null
                   and q.visible_at <= clock.ts and q.locked_until <= clock.ms
                 order by q.visible_at, q.id
                 limit 1
            ) as oldest
            group by clock.ms
       ),
       (
           select clock.ms - min(l.locked_until)
             from {schema}.instance_locks as l, clock
            where l.locked_until <= clock.ms
            group by clock.ms
       ),
       (
           select count(*) from {schema}.instance_locks as l, clock where l.locked_until <= clock.ms
       ),
       (select count(*) from failing),
       (select array_agg(f.instance_id order by f.instance_id)
          from (select distinct x.instance_id from failing as x order by 1 limit 5) as f);

-- name: health_settings
-- Those whose wrong value costs data or speed.
select s.name, s.setting from pg_settings as s
 where s.name in ('autovacuum', 'track_counts', 'fsync', 'full_page_writes', 'synchronous_commit');
