"""Variables of a role."""

from __future__ import annotations

import json

import pytest

from tests.sql.sessions import Connection, message, refusal, rows, value


def test_a_variable_is_set_replaced_read_and_removed(alice: Connection, bob: Connection) -> None:
    with alice.transaction(force_rollback=True):
        assert value(alice, "select df.setvar('k', 'one')") == "OK"
        assert value(alice, "select df.setvar('k', 'two')") == "OK"
        assert value(alice, "select df.setvar('', '{\"odd\"}')") == "OK"
        assert value(alice, "select df.getvar('k')") == "two"
        assert value(bob, "select df.getvar('k')") is None
        assert value(alice, "select df.unsetvar('k')") == "OK"
        assert value(alice, "select df.unsetvar('k')") == "OK"
        assert value(alice, "select df.getvar('k')") is None
        assert value(alice, "select df.clearvars()") == "OK"
        assert rows(alice, "select from df.vars") == []


def test_null_arguments_write_nothing(alice: Connection) -> None:
    assert value(alice, "select df.setvar('k', NULL)") is None
    assert rows(alice, "select from df.vars") == []


@pytest.mark.parametrize("call", ["setvar('k', 'v')", "unsetvar('k')", "clearvars()"])
def test_a_step_may_read_but_not_change_them(alice: Connection, call: str) -> None:
    """df-execution 12.26: setters refused."""
    with alice.transaction(force_rollback=True):
        alice.execute("select df.setvar('k', 'v')")
        alice.execute("set local df.in_workflow = 'true'")
        assert value(alice, "select df.getvar('k')") == "v"
        error = refusal(alice, f"select df.{call}")
    function = call.split("(")[0]
    assert (error.sqlstate, message(error)) == (
        "XX000",
        f"df.{function}() cannot be called inside a workflow - set variables before starting the workflow",
    )


@pytest.mark.parametrize(
    ("call", "function"),
    [("setvar('k', 'v')", "setvar"), ("unsetvar('k')", "unsetvar"), ("clearvars()", "clearvars")],
)
def test_a_setter_is_not_a_step(alice: Connection, call: str, function: str) -> None:
    words = (
        f"df.{function} cannot be used as a workflow step. Call df.{function} before df.start()."
    )
    assert message(refusal(alice, f"select df.{call} ~> 'SELECT 1'")) == words
    assert message(refusal(alice, f"select df.start(df.{call})")) == (
        f"Invalid durable function: {words}"
    )


def test_a_start_takes_a_copy_of_what_its_transaction_sees(
    alice: Connection, owner: Connection
) -> None:
    with alice.transaction():
        alice.execute("select df.setvar('k', 'v')")
        i = value(alice, "select df.start('SELECT 1')")
        alice.execute("select df.clearvars()")
    body = json.loads(
        value(
            owner,
            "select work_item from duroxide.orchestrator_queue where instance_id = %s and kind = 1",
            i,
        )
    )
    assert json.loads(body["StartOrchestration"]["input"])["vars"] == {"k": "v"}
