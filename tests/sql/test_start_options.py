"""df.start with options, and df.start that commits by itself."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.fixtures.postgres import Database
from tests.fixtures.promises import keeps
from tests.sql.sessions import Connection, message, refusal, rows, value

START = "select df.start('SELECT 1', %s::jsonb)"


def begin(session: Connection, **options: object) -> str:
    return str(value(session, START, json.dumps(options)))


def sent(owner: Connection, i: str) -> tuple[Any, ...]:
    (row,) = rows(
        owner,
        "select (work_item::jsonb -> 'StartOrchestration' ->> 'input')::jsonb, visible_at - created_at"
        " from duroxide.orchestrator_queue where instance_id = %s and kind = 1",
        i,
    )
    return row


def test_variables_of_one_start_stand_over_those_of_the_role(
    alice: Connection, owner: Connection
) -> None:
    with alice.transaction():
        alice.execute("select df.setvar('a', 'role'), df.setvar('b', 'role')")
        i = begin(alice, vars={"b": "start", "c": 7})
        alice.execute("select df.clearvars()")
    assert sent(owner, i)[0]["vars"] == {"a": "role", "b": "start", "c": "7"}


def test_a_start_can_wait(alice: Connection, owner: Connection) -> None:
    delayed = sent(owner, begin(alice, delay="1 hour"))[1]
    assert 3590 < delayed.total_seconds() <= 3600
    at = value(alice, "select (now() + interval '2 h')::text")
    i = begin(alice, start_at=at)
    assert 7190 < sent(owner, i)[1].total_seconds() <= 7200
    assert value(alice, "select start_at = %s::timestamptz from df.instances where id = %s", at, i)


def test_a_key_starts_one_workflow_per_role(alice: Connection, bob: Connection) -> None:
    first = begin(alice, idempotency_key="monthly")
    assert begin(alice, idempotency_key="monthly") == first
    assert begin(alice, idempotency_key="monthly", on_conflict="return") == first
    assert begin(bob, idempotency_key="monthly") != first
    error = refusal(alice, START, '{"idempotency_key": "monthly", "on_conflict": "error"}')
    assert (error.sqlstate, message(error)) == (
        "23505", f'idempotency key "monthly" was used for instance {first}'
    )  # fmt: skip


def test_concurrent_starts_with_one_key_start_once(installed: Database) -> None:
    found: set[str] = set()

    def race() -> None:
        with psycopg.connect(installed.roles["alice"], autocommit=True) as session:
            found.add(begin(session, idempotency_key="race"))

    racers = [threading.Thread(target=race) for _ in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert len(found) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("[]", "the options of df.start() must be a JSON object"),
        ('{"labels": 1}', 'df.start() has no option "labels"'),
        ('{"on_conflict": "x"}', 'option "on_conflict" of df.start() must be "return" or "error", not "x"'),
        ('{"vars": []}', 'option "vars" of df.start() must be a JSON object'),
        ('{"start_at": "2030-01-01", "delay": "1 s"}', 'options "start_at" and "delay" of df.start() exclude each other'),
        ('{"database": "no such"}', 'database "no such" does not exist'),
    ],
)  # fmt: skip
def test_bad_options_are_refused(alice: Connection, options: str, words: str) -> None:
    error = refusal(alice, START, options)
    assert (error.sqlstate, message(error)) == ("XX000", words)


def test_text_as_second_argument_is_a_label_still(alice: Connection) -> None:
    for call in ("df.start('SELECT 1', '{\"a\":1}')", "df.start('SELECT 1', '{\"a\":1}', NULL)"):
        i = value(alice, f"select {call}")
        assert value(alice, "select label from df.instances where id = %s", i) == '{"a":1}'


NEW = "select df.start('SELECT 1', 'by itself', NULL, 'NEW')"


def test_a_start_of_its_own_says_what_it_needs(alice: Connection) -> None:
    error = refusal(alice, NEW)
    assert (error.sqlstate, message(error)) == (
        "0A000",
        "df.start() with transaction_mode => 'new' needs a second connection, which SQL alone can't open",
    )
    assert "dblink" in str(error.diag.message_hint)


def test_a_start_of_its_own_is_refused_inside_a_step(alice: Connection) -> None:
    with alice.transaction(force_rollback=True):
        alice.execute("set local df.in_workflow = 'true'")
        assert message(refusal(alice, NEW)).startswith(
            "df.start() with transaction_mode => 'new' cannot be called inside a workflow"
        )


@pytest.fixture
def loopback(superuser: Connection, installed: Database) -> Any:
    """dblink, and a way for alice to connect to her own database."""
    try:
        superuser.execute("create extension dblink schema public")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this PostgreSQL has no dblink")
    hers = conninfo_to_dict(installed.roles["alice"])
    role = installed.role("alice")
    superuser.execute(
        "create server pg_durable_loopback foreign data wrapper dblink_fdw options"
        f" (host '{hers['host']}', port '{hers['port']}', dbname '{hers['dbname']}')".encode()
    )
    superuser.execute(
        f"create user mapping for {role} server pg_durable_loopback"
        f" options (user '{role}', password '{hers['password']}')".encode()
    )
    superuser.execute(f"grant usage on foreign server pg_durable_loopback to {role}".encode())
    yield
    superuser.execute("drop extension dblink cascade")


@pytest.mark.usefixtures("loopback")
def test_a_start_of_its_own_survives_a_rollback(alice: Connection) -> None:
    with alice.transaction(force_rollback=True):
        i = value(alice, NEW)
    assert value(alice, "select label from df.instances where id = %s", i) == "by itself"


@keeps("E2")
@pytest.mark.usefixtures("loopback")
def test_a_start_of_its_own_reports_the_cause_and_gives_its_slot_back(
    alice: Connection, superuser: Connection
) -> None:
    for _ in range(3):  # more than there are slots
        error = refusal(
            alice, """select df.start('{"node_type":"X"}', transaction_mode => 'new')"""
        )
        assert "Unknown node_type 'X'" in message(error)
        error = refusal(
            alice, """select df.start('{"node_type":"SQL"}', transaction_mode => 'new')"""
        )
        assert message(error).startswith("df.start() on new transaction failed: ")
    assert value(
        superuser, "select count(*) from pg_locks where locktype = 'advisory' and classid = 1346982470"
    ) == 0  # fmt: skip


@keeps("E2")
@pytest.mark.usefixtures("loopback")
def test_starts_of_their_own_wait_for_a_slot(
    alice: Connection, owner: Connection, superuser: Connection
) -> None:
    owner.execute(
        "insert into df._settings values ('max_new_transaction_starts', '1'), ('new_transaction_start_timeout', '1')"
    )
    superuser.execute("select pg_advisory_lock(1346982470, 0)")
    try:
        assert message(refusal(alice, NEW)).startswith(
            "pg_durable: transaction_mode => 'new' launch limit reached (max_new_transaction_starts=1)."
            " Timed out after 1s waiting for a launch slot"
        )
    finally:
        superuser.execute("select pg_advisory_unlock(1346982470, 0)")
        owner.execute("delete from df._settings")
    assert len(value(alice, NEW)) == 8


@pytest.fixture
def slow_inserts(owner: Connection) -> Iterator[Callable[[str], None]]:
    """Lets each start do something first: SQL of a trigger's body."""

    def before_insert(body: str) -> None:
        owner.execute(
            "create or replace function public.slow() returns trigger language plpgsql"
            f" as $$ begin {body} return new; end $$;"
            "create or replace trigger slow before insert on df.instances"
            " for each row execute function public.slow()".encode()
        )

    owner.execute("create table public.held (); grant all on public.held to public")
    yield before_insert
    owner.execute("drop function if exists public.slow() cascade; drop table public.held")


def slots_taken(superuser: Connection) -> int:
    return int(
        value(
            superuser,
            "select count(*) from pg_locks where locktype = 'advisory' and classid = 1346982470",
        )
    )


@keeps("E2")
@pytest.mark.usefixtures("loopback")
def test_a_start_of_its_own_that_waits_for_a_lock_says_so(
    alice: Connection,
    superuser: Connection,
    owner: Connection,
    slow_inserts: Callable[[str], None],
) -> None:
    """The trigger shortens the half minute that such a start would wait."""
    slow_inserts("perform set_config('lock_timeout', '20', true); lock table public.held;")
    with owner.transaction():
        owner.execute("lock table public.held")
        error = refusal(alice, NEW)
    assert error.sqlstate == "XX000"
    assert message(error).startswith(
        "pg_durable: transaction_mode => 'new' launch hit lock_timeout after 30000ms: "
    )
    assert slots_taken(superuser) == 0
    assert len(value(alice, NEW)) == 8


@keeps("E2")
@pytest.mark.long
@pytest.mark.usefixtures("loopback")
def test_a_start_of_its_own_takes_half_a_minute_at_most(
    alice: Connection, superuser: Connection, slow_inserts: Callable[[str], None]
) -> None:
    slow_inserts("perform pg_sleep(60);")
    error = refusal(alice, NEW)
    assert message(error).startswith(
        "pg_durable: transaction_mode => 'new' launch hit statement_timeout after 30000ms: "
    )
    assert slots_taken(superuser) == 0
    slow_inserts("")
    assert len(value(alice, NEW)) == 8


@pytest.mark.usefixtures("loopback")
def test_a_start_of_its_own_that_is_interrupted_gives_its_slot_back(
    alice: Connection,
    superuser: Connection,
    owner: Connection,
    slow_inserts: Callable[[str], None],
) -> None:
    """Up to 16 it hears of that only when the other session answers."""
    slow_inserts("lock table public.held;")
    refused: list[psycopg.Error] = []
    starter = threading.Thread(target=lambda: refused.append(refusal(alice, NEW)))
    waiters = (
        "select count(*) from pg_locks where relation = 'public.held'::regclass and not granted"
    )
    with owner.transaction():
        owner.execute("lock table public.held")
        starter.start()
        deadline = time.monotonic() + 10
        while not value(superuser, waiters):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        superuser.execute("select pg_cancel_backend(%s)", [alice.info.backend_pid])
    starter.join(10)
    assert refused[0].sqlstate == "57014"
    assert slots_taken(superuser) == 0
    assert len(value(alice, NEW)) == 8


@pytest.mark.parametrize("time", ["infinity", "-infinity"])
def test_no_start_is_at_infinity_for_polls_could_not_reckon_with_it(
    alice: Connection, owner: Connection, time: str
) -> None:
    error = refusal(alice, START, json.dumps({"start_at": time}))
    assert (
        message(error)
        == f'option "start_at" of df.start() must lead to a point in time, not to {time}'
    )
    by_hand = refusal(
        alice,
        "insert into df.instances (id, root_node, submitted_by, start_at)"
        " values ('0000000a', '0000000b', quote_ident(current_user)::regrole, %s::timestamptz)",
        time,
    )
    assert by_hand.diag.constraint_name == "instances_start_at_chk"
    sending = "select duroxide.send_v1('0000000a', 1::smallint, '{}', %s::timestamptz)"
    assert refusal(owner, sending, time).sqlstate == "22008"


@pytest.mark.parametrize(("option", "state"), [("start_at", "22007"), ("delay", "22007")])
def test_a_time_that_is_none_is_refused_by_name(alice: Connection, option: str, state: str) -> None:
    error = refusal(alice, START, json.dumps({option: "soon"}))
    assert (error.sqlstate, f'option "{option}" of df.start(): ' in message(error)) == (state, True)
    assert error.diag.message_hint


def test_a_key_that_came_after_the_snapshot_asks_for_a_new_transaction(
    alice: Connection, alice_again: Connection
) -> None:
    with alice.transaction():
        alice.execute("set transaction isolation level repeatable read")
        alice.execute("select count(*) from df.instances")
        first = begin(alice_again, idempotency_key="seen too late")
        with (
            pytest.raises(psycopg.errors.SerializationFailure, match="seen too late"),
            alice.transaction(),
        ):
            begin(alice, idempotency_key="seen too late")
    assert begin(alice, idempotency_key="seen too late") == first
