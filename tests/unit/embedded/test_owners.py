"""Who keeps a server alive, and what is left when processes are killed: nothing but the data."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from pg_durable.embedded import embedded_server
from pg_durable.embedded.accounts import Account, barrier, server_account
from pg_durable.embedded.temporary import remove_abandoned
from tests.unit.embedded.processes import (
    REPOSITORY,
    Owner,
    children_of,
    is_alive,
    parent_of,
    until,
    user_of,
)

StartOwner = Callable[..., Owner]


def answers(dsn: str) -> bool:
    try:
        with psycopg.connect(dsn) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def keep_an_answer(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")


def the_answer(dsn: str) -> object:
    with psycopg.connect(dsn) as connection:
        (answer,) = connection.execute("SELECT answer FROM kept").fetchone() or (None,)
        return answer


def is_active(dsn: str, backend: int) -> bool:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT state FROM pg_stat_activity WHERE pid = %s", [backend])
        return row.fetchone() == ("active",)


def processes_of(pid: int) -> list[int]:
    """The watchdog, the postmaster and all that it started."""
    return [parent_of(pid), pid, *children_of(pid)]


def test_two_processes_share_one_server_until_the_last_one_leaves(
    open_folder: Path, start_owner: StartOwner
) -> None:
    first, second = start_owner(open_folder), start_owner(open_folder)
    dsn, pid = first.server()
    assert second.server() == (dsn, pid)
    everything = processes_of(pid)
    first.leave()
    assert answers(dsn)
    second.leave()
    assert not any(is_alive(each) for each in everything)


def test_an_owner_in_the_same_process_counts_as_well(open_folder: Path) -> None:
    with embedded_server(open_folder) as outer:
        with embedded_server(open_folder) as inner:
            assert inner == outer
        assert answers(outer.dsn)


def test_a_killed_owner_leaves_no_process(open_folder: Path, start_owner: StartOwner) -> None:
    owner = start_owner(open_folder)
    dsn, pid = owner.server()
    everything = processes_of(pid)
    with psycopg.connect(dsn):
        owner.kill()
        until(lambda: not any(is_alive(each) for each in everything))
    assert sorted(each.name for each in open_folder.iterdir()) == [
        "pg-durable.lock",
        "pgdata",
        "pgpass",
        "server.lock",
        "server.log",
    ]


def test_killing_one_owner_leaves_the_server_to_the_other(
    open_folder: Path, start_owner: StartOwner
) -> None:
    with embedded_server(open_folder) as server:
        other = start_owner(open_folder)
        other.server()
        other.kill()
        time.sleep(0.1)  # the server must not react; there is nothing to wait for
        assert answers(server.dsn)


def test_ctrl_c_in_the_terminal_of_an_owner_does_not_reach_the_server(
    open_folder: Path, start_owner: StartOwner
) -> None:
    owner = start_owner(open_folder)
    dsn, _ = owner.server()
    os.killpg(owner.process.pid, signal.SIGINT)
    assert answers(dsn)
    owner.leave()
    assert (open_folder / "server.log").read_text().count("shutdown request") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the next start stops the server")
def test_the_server_does_not_survive_its_watchdog(
    open_folder: Path, start_owner: StartOwner
) -> None:
    _, pid = start_owner(open_folder).server()
    everything = processes_of(pid)
    os.kill(parent_of(pid), signal.SIGKILL)
    until(lambda: not any(is_alive(each) for each in everything))


def test_after_owner_and_watchdog_were_killed_the_data_starts_again(
    open_folder: Path, start_owner: StartOwner
) -> None:
    owner = start_owner(open_folder)
    dsn, pid = owner.server()
    keep_an_answer(dsn)
    os.kill(parent_of(pid), signal.SIGKILL)
    owner.kill()
    with embedded_server(open_folder) as server:
        assert server.pid != pid
        assert the_answer(server.superuser_dsn) == 42


def test_after_everything_was_killed_the_data_starts_again_once_the_orphans_are_gone(
    open_folder: Path, start_owner: StartOwner
) -> None:
    owner = start_owner(open_folder)
    dsn, pid = owner.server()
    keep_an_answer(dsn)
    with ThreadPoolExecutor() as pool, closing(psycopg.connect(dsn)) as busy:
        # This backend works on without its server, and holds the shared memory meanwhile.
        pool.submit(busy.execute, "SELECT count(*) FROM generate_series(1, 10000000)")
        until(lambda: is_active(dsn, busy.info.backend_pid))
        for victim in (parent_of(pid), pid):
            os.kill(victim, signal.SIGKILL)
        owner.kill()
        with embedded_server(open_folder) as server:
            assert not is_alive(busy.info.backend_pid)
            assert the_answer(server.superuser_dsn) == 42


def test_a_server_that_is_killed_comes_back_under_the_same_dsn(open_folder: Path) -> None:
    with embedded_server(open_folder) as server:
        keep_an_answer(server.dsn)
        for _ in range(2):
            os.kill(server.pid, signal.SIGKILL)
            until(lambda: answers(server.dsn))
        assert the_answer(server.dsn) == 42


def test_a_server_that_is_killed_again_and_again_is_given_up(open_folder: Path) -> None:
    def kill() -> bool:
        try:
            os.kill(server.pid, signal.SIGKILL)
        except (FileNotFoundError, ValueError, ProcessLookupError):
            pass  # between two lives
        return not is_alive(watchdog)

    with embedded_server(open_folder, throwaway=True) as server:
        watchdog = parent_of(server.pid)
        until(kill)


def test_a_server_that_was_stopped_on_purpose_stays_down(open_folder: Path) -> None:
    with embedded_server(open_folder) as server:
        watchdog = parent_of(server.pid)
        os.kill(server.pid, signal.SIGINT)
        until(lambda: not is_alive(watchdog))
        assert not answers(server.dsn)
    with embedded_server(open_folder) as server:
        assert answers(server.dsn)


def test_processes_that_start_at_once_get_one_server(
    open_folder: Path, start_owner: StartOwner
) -> None:
    folder = open_folder / "new"
    cache = open_folder / "cache"
    owners = [start_owner(folder, PG_DURABLE_CACHE_DIR=str(cache)) for _ in range(4)]
    assert len({owner.server() for owner in owners}) == 1
    for owner in owners:
        owner.leave()
    assert len(list(cache.glob("template-*"))) == 1


def test_coming_and_going_at_once_never_fails(open_folder: Path) -> None:
    def come_and_go(_: int) -> bool:
        results = []
        for _ in range(8):
            with embedded_server(open_folder, throwaway=True) as server:
                results.append(answers(server.dsn))
        return all(results)

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(come_and_go, range(3)))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere servers survive their watchdog")
def test_the_next_temporary_server_removes_what_a_massacre_left(start_owner: StartOwner) -> None:
    with embedded_server(throwaway=True) as server:
        pid = server.pid
        os.kill(parent_of(pid), signal.SIGKILL)
        until(lambda: not is_alive(pid))
        assert server.data_dir.exists()
        remove_abandoned()
        assert not server.data_dir.exists()
        assert not server.socket_dir.exists()


def test_sockets_go_when_their_data_has_gone(open_folder: Path) -> None:
    with embedded_server(open_folder / "data", throwaway=True) as server:
        os.kill(parent_of(server.pid), signal.SIGKILL)
        until(lambda: not answers(server.dsn))
        remove_abandoned()
        assert server.socket_dir.exists()  # the next start on the folder will see to it
        (open_folder / "data").rename(open_folder / "moved")
        remove_abandoned()
        assert not server.socket_dir.exists()


def test_a_temporary_server_in_use_is_not_taken_for_abandoned() -> None:
    with embedded_server(throwaway=True) as server:
        remove_abandoned()
        assert answers(server.dsn)


@pytest.mark.skipif(os.geteuid() != 0, reason="all tests run as an ordinary user already")
def test_an_ordinary_user_has_a_server_of_its_own(
    open_folder: Path, start_owner: StartOwner
) -> None:
    account = server_account(None)
    home = open_folder / "home"
    home.mkdir(mode=0o700)
    os.chown(home, account.uid, account.gid)
    owner = start_owner(
        home / "data",
        account=account,
        python=python_for(account),
        HOME=str(home),
        XDG_CACHE_HOME="",
    )
    dsn, pid = owner.server()
    assert answers(dsn)
    assert user_of(pid) == user_of(parent_of(pid)) == account.name
    assert (home / "data" / "pgpass").stat().st_uid == account.uid
    assert list((home / ".cache" / "pg-durable").glob("template-*"))
    owner.leave()
    assert not is_alive(pid)


def python_for(account: Account) -> str:
    """Return a Python that `account` can run, with the packages of the project in its reach."""
    closed = barrier(REPOSITORY, account)
    if closed:
        pytest.skip(f"{closed} is closed to {account.name}")
    for python in (sys.executable, "/usr/bin/python3", shutil.which("python3") or ""):
        if python and barrier(Path(python), account) is None:
            asked = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
            if subprocess.run(asked, check=False).returncode == 0:
                return python
    pytest.skip(f"no Python 3.11 that {account.name} can run")
