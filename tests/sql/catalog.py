"""What a database holds, read from the catalogs: for saying that two are the same."""

from __future__ import annotations

from collections.abc import Mapping

from tests.sql.sessions import Connection, rows

_RELATION_ACL = "acldefault(case c.relkind when 'S' then 's' else 'r' end::\"char\", c.relowner)"
_SCHEMAS = "n.nspname !~ '^pg_' and n.nspname <> 'information_schema'"


def _acl(column: str, default: str) -> str:
    """Privileges in one spelling: a dump writes the default ones out, in another order."""
    return f"(select string_agg(a::text, ' ' order by a::text) from unnest(coalesce({column}, {default})) as a)"


_QUERIES: Mapping[str, str] = {
    "schema": f"""
        select n.nspname, {_acl("n.nspacl", "acldefault('n', n.nspowner)")}, obj_description(n.oid) from pg_namespace as n
        where {_SCHEMAS} and n.nspname <> 'public'""",
    "relation": f"""
        select n.nspname || '.' || c.relname, c.relkind, c.relpersistence, c.relrowsecurity,
            c.reloptions::text, {_acl("c.relacl", _RELATION_ACL)}, obj_description(c.oid, 'pg_class')
        from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
        where {_SCHEMAS} and c.relname !~ '^_alembic_version'""",
    "column": f"""
        select c.oid::regclass::text || '.' || a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
            a.attidentity, pg_get_expr(d.adbin, d.adrelid), a.attacl::text, col_description(c.oid, a.attnum)
        from pg_attribute as a join pg_class as c on c.oid = a.attrelid
        join pg_namespace as n on n.oid = c.relnamespace
        left join pg_attrdef as d on d.adrelid = c.oid and d.adnum = a.attnum
        where {_SCHEMAS} and c.relkind in ('r', 'v') and a.attnum > 0 and c.relname !~ '^_alembic_version'""",
    "constraint": f"""
        select c.conrelid::regclass::text || '.' || c.conname, pg_get_constraintdef(c.oid)
        from pg_constraint as c join pg_namespace as n on n.oid = c.connamespace
        where {_SCHEMAS} and c.conname !~ '^_alembic_version'""",
    "index": f"""
        select i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid) from pg_index as i
        join pg_class as c on c.oid = i.indexrelid join pg_namespace as n on n.oid = c.relnamespace
        where {_SCHEMAS} and c.relname !~ '^_alembic_version'""",
    "view": f"""
        select c.oid::regclass::text, pg_get_viewdef(c.oid) from pg_class as c
        join pg_namespace as n on n.oid = c.relnamespace where {_SCHEMAS} and c.relkind = 'v'""",
    "function": f"""
        select p.oid::regprocedure::text, pg_get_functiondef(p.oid), {_acl("p.proacl", "acldefault('f', p.proowner)")}, obj_description(p.oid)
        from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace where {_SCHEMAS}""",
    "operator": f"""
        select n.nspname || '.' || o.oid::regoperator::text, o.oprcode::text from pg_operator as o
        join pg_namespace as n on n.oid = o.oprnamespace where {_SCHEMAS}""",
    "policy": """
        select polrelid::regclass::text || '.' || polname, polcmd, polroles::text,
            pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)
        from pg_policy""",
    "trigger": """
        select tgrelid::regclass::text || '.' || tgname, pg_get_triggerdef(oid) from pg_trigger
        where not tgisinternal""",
}


def contents(connection: Connection) -> dict[str, tuple[object, ...]]:
    """Every object outside of the system's schemas, by kind and name, with all that defines it."""
    return {
        f"{kind} {row[0]}": row[1:]
        for kind, query in _QUERIES.items()
        for row in rows(connection, query)
    }
