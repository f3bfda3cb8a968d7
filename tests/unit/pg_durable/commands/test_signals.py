"""Signals that ask to stop become an exception, at once or where it does no harm."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pg_durable.commands.signals import ASKING, Stopped, put_off, stop_on_signals


@pytest.fixture(autouse=True)
def handlers_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ASKING}
    stop_on_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ASKING)
def test_a_signal_stops_what_runs(number: signal.Signals) -> None:
    with pytest.raises(Stopped) as stopped:
        signal.raise_signal(number)
    assert stopped.value.exit_status == 128 + number


def test_a_signal_is_put_off_to_the_end_of_a_block() -> None:
    steps: list[str] = []

    def block() -> None:
        with put_off():
            signal.raise_signal(signal.SIGTERM)
            steps.append("the block went on")

    with pytest.raises(Stopped):
        block()
    assert steps == ["the block went on"]


def test_a_block_that_fails_tells_its_own_failure() -> None:
    def block() -> None:
        with put_off():
            signal.raise_signal(signal.SIGTERM)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()


def test_after_a_block_without_a_signal_signals_stop_again() -> None:
    with put_off():
        pass
    with pytest.raises(Stopped):
        signal.raise_signal(signal.SIGINT)


def test_the_second_signal_ends_the_process() -> None:
    program = (
        "import signal\n"
        "from pg_durable.commands.signals import stop_on_signals\n"
        "stop_on_signals()\n"
        "try:\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "finally:\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (143, b"")


def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop_on_signals()
    signal.raise_signal(signal.SIGHUP)
