"""Listings: what is shown, to whom, page by page."""

from __future__ import annotations

import secrets

import pytest

from tests.sql.sessions import Connection, message, refusal, rows, start, value

FUNCTION = "pg_durable::orchestration::execute-function-graph"


def test_a_workflow_is_listed_before_the_engine_has_seen_it(
    alice: Connection, bob: Connection
) -> None:
    i = start(alice, "'SELECT 1'", label="fresh")
    expected = (i, "fresh", FUNCTION, "pending", 0, None)
    assert expected in rows(alice, "select * from df.list_instances('pending', 1000)")
    assert [row[0] for row in rows(alice, "select * from df.list_instances(limit_count => 1)")] == [
        i
    ]
    assert i not in [row[0] for row in rows(bob, "select * from df.list_instances()")]
    assert rows(alice, "select * from df.list_instances('no such status')") == []
    assert rows(alice, "select * from df.instance_info(%s)", i) == [
        (i, "fresh", FUNCTION, "unknown", 1, "pending", None)
    ]
    assert rows(alice, "select * from df.instance_executions(%s)", i) == []


def test_what_the_engine_knows_is_shown_to_the_submitter_and_to_nobody_else(
    alice: Connection, bob: Connection, owner: Connection, superuser: Connection
) -> None:
    i = start(alice, "'SELECT 1'")
    owner.execute(
        "insert into duroxide.instances (instance_id, orchestration_name, orchestration_version,"
        " current_execution_id, status, output, started_at, completed_at, created_at, updated_at,"
        " incarnation) values (%s, %s, '1.0.0', 2, 'Completed', '{\"n\":1}', now(), now() + interval '2 s', now(),"
        " now(), 'one')",
        [i, FUNCTION],
    )
    owner.execute(
        "insert into duroxide.executions_done (instance_id, execution_id, status, output, started_at, completed_at)"
        " values (%s, 1, 'ContinuedAsNew', 'next', now(), now() + interval '1 s')",
        [i],
    )
    owner.execute(
        "insert into duroxide.history_log (instance_id, execution_id, first_event_id, last_event_id, events, created_at)"
        " values (%s, 2, 1, 3, '[]', now()), (%s, 2, 4, 5, '[]', now())",
        [i, i],
    )
    owner.execute("update df.instances set status = 'completed' where id = %s", [i])
    for session in (alice, owner, superuser):
        assert rows(session, "select * from df.instance_info(%s)", i) == [
            (i, None, FUNCTION, "1.0.0", 2, "completed", '{"n":1}')
        ]
        assert rows(session, "select * from df.instance_executions(%s)", i) == [
            (2, "Completed", 5, 2000, '{"n":1}'),
            (1, "ContinuedAsNew", 0, 1000, "next"),
        ]
    assert rows(alice, "select * from df.instance_executions(%s, 1)", i) == [
        (2, "Completed", 5, 2000, '{"n":1}')
    ]
    assert rows(bob, "select * from df.instance_info(%s)", i) == []
    assert rows(bob, "select * from df.instance_executions(%s)", i) == []
    assert rows(bob, "select * from df._engine_instances where instance_id = %s", i) == []


def test_a_leaky_function_sees_no_foreign_rows_through_the_views(
    alice: Connection, bob: Connection, owner: Connection
) -> None:
    i = start(alice, "'SELECT 1'")
    owner.execute(
        "insert into duroxide.instances (instance_id, orchestration_name, started_at, created_at, updated_at,"
        " incarnation) values (%s, 'x', now(), now(), now(), 'one')",
        [i],
    )
    with bob.transaction(force_rollback=True):
        bob.execute(
            "create function pg_temp.leak(text) returns boolean language plpgsql cost 0.0000001 as"
            " $$ begin raise notice '%', $1; return true; end $$"
        )
        heard: list[str | None] = []
        bob.add_notice_handler(lambda diagnostic: heard.append(diagnostic.message_primary))
        bob.execute("select * from df._engine_instances where pg_temp.leak(instance_id)")
        assert i not in heard


def pages(session: Connection, size: int, label: str) -> list[list[str]]:
    cursor: str | None = None
    found: list[list[str]] = []
    while True:
        page = rows(
            session,
            "select instance_id, next_cursor from df.list_instances(NULL, %s, %s, %s)",
            size,
            label,
            cursor,
        )
        found.append([row[0] for row in page])
        assert len({row[1] for row in page}) <= 1
        cursor = page[0][1] if page else None
        if cursor is None:
            return found


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/St_Johns"])
def test_pages_hold_every_workflow_once_newest_first(alice: Connection, zone: str) -> None:
    label = secrets.token_hex(4)
    with alice.transaction():  # some with one and the same time
        for _ in range(3):
            start(alice, "'SELECT 1'", label=label)
    for _ in range(4):
        start(alice, "'SELECT 1'", label=label)
    expected = [
        row[0]
        for row in rows(
            alice,
            "select id from df.instances where label = %s order by created_at desc, id",
            label,
        )
    ]
    with alice.transaction(force_rollback=True):
        alice.execute(f"set local timezone = '{zone}'".encode())
        for size in (1, 2, 3, 7, 100):
            found = pages(alice, size, label)
            assert [each for page in found for each in page] == expected
            assert all(len(page) == size for page in found[:-1])


@pytest.mark.parametrize("cursor", ["", "zz", "7", "76317c78", "76327c61", "61" * 300, "ff"])
def test_a_bad_cursor_is_refused(alice: Connection, cursor: str) -> None:
    error = refusal(alice, "select * from df.list_instances(NULL, 10, NULL, %s)", cursor)
    assert (error.sqlstate, message(error)) == ("XX000", "df.list_instances: invalid after_cursor")


@pytest.mark.parametrize(
    "call",
    ["list_instances(NULL, 0)", "list_instances(NULL, 0, NULL)", "instance_executions('x', 0)"],
)
def test_a_page_has_at_least_one_row(alice: Connection, call: str) -> None:
    assert message(refusal(alice, f"select * from df.{call}")) == "limit_count must be at least 1"


def test_a_page_is_bounded_and_a_session_can_only_lower_the_bound(alice: Connection) -> None:
    words = (
        "df.list_instances: limit_count (1001) exceeds pg_durable.list_instances_max_limit (1000)"
    )
    rows(alice, "select * from df.list_instances(NULL, 1000)")
    assert message(refusal(alice, "select * from df.list_instances(NULL, 1001)")).startswith(words)
    with alice.transaction(force_rollback=True):
        alice.execute("set local pg_durable.list_instances_max_limit = 5000")
        with alice.transaction(force_rollback=True):
            assert "(1000)" in message(
                refusal(alice, "select * from df.list_instances(NULL, 1001)")
            )
        alice.execute("set local pg_durable.list_instances_max_limit = 5")
        assert "(5)" in message(refusal(alice, "select * from df.list_instances(NULL, 6)"))


def test_metrics_are_for_those_who_were_given_them(owner: Connection, alice: Connection) -> None:
    error = refusal(alice, "select * from df.metrics()")
    assert (error.sqlstate, message(error)) == ("42501", "permission denied for function metrics")
    ((total, running, completed, failed, executions, events),) = rows(
        owner, "select * from df.metrics()"
    )
    assert total >= running + completed + failed
    assert executions >= total
    assert events >= 0


def test_paging_reads_indexes_only_as_far_as_the_page_goes(
    owner: Connection, alice: Connection
) -> None:
    start(alice, "'SELECT 1'")
    with owner.transaction(force_rollback=True):
        owner.execute(
            "insert into df.instances (id, root_node, submitted_by, created_at, label)"
            " select lpad(to_hex(n), 8, '0'), '00000000', quote_ident(current_user)::regrole,"
            " now() - n * interval '1 s', case when mod(n, 10) = 0 then 'tenth' end"
            " from generate_series(1, 20000) as n"
        )
        owner.execute("analyze df.instances")
        plans = {
            "page": "select * from df._page(null, null, 101, now() - interval '1 h', '00000000')",
            "status": "select * from df._page('pending', null, 101, now() - interval '1 h', '00000000')",
            "label": "select * from df._page(null, 'tenth', 101, now() - interval '1 h', '00000000')",
        }
        for query in plans.values():
            before = value(
                owner, "select pg_stat_get_xact_tuples_returned('df.instances'::regclass)"
            )
            assert len(rows(owner, query)) == 101
            after = value(
                owner, "select pg_stat_get_xact_tuples_returned('df.instances'::regclass)"
            )
            assert after - before == 0  # nothing was read by scanning the table


def then(left: int, right: int) -> tuple[str, str | None, int | None, int | None]:
    return "THEN", None, left, right


LEAF = ("SQL", "select 1", None, None)


@pytest.mark.parametrize(
    "nodes",
    [
        {1: then(1, 1)},
        {1: then(2, 3), 2: then(1, 3), 3: LEAF},
        {**{n: then(n + 1, n + 1) for n in range(1, 60)}, 60: LEAF},
        {1: ("IF", "no JSON", 2, 2), 2: LEAF},
        {1: ("JOIN", '{"extra_nodes": 5}', 2, 3), 2: LEAF, 3: LEAF},
        {1: ("IF", '{"condition_node": "\\u0000"}', 2, 3), 2: LEAF, 3: LEAF},
    ],
    ids=["itself", "a circle", "two to the 59th", "no JSON", "no list", "NUL"],
)
def test_nodes_that_are_no_tree_are_shown_all_the_same(
    alice: Connection, nodes: dict[int, tuple[str, str | None, int | None, int | None]]
) -> None:
    """They can be inserted by hand; the worker refuses to run them."""

    def name(number: int | None) -> str | None:
        return None if number is None else f"{number:08x}"

    i = secrets.token_hex(4)
    with alice.transaction():
        alice.execute(
            "insert into df.instances (id, root_node, submitted_by) values (%s, %s, current_user::regrole)",
            [i, name(1)],
        )
        for number, (kind, query, left, right) in nodes.items():
            alice.execute(
                "insert into df.nodes (id, instance_id, node_type, query, left_node, right_node, submitted_by)"
                " values (%s, %s, %s, %s, %s, %s, current_user::regrole)",
                [name(number), i, kind, query, name(left), name(right)],
            )
    alice.execute("set statement_timeout = '5s'")
    shown = rows(alice, "select node_id, inferred_status from df.instance_nodes(%s)", i)
    assert dict(shown) == {name(number): "pending" for number in nodes}
    for function in ("df.explain", "df.explain_mermaid"):
        assert "are no tree" in value(alice, f"select {function}(%s)", i)
