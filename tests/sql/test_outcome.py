"""df.status, df.result, df.error and waiting."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

from tests.sql.sessions import Connection, message, refusal, start, value


def end(owner: Connection, instance_id: str, status: str = "completed", result: str = "{}") -> None:
    """Write an end as the worker does."""
    owner.execute(
        "update df.nodes set status = %s, result = %s::jsonb where instance_id = %s",
        [status, result, instance_id],
    )
    owner.execute(
        "update df.instances set status = %s, completed_at = now(), error = %s where id = %s",
        [status, None if status == "completed" else "it broke", instance_id],
    )


def test_nothing_is_known_of_an_unknown_instance(alice: Connection) -> None:
    for function in ("status", "result", "error"):
        assert value(alice, f"select df.{function}('00000000')") is None
        assert value(alice, f"select df.{function}(NULL)") is None


def test_the_result_is_the_roots_document_as_jsonb_writes_it(
    alice: Connection, owner: Connection
) -> None:
    instance_id = start(alice, "'SELECT 1'")
    assert value(alice, "select df.result(%s)", instance_id) is None
    end(owner, instance_id, result='{"rows":[{"n":1}],"row_count":1}')
    assert value(alice, "select df.status(%s)", instance_id) == "completed"
    assert (
        value(alice, "select df.result(%s)", instance_id) == '{"rows": [{"n": 1}], "row_count": 1}'
    )
    assert value(alice, "select df.result(%s)::jsonb -> 'rows' -> 0 ->> 'n'", instance_id) == "1"


def test_a_failure_has_no_result_but_an_error(alice: Connection, owner: Connection) -> None:
    instance_id = start(alice, "'SELECT 1'")
    end(owner, instance_id, "failed", '"it broke"')
    owner.execute(
        """update df.instances set error_details = '{"sqlstate": "22012", "message": "inner"}' where id = %s""",
        [instance_id],
    )
    assert value(alice, "select df.result(%s)", instance_id) is None
    assert value(alice, "select df.error(%s)", instance_id) == {
        "message": "it broke",
        "sqlstate": "22012",
    }


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_waiting_returns_the_final_status(
    alice: Connection, owner: Connection, status: str
) -> None:
    instance_id = start(alice, "'SELECT 1'")
    owner.execute("update df.instances set status = %s where id = %s", [status, instance_id])
    assert value(alice, "select df.await_instance(%s)", instance_id) == status


def test_waiting_sees_an_end_that_is_committed_meanwhile(
    alice: Connection, owner: Connection, superuser: Connection
) -> None:
    instance_id = start(alice, "'SELECT 1'")
    answers: list[str] = []

    def wait() -> None:
        answers.append(
            value(alice, "select df.await_instance(%s, timeout_seconds => 20)", instance_id)
        )

    waiter = threading.Thread(target=wait)
    waiter.start()
    deadline = time.monotonic() + 10
    while not value(
        superuser,
        "select exists (select from pg_stat_activity where pid = %s and wait_event = 'PgSleep')",
        alice.info.backend_pid,
    ):
        assert time.monotonic() < deadline
    end(owner, instance_id)
    waiter.join(10)
    assert answers == ["completed"]


def test_waiting_gives_up_after_its_time(alice: Connection) -> None:
    instance_id = start(alice, "'SELECT 1'")
    error = refusal(alice, "select df.await_instance(%s, 1)", instance_id)
    assert error.sqlstate == "22000"
    assert message(error).startswith(
        f"Timeout after 1s waiting for instance {instance_id} (status: pending). "
    )
    assert message(refusal(alice, "select df.await_instance(%s, 0)", instance_id)) == (
        "Timeout must be positive"
    )


def test_waiting_for_an_unknown_or_foreign_instance_is_refused(
    alice: Connection, bob: Connection
) -> None:
    for instance_id in ("00000000", start(bob, "'SELECT 1'")):
        error = refusal(alice, "select df.await_instance(%s)", instance_id)
        assert (error.sqlstate, message(error)) == ("22000", f"Instance not found: {instance_id}")


def test_waiting_in_the_transaction_of_the_start_is_hopeless_and_says_so(alice: Connection) -> None:
    with alice.transaction(force_rollback=True):
        instance_id = start(alice, "'SELECT 1'")
        with alice.transaction():  # a savepoint, as an EXCEPTION block would make
            inner = start(alice, "'SELECT 1'")
        for each in (instance_id, inner):
            with alice.transaction(force_rollback=True):
                error = refusal(alice, "select df.await_instance(%s)", each)
            assert error.sqlstate == "22000"
            assert "was started in this transaction" in message(error)
            assert error.diag.message_hint == "COMMIT first, then wait."


def test_waiting_under_a_fixed_snapshot_is_hopeless_and_says_so(
    alice: Connection, owner: Connection
) -> None:
    running, ended = start(alice, "'SELECT 1'"), start(alice, "'SELECT 1'")
    end(owner, ended)
    for level in ("repeatable read", "serializable"):
        with alice.transaction(force_rollback=True):
            alice.execute(f"set transaction isolation level {level}".encode())
            assert value(alice, "select df.await_instance(%s)", ended) == "completed"
            error = refusal(alice, "select df.await_instance(%s)", running)
        assert f"isolation level {level.upper()}" in message(error)


def test_waiting_inside_a_step_is_refused(alice: Connection) -> None:
    instance_id = start(alice, "'SELECT 1'")
    with alice.transaction(force_rollback=True):
        alice.execute("set local df.in_workflow = 'true'")
        error = refusal(alice, "select df.await_instance(%s)", instance_id)
    assert message(error).startswith("df.await_instance() cannot be called inside a workflow")


def test_waiting_can_be_interrupted(alice: Connection) -> None:
    instance_id = start(alice, "'SELECT 1'")
    alice.execute("set statement_timeout = '200ms'")
    began = time.monotonic()
    with pytest.raises(psycopg.errors.QueryCanceled):
        alice.execute("select df.await_instance(%s)", [instance_id])
    assert time.monotonic() - began < 5


def test_the_old_name_still_works_and_warns(alice: Connection, owner: Connection) -> None:
    instance_id = start(alice, "'SELECT 1'")
    end(owner, instance_id)
    warnings: list[str | None] = []
    alice.add_notice_handler(lambda diagnostic: warnings.append(diagnostic.message_primary))
    assert value(alice, "select df.wait_for_completion(%s)", instance_id) == "completed"
    assert warnings == ["df.wait_for_completion() is deprecated; use df.await_instance() instead"]
