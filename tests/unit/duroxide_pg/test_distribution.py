"""Whatever finds a row by its key says which instance it is of: the column to distribute tables by.

On a PostgreSQL that spreads tables over machines (Citus and kin), a statement without that column asks all
of them. Only finding candidates may: nobody knows yet which instance has something to do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

import pytest

from duroxide_pg.tables import metadata

# Small, and the same for all instances: to be kept whole, on one machine or on each.
KEPT_WHOLE = {"writers", "wake_waiters", "sessions", "_worker_ready"}
DISTRIBUTED = {table.name for table in metadata().tables.values()} - KEPT_WHOLE

FINDING_CANDIDATES = Counter(
    {
        (
            "poll_turns_v1",
            "orchestrator_queue",
        ): 2,  # the oldest messages, and when the next one is due
        ("poll_activities_v1", "worker_queue"): 4,  # tags, when the next one is due, the oldest
        ("poll_activities_v1", "late_cancellations"): 1,  # whether there are any
        ("_claim_sessions_v1", "worker_queue"): 3,  # names of sessions, and the oldest of each
        ("_sweep_cancellations_v1", "late_cancellations"): 2,
        ("_hold_messages_v1", "instances"): 1,  # those that are suspended and have something due
        ("idle_v1", "orchestrator_queue"): 2,  # whether there is anything
        ("idle_v1", "worker_queue"): 1,
    }
)
# What people ask about all instances at once: not a part of any turn.
MANAGEMENT = {"085_admin.sql", "admin.sql"}
FUNCTION = re.compile(r"create function \{schema\}\.(\w+)\(.*?\bas \$\$(.*?)\$\$;", re.DOTALL)
STATEMENT = re.compile(r"^-- name: (\w+)\n(.*?);", re.DOTALL | re.MULTILINE)
ACCESS = re.compile(
    r"(?P<verb>from|join|update|into|using|,)\s+\{schema\}\.(?P<table>\w+)\b(?!\s*\(\s*p_)"
    r"(?:\s+as\s+(?P<alias>\w+))?"
)
BY_BYTES = r'instance_id collate "C" as instance_id\b'


@dataclass(frozen=True)
class Access:
    table: str
    text: str  # of the query in which it stands
    has_column: bool


def accesses(body: str) -> Iterator[Access]:
    """Every table of ours in a piece of SQL, and whether its rows are chosen by their instance."""
    body = re.sub(r"--[^\n]*", "", body)
    for found in ACCESS.finditer(body):
        table, alias = found["table"], found["alias"]
        if table not in DISTRIBUTED:
            continue
        query = query_around(body, found.start())
        if found["verb"] == "into":
            columns = re.match(r"\s*\(\s*instance_id\b", body[found.end() :])
            yield Access(table, query, columns is not None)
            continue
        name = rf"\b{alias}\." if alias else r"(?<![.\w])"
        column = rf"{name}instance_id\s*(=|in\b)|=\s*{name}instance_id\b"
        own = without_subqueries(query)
        has_column = re.search(column, own) is not None
        if re.search(rf"{name}ctid\b", own):
            has_column = has_column and is_by_instance_and_address(
                body[: found.start()], query, name
            )
        yield Access(table, query, has_column)


def is_by_instance_and_address(before: str, query: str, name: str) -> bool:
    """An address is unique on one machine: it is read, handed on and compared with its own instance.

    Compared by bytes, for the reason that poll_turns_v1 gives.
    """
    own = without_subqueries(query)
    if re.search(rf"\bselect {name}instance_id\b[^;]*{name}ctid as row_id\b", own):
        return True
    pair = rf"{name}instance_id = (\w+)\.instance_id\s+and {name}ctid = \1\.row_id\b"
    found = re.search(pair, own)
    if found is None:
        return False
    subquery = re.search(rf"\)\s+as {found[1]}\b", query)
    if subquery is not None:
        source = query_around(query, subquery.start())
        return re.search(rf"\b(\w+)\.{BY_BYTES}.*\b\1\.row_id\b", source, re.DOTALL) is not None
    named = re.search(rf"\bfrom (\w+) as {found[1]}\b", own)
    if named is None:
        return False
    *_, cte = re.finditer(rf"\b{named[1]} as materialized \(", before)
    source = query_around(before, cte.end())
    return re.search(rf"\b(\w+)\.{BY_BYTES}.*\b\1\.ctid as row_id\b", source, re.DOTALL) is not None


def query_around(body: str, place: int) -> str:
    """The query in which `place` stands, from one parenthesis or semicolon to the next."""
    depth, begin = 0, place
    while begin > 0:
        character = body[begin - 1]
        depth += (character == ")") - (character == "(")
        if depth < 0 or (depth == 0 and character == ";"):
            break
        begin -= 1
    depth, end = 0, place
    while end < len(body):
        character = body[end]
        depth += (character == "(") - (character == ")")
        if depth < 0 or (depth == 0 and character == ";"):
            break
        end += 1
    return body[begin:end]


def without_subqueries(query: str) -> str:
    """A condition in a subquery binds the subquery's rows, not those of the query around it."""
    kept: list[str] = []
    depths = [False]  # for each open parenthesis, whether it is in a subquery
    for place, character in enumerate(query):
        if character == "(":
            is_subquery = re.match(r"\(\s*(select|with)\b", query[place:]) is not None
            kept.append("" if depths[-1] else "(")
            depths.append(depths[-1] or is_subquery)
        elif character == ")" and len(depths) > 1:
            depths.pop()
            kept.append("" if depths[-1] else ")")
        elif not depths[-1]:
            kept.append(character)
    return "".join(kept)


def hot() -> Iterator[tuple[str, str]]:
    """Name and body of every function and statement that turns and activities need."""
    folder = resources.files("duroxide_pg") / "sql"
    for file in [*(folder / "schema").iterdir(), *folder.iterdir()]:
        if not file.name.endswith(".sql") or file.name in MANAGEMENT:
            continue
        text = file.read_text(encoding="utf-8")
        for pattern in (FUNCTION, STATEMENT):
            yield from ((found[1], found[2]) for found in pattern.finditer(text))


PAIR = 'x.instance_id collate "C" as instance_id, x.row_id'


def test_every_access_but_finding_candidates_names_the_instance() -> None:
    seen = [(name, access) for name, body in hot() for access in accesses(body)]
    assert len(seen) > 80
    assert {"commit_v1", "poll_turns_v1", "renew_v1", "read_status"} <= {name for name, _ in seen}
    without = Counter((name, access.table) for name, access in seen if not access.has_column)
    assert without == FINDING_CANDIDATES


def test_every_key_of_a_distributed_table_begins_with_the_instance() -> None:
    for table in metadata().tables.values():
        if table.name in DISTRIBUTED:
            assert next(iter(table.primary_key.columns)).name == "instance_id", table.name


@pytest.mark.parametrize(
    "query",
    [
        "select from {schema}.instances as s where s.status = 'Running'",
        "select from {schema}.instances as s, unnest(i) as t where t.instance_id = any (i)",
        "update {schema}.worker_queue as q set owner = null where q.id = 1",
        "delete from {schema}.history_log as h where h.ctid = p_ctid",
        "insert into {schema}.kv_store (key, instance_id) values ('k', 'i')",
        "select (select from {schema}.instances as s), s.instance_id = 1 from x as s",
        "select from {schema}.instances as s where exists (select where x.id = s.instance_id)",
        "delete from {schema}.worker_queue as q where q.ctid = any (array( select 1))",
        "delete from {schema}.kv_delta as d where d.ctid = any (i) and d.instance_id = any (j)",
        f"delete from {{schema}}.kv_delta as d using (select {PAIR}) as y where d.ctid = y.row_id",
        f"delete from {{schema}}.kv_delta as d using (select {PAIR}) as y, z"
        " where d.instance_id = z.instance_id and d.ctid = y.row_id",
        "delete from {schema}.kv_delta as d using (select x.instance_id, x.row_id from x) as y"
        " where d.instance_id = y.instance_id and d.ctid = y.row_id",
        'delete from {schema}.kv_delta as d using (select z.instance_id collate "C" as instance_id,'
        " x.row_id from x, z) as y where d.instance_id = y.instance_id and d.ctid = y.row_id",
        "select k.ctid as row_id from {schema}.kv_delta as k where k.instance_id = i",
    ],
)
def test_an_access_without_the_instance_is_seen(query: str) -> None:
    assert [access.has_column for access in accesses(query)] == [False]


@pytest.mark.parametrize(
    "query",
    [
        "select from {schema}.instances as s where s.instance_id = any (p)",
        "select from unnest(p) as i join {schema}.instances as s on i = s.instance_id",
        f"delete from {{schema}}.kv_delta as d using (select {PAIR} from x) as y"
        " where d.instance_id = y.instance_id and d.ctid = y.row_id",
        "select k.instance_id, k.ctid as row_id from {schema}.kv_delta as k where k.instance_id = i",
        "insert into {schema}.kv_store (instance_id, key) values ('i', 'k')",
        "select from {schema}.kv_store where instance_id = p",
    ],
)
def test_an_access_with_the_instance_passes(query: str) -> None:
    assert [access.has_column for access in accesses(query)] == [True]
