"""Each class of failure can be understood from SQL alone: where it was, why, and what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.fixtures.postgres import Database
from tests.fixtures.workers import worker_thread
from tests.fixtures.workflows import Workflows

FAILURES = {
    "'select 1/0'": ("SQL: select 1/0", "division by zero", "SQLSTATE: 22012"),
    "'insert into t values (1)'": ("SQL: insert into t", "duplicate key", "Key (i)=(1) already"),
    "'select * from nowhere'": ("SQL: select * from nowhere", "does not exist", "SQLSTATE: 42P01"),
    "'select 1 as x where false' |=> 'n' ~> 'select $n'": (
        "SQL: select $n",
        "$n has no rows",
        "bound names: n",
    ),
    "'select $nothing'": (
        "SQL: select $nothing",
        'syntax error at or near "$"',
        "no result is bound to nothing here",
    ),
    "'select {nothing}'": (
        "SQL: select {nothing}",
        'syntax error at or near "{"',
        "there was no variable nothing when",
    ),
    "'select 1' & ('select 2' ~> 'select 3/0')": (
        "SQL: select 3/0",
        "JOIN branch 2 failed: SQL execution failed",
        "SQLSTATE: 22012",
    ),
    "'select 1' ~> df.loop('select 4/0')": (
        "SQL: select 4/0",
        "Loop sub-orchestration failed: SQL execution failed",
        "SQLSTATE: 22012",
    ),
    "df.sleep(0) ~> df.break()": ("BREAK", "outside of a loop", "df.loop()"),
    "df.if_rows('n', 'select 1', 'select 2')": ("IF", "result 'n' not found", "df.if_rows"),
    "'select repeat(''x'', 2000)'": ("SQL: select repeat", "max_result_bytes", "write to a table"),
    "df.sql('vacuum', '{\"tx\": \"required\"}')": ("SQL: vacuum", "VACUUM cannot", "Hint:"),
    "df.http('http://example.org/', 'GET')": ("HTTP GET", "disabled", "PG_DURABLE_HTTP_MODE"),
}


@pytest.fixture
def modest_worker(installed: Database) -> Iterator[None]:
    with worker_thread(installed.dsn, max_result_bytes=1024):
        yield


@pytest.mark.usefixtures("modest_worker")
def test_explain_and_error_tell_where_and_why(workflows: Workflows) -> None:
    workflows.run("create table t (i int primary key); insert into t values (1)")
    started = {name: workflows.start(name) for name in FAILURES}
    for name, instance in started.items():
        where, why, more = FAILURES[name]
        assert workflows.wait(instance) == "failed"
        explained = workflows.one("select df.explain(%s)", instance)
        error = workflows.one("select df.error(%s)", instance)
        for words in (why, more):
            assert words in explained, (words, explained)
        assert why in error["message"]
        if "node_id" in error:
            assert f"At:       {where}" in explained, explained
            assert f"(node {error['node_id']})" in explained
        else:
            assert where == "BREAK", explained
        assert json.dumps(error).count("Traceback") == 0
