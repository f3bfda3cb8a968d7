"""Types that are not built in: what the catalog says about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files

from psycopg import AsyncConnection

from pg_durable.steps.values import TypeDescription

_STATEMENT = files("pg_durable.steps").joinpath("types.sql").read_bytes()


async def describe_types(
    connection: AsyncConnection, oids: Sequence[int]
) -> Mapping[int, TypeDescription]:
    """These types and those that they are made of, in one round trip inside the step's transaction."""
    if not oids:
        return {}
    cursor = await connection.execute(_STATEMENT, [list(oids)], prepare=False)
    described = {}
    for oid, name, element, delimiter, base, names, types in await cursor.fetchall():
        described[oid] = TypeDescription(
            oid=oid,
            name=name,
            element=element,
            delimiter=delimiter,
            base=base,
            attributes=tuple(zip(names or (), types or (), strict=True)),
        )
    return described
