-- The types of $1 and all that they are made of: elements, base types, attributes. No row for a type
-- that has been dropped meanwhile. Names are qualified, as the next step may have another search_path.
with recursive needed (oid) as (
    select pg_catalog.unnest(%s::pg_catalog.oid[])
    union
    select part.oid
    from needed as n
    join pg_catalog.pg_type as t on t.oid = n.oid
    left join pg_catalog.pg_attribute as a
        on t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
    cross join lateral (
        values (case when t.typcategory = 'A' then t.typelem end), (nullif(t.typbasetype, 0)), (a.atttypid)
    ) as part (oid)
    where part.oid is not null
)
select
    t.oid::pg_catalog.int8,
    case
        when t.typcategory = 'A'
            then pg_catalog.format('%%I.%%I[]', en.nspname, e.typname)
        else pg_catalog.format('%%I.%%I', tn.nspname, t.typname)
    end,
    case when t.typcategory = 'A' then t.typelem::pg_catalog.int8 end,
    coalesce(e.typdelim, t.typdelim)::pg_catalog.text,
    nullif(t.typbasetype, 0)::pg_catalog.int8,
    (
        select pg_catalog.array_agg(a.attname::pg_catalog.text order by a.attnum)
        from pg_catalog.pg_attribute as a
        where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
    ),
    (
        select pg_catalog.array_agg(a.atttypid::pg_catalog.int8 order by a.attnum)
        from pg_catalog.pg_attribute as a
        where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
    )
from needed as n
join pg_catalog.pg_type as t on t.oid = n.oid
join pg_catalog.pg_namespace as tn on tn.oid = t.typnamespace
left join pg_catalog.pg_type as e on e.oid = t.typelem and t.typcategory = 'A'
left join pg_catalog.pg_namespace as en on en.oid = e.typnamespace
