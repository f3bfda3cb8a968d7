"""Cancelling, signalling and pausing: part of the caller's transaction, of his own workflows only."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import psycopg
import pytest

from tests.sql.sessions import Connection, message, notices, refusal, rows, start, value


def messages(owner: Connection, instance_id: str) -> list[tuple[int, Any]]:
    """What was sent to an instance after its start."""
    return [
        (kind, json.loads(body))
        for kind, body in rows(
            owner,
            "select kind, work_item from duroxide.orchestrator_queue"
            " where instance_id = %s and kind <> 1 order by id",
            instance_id,
        )
    ]


def test_cancel_marks_the_instance_and_tells_the_engine_at_commit(
    alice: Connection, alice_again: Connection, owner: Connection
) -> None:
    i = start(alice, "'SELECT 1'")
    with alice.transaction():
        assert value(alice, "select df.cancel(%s, 'no more')", i) == (
            f"Instance {i} cancelled: no more"
        )
        assert value(alice, "select df.status(%s)", i) == "cancelled"
        assert value(alice_again, "select df.status(%s)", i) == "pending"
        assert messages(owner, i) == []
    assert value(alice_again, "select df.status(%s)", i) == "cancelled"
    assert messages(owner, i) == [(8, {"CancelInstance": {"instance": i, "reason": "no more"}})]
    assert value(alice, "select df.error(%s)", i) == {"message": "canceled: no more"}
    assert value(alice, "select completed_at is not null from df.instances where id = %s", i)


def test_a_cancel_that_is_rolled_back_has_not_happened(
    alice: Connection, owner: Connection
) -> None:
    i = start(alice, "'SELECT 1'")
    with alice.transaction(force_rollback=True):
        alice.execute("select df.cancel(%s)", [i])
    assert value(alice, "select df.status(%s)", i) == "pending"
    assert messages(owner, i) == []


def test_cancelling_again_changes_nothing_and_says_so(alice: Connection, owner: Connection) -> None:
    i = start(alice, "'SELECT 1'")
    alice.execute("select df.cancel(%s)", [i])
    assert notices(alice, "select df.cancel(%s)", i) == [f"instance {i} is already cancelled"]
    assert len(messages(owner, i)) == 1


@pytest.mark.parametrize(
    "call", ["cancel(%s)", "signal(%s, 'x')", "pause(%s)", "resume(%s)", "run(%s)"]
)
def test_unknown_and_foreign_instances_are_refused_with_the_same_words(
    alice: Connection, bob: Connection, call: str
) -> None:
    for i in (start(alice, "'SELECT 1'"), "00000000"):
        error = refusal(bob, f"select df.{call}", i)
        assert (error.sqlstate, message(error)) == (
            "XX000", f"Instance not found or access denied: {i}"
        )  # fmt: skip


def lease(owner: Connection, i: str) -> str:
    number = value(
        owner,
        "insert into duroxide.worker_queue"
        " (instance_id, execution_id, activity_id, work_item, visible_at, lock_token, locked_until)"
        " values (%s, 1, 2, 'x', now(), 'nonce', (extract(epoch from now()) + 60) * 1000) returning id",
        i,
    )
    return f"nonce/{number}/{i}"


def test_a_step_that_cancels_its_own_workflow_still_commits(
    alice: Connection, owner: Connection
) -> None:
    i = start(alice, "'SELECT 1'")
    token = lease(owner, i)
    with alice.transaction():
        alice.execute("select df.cancel(%s)", [i])
        alice.execute("select df._finish_step_v1(%s, 'BODY', null)", [token])
    assert [kind for kind, _ in messages_raw(owner, i)] == [8, 3]


def messages_raw(owner: Connection, i: str) -> list[tuple[Any, ...]]:
    return rows(
        owner,
        "select kind, work_item from duroxide.orchestrator_queue"
        " where instance_id = %s and kind <> 1 order by id",
        i,
    )


def test_cancel_waits_for_a_step_that_is_about_to_commit(
    alice: Connection, alice_again: Connection, owner: Connection, superuser: Connection
) -> None:
    i = start(alice, "'SELECT 1'")
    token = lease(owner, i)
    done: list[str] = []

    def cancel() -> None:
        done.append(value(alice_again, "select df.cancel(%s)", i))

    with alice.transaction():
        alice.execute("select df._finish_step_v1(%s, 'BODY', null)", [token])
        waiter = threading.Thread(target=cancel)
        waiter.start()
        deadline = time.monotonic() + 10
        while not value(
            superuser, "select cardinality(pg_blocking_pids(%s))", alice_again.info.backend_pid
        ):
            assert time.monotonic() < deadline
        assert done == []
    waiter.join(10)
    assert done == [f"Instance {i} cancelled: Cancelled by user"]
    assert [kind for kind, _ in messages_raw(owner, i)] == [3, 8]


def test_pause_and_resume_are_told_once_each(alice: Connection, owner: Connection) -> None:
    i = start(alice, "'SELECT 1'")
    assert value(alice, "select df.pause(%s)", i) == f"Instance {i} paused"
    assert value(alice, "select df.pause(%s)", i) == f"Instance {i} paused"
    assert value(alice, "select paused_at is not null from df.instances where id = %s", i)
    assert value(alice, "select df.resume(%s)", i) == f"Instance {i} resumed"
    assert value(alice, "select df.resume(%s)", i) == f"Instance {i} resumed"
    assert value(alice, "select paused_at from df.instances where id = %s", i) is None
    assert [
        json.loads(body["QueueMessage"]["data"]) for _, body in messages(owner, i)
    ] == [{"paused": True}, {"paused": False}]  # fmt: skip


@pytest.mark.parametrize("call", ["signal(%s, 'x')", "pause(%s)", "resume(%s)"])
def test_an_ended_workflow_takes_no_requests(alice: Connection, call: str) -> None:
    """df-execution 12.32: terminal instance."""
    i = start(alice, "'SELECT 1'")
    alice.execute("select df.cancel(%s)", [i])
    error = refusal(alice, f"select df.{call}", i)
    assert (error.sqlstate, message(error)) == ("55000", f"Instance {i} is already cancelled")


def test_run_only_wakes_the_workers(alice: Connection, owner: Connection) -> None:
    i = start(alice, "'SELECT 1'")
    owner.execute("listen duroxide")
    assert value(alice, "select df.run(%s)", i) == f"Triggered run for instance: {i}"
    assert value(alice, "select df.run()") == "Triggered run for all pending instances"
    heard = [each.payload for each in owner.notifies(timeout=5, stop_after=1)]
    assert heard[0] == "turns"
    assert messages(owner, i) == []


# Signals.


def signals(owner: Connection, i: str) -> list[tuple[Any, ...]]:
    return rows(
        owner, "select name, seq, data from df._signals where instance_id = %s order by id", i
    )


CLAIM = "select df._claim_signal_v1(%s, %s, %s, %s, %s)"


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        ('{"b" : 1,\n "a": [1, 2 ]}', '{"b":1,"a":[1,2]}'),
        ('"a  b\\" c"', '"a  b\\" c"'),
        ("plain words", '"plain words"'),
        ("", '""'),
        ("17", "17"),
        ("{broken", '"{broken"'),
    ],
)
def test_data_is_compact_json_or_becomes_a_string(
    alice: Connection, owner: Connection, data: str, kept: str
) -> None:
    """df-execution 12.32: payload forms."""
    i = start(alice, "'SELECT 1'")
    assert value(alice, "select df.signal(%s, 'go', %s)", i, data) == "OK"
    assert signals(owner, i) == [("go", 1, kept)]


def test_without_data_a_signal_carries_an_empty_object(
    alice: Connection, owner: Connection
) -> None:
    i = start(alice, "'SELECT 1'")
    alice.execute("select df.signal(%s, 'go')", [i])
    assert value(owner, CLAIM, "w", i, "go", 0, i) == '{"seq":1,"data":{}}'


def test_a_signal_sent_before_the_wait_is_kept_and_taken_in_order(
    alice: Connection, owner: Connection
) -> None:
    i = start(alice, "'SELECT 1'")
    for data in ("1", "2", "3"):
        alice.execute("select df.signal(%s, 'go', %s)", [i, data])
    assert value(owner, CLAIM, "w1", i, "go", 0, i) == '{"seq":1,"data":1}'
    assert value(owner, CLAIM, "w1", i, "go", 0, i) == '{"seq":1,"data":1}'  # repeated: the same
    assert value(owner, CLAIM, "w2", i, "go", 1, i) == '{"seq":2,"data":2}'
    assert value(owner, CLAIM + "::jsonb -> 'data'", "w3", i, "other", 0, i) is None
    latest = "select df._claim_signal_v1(%s, %s, 'go', 0, %s, 'latest')"
    assert value(owner, latest, "w4", i, i) == '{"seq":3,"data":3}'


def test_one_that_waits_is_told_once(alice: Connection, owner: Connection) -> None:
    i = start(alice, "'SELECT 1'")
    assert value(owner, CLAIM, "w", i, "go", 0, f"{i}::1::0000000a") is None
    assert value(owner, CLAIM, "w", i, "go", 0, f"{i}::1::0000000a") is None
    with alice.transaction():
        alice.execute("select df.signal(%s, 'other')", [i])
        alice.execute("select df.signal(%s, 'go', '7')", [i])
        alice.execute("select df.signal(%s, 'go', '8')", [i])
    told = messages(owner, f"{i}::1::0000000a")
    assert told == [
        (
            6,
            {
                "QueueMessage": {
                    "instance": f"{i}::1::0000000a",
                    "name": "w",
                    "data": '{"seq":2,"data":7}',
                }
            },
        )
    ]
    assert value(owner, "select df._unclaim_signal_v1('w', %s)", i) is False


def test_one_who_gives_up_is_told_that_and_nothing_else(
    alice: Connection, owner: Connection
) -> None:
    i = start(alice, "'SELECT 1'")
    assert value(owner, CLAIM, "w", i, "go", 0, i) is None
    assert value(owner, "select df._unclaim_signal_v1('w', %s)", i) is True
    assert value(owner, "select df._unclaim_signal_v1('w', %s)", i) is False  # repeated
    alice.execute("select df.signal(%s, 'go')", [i])
    ((_, told),) = messages(owner, i)
    assert told["QueueMessage"] == {"instance": i, "name": "w", "data": "null"}


def test_a_wait_for_the_future_ignores_what_was_sent(alice: Connection, owner: Connection) -> None:
    i = start(alice, "'SELECT 1'")
    future = "select df._claim_signal_v1('w', %s, 'go', 0, %s, 'future')"
    alice.execute("select df.signal(%s, 'go', '1')", [i])
    assert value(owner, future, i, i) is None
    alice.execute("select df.signal(%s, 'go', '2')", [i])
    ((_, told),) = messages(owner, i)
    assert told["QueueMessage"]["data"] == '{"seq":2,"data":2}'


def test_a_rolled_back_signal_was_never_sent(alice: Connection, owner: Connection) -> None:
    """df-execution 12.32: rollback of the sender."""
    i = start(alice, "'SELECT 1'")
    with alice.transaction(force_rollback=True):
        alice.execute("select df.signal(%s, 'go')", [i])
    assert signals(owner, i) == []


def test_a_signal_with_the_same_dedup_id_is_dropped(alice: Connection, owner: Connection) -> None:
    i = start(alice, "'SELECT 1'")
    for data in ("1", "2"):
        assert value(alice, "select df.signal(%s, 'go', %s, 'once')", i, data) == "OK"
    assert signals(owner, i) == [("go", 1, "1")]


def test_two_senders_in_opposite_order_do_not_block_each_other(
    alice: Connection, alice_again: Connection, owner: Connection
) -> None:
    one, two = start(alice, "'SELECT 1'"), start(alice, "'SELECT 1'")
    with alice.transaction(), alice_again.transaction():
        for first, second, session in ((one, two, alice), (two, one, alice_again)):
            session.execute("select df.signal(%s, 'go')", [first])
            session.execute("select df.signal(%s, 'go')", [second])
    for i in (one, two):
        assert [seq for _, seq, _ in signals(owner, i)] in ([1, 2], [2, 1])


def test_a_sender_with_an_old_snapshot_cannot_miss_a_new_wait(
    alice: Connection, owner: Connection
) -> None:
    i = start(alice, "'SELECT 1'")
    alice.execute("select df.signal(%s, 'before')", [i])
    with pytest.raises(psycopg.errors.SerializationFailure), alice.transaction():  # noqa: PT012
        alice.execute("set transaction isolation level repeatable read")
        alice.execute("select df.signal(%s, 'go')", [i])
        assert value(owner, CLAIM, "w", i, "go", 0, i) is None
    alice.execute("select df.signal(%s, 'go')", [i])  # again, as for every 40001
    assert len(messages(owner, i)) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("'', 'x'", "Instance ID cannot be empty"),
        ("'00000000', ''", "Signal name cannot be empty"),
    ],
)
def test_empty_names_are_refused(alice: Connection, arguments: str, words: str) -> None:
    error = refusal(alice, f"select df.signal({arguments})")
    assert (error.sqlstate, message(error)) == ("XX000", words)


def test_a_signal_holds_a_mebibyte_and_no_more(alice: Connection) -> None:
    i = start(alice, "'SELECT 1'")
    with alice.transaction(force_rollback=True):
        assert value(alice, "select df.signal(%s, 'go', %s)", i, "x" * 1_048_576) == "OK"
    error = refusal(alice, "select df.signal(%s, 'go', %s)", i, "x" * 1_048_577)
    assert (error.sqlstate, message(error)) == (
        "54000", "signal data has 1048577 bytes, at most 1048576 are allowed"
    )  # fmt: skip


# All of it in odd places.


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_requests_work_at_every_isolation_level(
    alice: Connection, owner: Connection, level: str
) -> None:
    with alice.transaction():
        alice.execute(f"set transaction isolation level {level}".encode())
        i = start(alice, "'SELECT 1'")
        alice.execute("select df.signal(%s, 'go')", [i])
        alice.execute("select df.cancel(%s)", [i])
    assert [kind for kind, _ in messages(owner, i)] == [8]
    assert signals(owner, i) == [("go", 1, "{}")]


@pytest.mark.long
def test_an_instance_keeps_ten_thousand_signals_that_it_may_still_take(
    alice: Connection, owner: Connection
) -> None:
    i = start(alice, "df.wait_for_signal('go')")
    with alice.transaction():
        alice.execute("select df.signal(%s, 'go') from generate_series(1, 10000)", (i,))
    with pytest.raises(psycopg.errors.ProgramLimitExceeded) as caught:
        value(alice, "select df.signal(%s, 'other')", i)
    assert f"instance {i} has more than 10000 signals that it has not taken" in str(caught.value)
    assert "put the data in a table" in (caught.value.diag.message_hint or "")
    take = "select df._claim_signal_v1('w', %s, 'go', %s, %s, 'next', true)"
    assert value(owner, take, i, 0, i) == '{"seq":1,"data":{}}'
    assert value(owner, take, i, 1, i) == '{"seq":2,"data":{}}'
    assert value(owner, take, i, 1, i) == '{"seq":2,"data":{}}'  # repeated: the same
    assert value(alice, "select df.signal(%s, 'other')", i) == "OK"
    assert value(owner, "select kept from df._mailboxes where instance_id = %s", i) == 10000
