"""The operators of df in other schemas, where a search_path finds them.

Those in `df` are made with its functions; here they are copied to `public`, or to `pg_catalog` on request.
"""

from __future__ import annotations

from typing import LiteralString

import psycopg

OPERATORS = ("~>", "|=>", "&", "|", "?>", "!>", "@>")

Connection = psycopg.Connection[tuple[object, ...]]


def missing(connection: Connection) -> tuple[str, ...]:
    """Those that no schema but `df` has."""
    found = {
        str(name)
        for (name,) in connection.execute(
            "select distinct o.oprname from pg_operator as o join pg_proc as p on p.oid = o.oprcode"
            " where o.oprnamespace <> 'df'::regnamespace and p.pronamespace = 'df'::regnamespace"
        )
    }
    return tuple(name for name in OPERATORS if name not in found)


def create_missing(connection: Connection, schema: LiteralString) -> tuple[str, ...]:
    """Create those of `df` that `schema` lacks, and return their names.

    Raises:
        psycopg.errors.InsufficientPrivilege: the role may not create there.
    """
    rows = connection.execute(
        "select o.oprname, format('create operator %%I.%%s (%%srightarg = text, function = %%s)',"
        " n.nspname, o.oprname, case when o.oprleft <> 0 then 'leftarg = text, ' else '' end, o.oprcode)"
        " from pg_operator as o join pg_namespace as n on n.nspname = %s"
        " where o.oprnamespace = 'df'::regnamespace and not exists ("
        "   select from pg_operator as c where c.oprnamespace = n.oid"
        "   and c.oprname = o.oprname and c.oprleft = o.oprleft and c.oprright = o.oprright)"
        " order by o.oprname",
        [schema],
    ).fetchall()
    with connection.transaction():
        for _, statement in rows:
            connection.execute(str(statement).encode())
    return tuple(str(name) for name, _ in rows)
