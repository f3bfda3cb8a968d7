"""What the worker calls: statuses are written once, by whoever may, and never over a final one."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from tests.fixtures.postgres import Database
from tests.sql.sessions import Connection, message, refusal, rows, start, value


def ids(owner: Connection, instance_id: str) -> dict[str, str]:
    """Node ids by query, or by type where there is none."""
    return dict(
        rows(
            owner,
            "select coalesce(query, node_type), id from df.nodes where instance_id = %s",
            instance_id,
        )
    )


def project(
    connection: Connection,
    *turns: tuple[str, str, str | None, Sequence[object]],
    wait: bool = False,
) -> list[str]:
    """Call the hook with turns of (engine id, status, output, projections)."""
    engine_ids, statuses, outputs, projections = zip(*turns, strict=True)
    refused: list[str] = value(
        connection,
        "select df._project_v1(%s, %s, %s, %s, %s, %s, %s)",
        list(engine_ids),
        [1 for _ in turns],
        ["pg_durable::orchestration::execute-function-graph" for _ in turns],
        list(statuses),
        list(outputs),
        [json.dumps(each) if each else None for each in projections],
        wait,
    )
    return refused


def record(node: str, status: str, engine_id: str, **more: object) -> dict[str, object]:
    return {"node": node, "status": status, "stamp": f"{engine_id}::1", **more}


def nodes(owner: Connection, instance_id: str) -> dict[str, tuple[Any, ...]]:
    return {
        row[0]: row[1:]
        for row in rows(
            owner,
            "select coalesce(query, node_type), status, result, error, status_details from df.nodes"
            " where instance_id = %s",
            instance_id,
        )
    }


def instance(owner: Connection, instance_id: str) -> tuple[Any, ...]:
    (row,) = rows(
        owner,
        "select status, error, error_details, completed_at is not null from df.instances where id = %s",
        instance_id,
    )
    return row


def test_the_first_turn_makes_it_running(alice: Connection, owner: Connection) -> None:
    i = start(alice, "'A' ~> 'B'")
    n = ids(owner, i)
    began = [record(n["THEN"], "running", i), record(n["A"], "running", i)]
    assert project(owner, (i, "Running", None, [json.dumps(each) for each in began])) == []
    stamp = {"execution_id": f"{i}::1"}
    assert instance(owner, i) == ("running", None, None, False)
    assert nodes(owner, i) == {
        "THEN": ("running", None, None, stamp),
        "A": ("running", None, None, stamp),
        "B": ("pending", None, None, None),
    }


def test_the_last_turn_ends_it_with_results_that_may_be_copies_of_copies(
    alice: Connection, owner: Connection
) -> None:
    i = start(alice, "'A' ~> ('B' ~> 'C' |=> 'c')")
    owner.execute("update df.nodes set status = 'running' where instance_id = %s", [i])
    n = {
        row[0]: row[1]
        for row in rows(
            owner,
            "select coalesce(n.query, n.node_type || (n.id = i.root_node)::text), n.id from df.nodes as n"
            " join df.instances as i on i.id = n.instance_id where i.id = %s",
            i,
        )
    }
    ended = [
        record(n["THENtrue"], "completed", i, result_from=n["THENfalse"]),
        record(n["THENfalse"], "completed", i, result_from=n["C"]),
        record(n["C"], "completed", i, result='{"rows":[],"row_count":0}'),
    ]
    assert project(owner, (i, "Completed", "out", [ended])) == []
    assert instance(owner, i) == ("completed", None, None, True)
    assert value(alice, "select df.result(%s)", i) == '{"rows": [], "row_count": 0}'
    assert value(
        owner,
        "select count(*) from df.nodes where instance_id = %s and status = 'completed'"
        """ and result = '{"rows":[],"row_count":0}'""",
        i,
    ) == 3  # fmt: skip


def test_a_large_result_is_kept_once(alice: Connection, owner: Connection) -> None:
    """The nodes that pass it on name the one that has it, written by the same records or before."""
    i = start(alice, "('A' ~> 'B') ~> 'C'")
    n = ids(owner, i)
    (root, inner) = (
        row[0]
        for row in rows(
            owner,
            "select n.id from df.nodes as n join df.instances as i on i.id = n.instance_id"
            " where i.id = %s and node_type = 'THEN' order by n.id = i.root_node desc",
            i,
        )
    )
    large = json.dumps({"rows": [{"v": "".join(map(str, range(20_000)))}], "row_count": 1})
    done = [
        record(inner, "completed", i, result_from=n["B"]),
        record(n["B"], "completed", i, result=large),
    ]
    assert project(owner, (i, "Running", None, [done])) == []
    assert project(owner, (i, "Completed", "out", [record(root, "completed", i, result_from=inner)])) == []  # fmt: skip
    kept = "select id, result_from, result is not null from df.nodes where instance_id = %s and status = 'completed'"
    assert set(rows(owner, kept, i)) == {
        (n["B"], None, True),
        (inner, n["B"], False),
        (root, n["B"], False),
    }
    assert json.loads(value(alice, "select df.result(%s)", i)) == json.loads(large)
    shown = rows(alice, "select node_id, result from df.instance_nodes(%s)", i)
    older = rows(alice, "select node_id, result from df.instance_nodes(%s, 1)", i)
    for node, result in (*shown, *older):
        assert (result is not None) == (node in (n["B"], inner, root))
        assert result is None or json.loads(result) == json.loads(large)
    # In the next iteration of a loop around it the result is a small one.
    again = [
        record(inner, "completed", i, result_from=n["B"]),
        record(n["B"], "completed", i, result="7"),
    ]
    assert project(owner, (i, "Running", None, [[record(inner, "running", i)]])) == []
    assert project(owner, (i, "Running", None, [again])) == []
    assert nodes(owner, i)["B"][1] == 7
    assert value(owner, "select result_from from df.nodes where id = %s", inner) is None
    assert value(owner, "select result from df.nodes where id = %s", inner) == 7


def test_a_result_is_copied_from_a_row_that_was_written_before(
    alice: Connection, owner: Connection
) -> None:
    i = start(alice, "'A' ~> 'B'")
    n = ids(owner, i)
    project(owner, (i, "Running", None, [record(n["B"], "completed", i, result="7")]))
    project(owner, (i, "Completed", "7", [record(n["THEN"], "completed", i, result_from=n["B"])]))
    assert nodes(owner, i)["THEN"][:2] == ("completed", 7)


def test_a_circle_of_copies_ends(alice: Connection, owner: Connection) -> None:
    i = start(alice, "'A' ~> 'B'")
    n = ids(owner, i)
    project(
        owner,
        (i, "Running", None, [
            record(n["THEN"], "completed", i, result_from=n["B"]),
            record(n["B"], "completed", i, result_from=n["THEN"]),
        ]),
    )  # fmt: skip
    assert nodes(owner, i)["THEN"][:2] == ("completed", None)


def test_a_failure_is_told_on_the_node_and_on_the_instance(
    alice: Connection, owner: Connection
) -> None:
    i = start(alice, "'A'")
    error = {"message": "SQL execution failed: no", "sqlstate": "22012"}
    words = "SQL execution failed: no"
    project(owner, (i, "Failed", words, [record(ids(owner, i)["A"], "failed", i, error=error)]))
    assert instance(owner, i) == ("failed", words, error, True)
    assert nodes(owner, i)["A"] == (
        "failed", words, words, {"execution_id": f"{i}::1", "error": error}
    )  # fmt: skip
    assert value(alice, "select df.error(%s)", i) == error


def test_of_several_records_for_a_node_the_last_counts(
    alice: Connection, owner: Connection
) -> None:
    i = start(alice, "'A'")
    node = ids(owner, i)["A"]
    project(
        owner,
        (
            i,
            "Running",
            None,
            [record(node, "completed", i, result="1"), [record(node, "running", i)]],
        ),
        (f"{i}::1::{node}", "Running", None, [record(node, "completed", i, result="2")]),
    )
    assert nodes(owner, i)["A"][:2] == ("completed", 2)


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ('{"a":1}', {"a": 1}),
        ("plain words", "plain words"),
        ("", ""),
        ("null", None),
        (r'{"a":"x\u0000y"}', {"a": "x\ufffdy"}),
        (r'["\u0000\u0000", "\\u0000"]', ["\ufffd\ufffd", r"\u0000"]),
        (r'["\ud800"]', r'["\ud800"]'),
        ("1e999999", "1e999999"),
        ("{broken", "{broken"),
    ],
)
def test_any_result_text_can_be_stored(
    alice: Connection, owner: Connection, text: str, stored: object
) -> None:
    i = start(alice, "'A'")
    project(owner, (i, "Running", None, [record(ids(owner, i)["A"], "completed", i, result=text)]))
    assert nodes(owner, i)["A"][:2] == ("completed", stored)


@pytest.mark.parametrize(
    "projection",
    ["nonsense", "7", [], {}, {"node": "x"}, [[7]], {"node": "00000000", "status": "odd"}],
)
def test_a_meaningless_projection_harms_nobody(
    alice: Connection, owner: Connection, projection: object
) -> None:
    bad, good = start(alice, "'A'"), start(alice, "'A'")
    fine = record(ids(owner, good)["A"], "running", good)
    assert (
        project(owner, (bad, "Running", None, [projection]), (good, "Running", None, [fine])) == []
    )
    assert nodes(owner, good)["A"][0] == "running"
    assert nodes(owner, bad)["A"][0] == "pending"


def test_instances_that_are_not_ours_are_left_alone(owner: Connection) -> None:
    assert project(owner, ("some-python-workflow", "Completed", "x", [])) == []


def test_a_child_never_ends_its_root(alice: Connection, owner: Connection) -> None:
    i = start(alice, "'A'")
    project(owner, (f"{i}::1::00000000", "Failed", "x", []))
    assert instance(owner, i)[0] == "running"


@pytest.mark.parametrize("final", ["completed", "failed", "cancelled"])
def test_a_final_status_is_never_replaced(alice: Connection, owner: Connection, final: str) -> None:
    """df-execution 12.18: never overwritten."""
    i = start(alice, "'A'")
    owner.execute("update df.instances set status = %s where id = %s", [final, i])
    for status in ("Running", "Completed", "Failed"):
        assert project(owner, (i, status, "x", [])) == []
        assert instance(owner, i)[:2] == (final, None)


def test_an_instance_locked_by_somebody_is_refused_and_its_neighbours_are_not(
    alice: Connection, owner: Connection, superuser: Connection
) -> None:
    locked, free = start(alice, "'A'"), start(alice, "'A'")
    turns = [
        (i, "Completed", "x", [record(ids(owner, i)["A"], "completed", i, result="1")])
        for i in (locked, free)
    ]
    with superuser.transaction(force_rollback=True):
        superuser.execute("select from df.instances where id = %s for update", [locked])
        assert project(owner, *turns) == [locked]
    assert instance(owner, locked)[0] == "pending"
    assert nodes(owner, locked)["A"][0] == "pending"
    assert instance(owner, free)[0] == "completed"
    assert project(owner, turns[0], wait=True) == []
    assert instance(owner, locked)[0] == "completed"


def test_a_node_locked_by_a_step_is_refused_too(
    alice: Connection, owner: Connection, superuser: Connection
) -> None:
    i = start(alice, "'A'")
    node = ids(owner, i)["A"]
    project(owner, (i, "Running", None, []))
    with superuser.transaction(force_rollback=True):
        superuser.execute("select from df.nodes where instance_id = %s for update", [i])
        assert project(owner, (i, "Running", None, [record(node, "running", i)])) == [i]
    assert nodes(owner, i)["A"][0] == "pending"


def test_waiting_for_a_cancel_sees_the_cancelled_status(
    alice: Connection, owner: Connection, superuser: Connection, installed: Database
) -> None:
    i = start(alice, "'A'")
    with psycopg.connect(installed.dsn, autocommit=True) as committer:
        with superuser.transaction():
            superuser.execute("update df.instances set status = 'cancelled' where id = %s", [i])
            pid = committer.info.backend_pid
            committer.pgconn.send_query(
                f"select df._project_v1('{{{i}}}', '{{1}}', '{{x}}', '{{Completed}}', '{{x}}', '{{null}}', true)".encode()
            )
            deadline = time.monotonic() + 10
            while not value(superuser, "select cardinality(pg_blocking_pids(%s))", pid):
                assert time.monotonic() < deadline
        assert committer.pgconn.get_result() is not None
        assert committer.pgconn.get_result() is None
    assert instance(owner, i)[0] == "cancelled"


def lease(owner: Connection, instance_id: str, seconds: float = 60) -> str:
    """Lease an activity as the engine does and return its token."""
    number = value(
        owner,
        "insert into duroxide.worker_queue"
        " (instance_id, execution_id, activity_id, work_item, visible_at, lock_token, locked_until)"
        " values (%s, 1, 2, 'x', now(), 'nonce', (extract(epoch from now()) + %s) * 1000) returning id",
        instance_id,
        seconds,
    )
    return f"nonce/{number}/{instance_id}"


FINISH = "select df._finish_step_v1(%s, %s, %s)"


def sent(owner: Connection, instance_id: str) -> list[tuple[Any, ...]]:
    return rows(
        owner,
        "select kind, work_item from duroxide.orchestrator_queue where instance_id = %s and kind = 3",
        instance_id,
    )


def test_a_step_ends_in_the_transaction_of_its_effect(
    alice: Connection, alice_again: Connection, owner: Connection
) -> None:
    i = start(alice, "'A'")
    node, token = ids(owner, i)["A"], lease(owner, i)
    done = json.dumps(record(node, "completed", i, result='{"row_count":0}'))
    with alice.transaction():
        alice.execute(FINISH, [token, "BODY", done])
        assert sent(owner, i) == []
        assert (
            value(alice_again, "select status from df.nodes where instance_id = %s", i) == "pending"
        )
    assert sent(owner, i) == [(3, "BODY")]
    assert nodes(owner, i)["A"][:2] == ("completed", {"row_count": 0})
    error = refusal(alice, FINISH, token, "BODY", done)
    assert (error.sqlstate, message(error)) == ("PD001", "activity lease lost")


def test_a_step_whose_lease_ended_writes_nothing(alice: Connection, owner: Connection) -> None:
    """df-execution 12.21: late write."""
    i = start(alice, "'A'")
    token = lease(owner, i, seconds=-1)
    assert refusal(alice, FINISH, token, "BODY", None).sqlstate == "PD001"
    assert sent(owner, i) == []


def test_nobody_ends_the_step_of_another(
    alice: Connection, bob: Connection, owner: Connection
) -> None:
    i = start(alice, "'A'")
    token = lease(owner, i)
    assert refusal(bob, FINISH, token, "BODY", None).sqlstate == "42501"
    assert sent(owner, i) == []
    alice.execute(FINISH, [token, "BODY", None])
    assert sent(owner, i) == [(3, "BODY")]


def test_set_role_does_not_change_who_ends_a_step(
    superuser: Connection, alice: Connection, owner: Connection, installed: Database
) -> None:
    i = start(alice, "'A'")
    token = lease(owner, i)
    with superuser.transaction(force_rollback=True):
        superuser.execute(f"set local role {installed.role('alice')}".encode())
        assert refusal(superuser, FINISH, token, "BODY", None).sqlstate == "42501"


def test_no_step_ends_after_a_cancel(alice: Connection, owner: Connection) -> None:
    i = start(alice, "'A'")
    token = lease(owner, i)
    owner.execute("update df.instances set status = 'cancelled' where id = %s", [i])
    error = refusal(alice, FINISH, token, "BODY", None)
    assert (error.sqlstate, message(error)) == ("PD002", f"instance {i} was cancelled")
    assert sent(owner, i) == []
