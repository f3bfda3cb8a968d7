from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pg_durable.embedded import (
    Binaries,
    EmbeddedServer,
    EmbeddedServerError,
    ServerDidNotStart,
    UnusableFolder,
    accounts,
    embedded_server,
    find_binaries,
    psql_path,
)
from pg_durable.embedded.accounts import credentials, server_account
from pg_durable.embedded.folders import acquire
from pg_durable.embedded.search import WHEEL_PACKAGE
from tests.unit.embedded.processes import is_alive, parent_of, until, user_of

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts servers as another user")


def ask(dsn: str, query: str) -> object:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


def command(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(statement.encode())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    """A server that tests only look at."""
    with embedded_server() as running:
        yield running


@pytest.mark.parametrize(
    "binaries", find_binaries(), ids=lambda each: f"{each.origin}-{each.version}"
)
def test_every_postgresql_of_this_machine_starts_and_stops(binaries: Binaries) -> None:
    began = time.perf_counter()
    with embedded_server(binaries=binaries, throwaway=True) as server:
        took = time.perf_counter() - began
        print(f"PostgreSQL {binaries.version} ({binaries.origin}) ready in {took:.2f} s")
        assert str(ask(server.dsn, "SHOW server_version")).startswith(server.version)
        assert server.version == binaries.version
        pid = server.pid
    assert not is_alive(pid)
    assert not server.data_dir.exists()
    assert not server.socket_dir.exists()


def test_the_application_owns_its_database_and_is_no_superuser(server: EmbeddedServer) -> None:
    assert ask(server.dsn, "SELECT current_user || ' ' || current_database()") == "durable durable"
    assert ask(server.dsn, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
    assert ask(server.superuser_dsn, "SELECT current_user::text") == "postgres"
    command(server.dsn, "CREATE SCHEMA ours")


def test_text_is_utf8_in_the_c_locale(server: EmbeddedServer) -> None:
    for setting, value in (("server_encoding", "UTF8"), ("lc_messages", "C"), ("timezone", "UTC")):
        assert ask(server.dsn, f"SHOW {setting}") == value
    collation = "SELECT datcollate FROM pg_database WHERE datname = current_database()"
    assert ask(server.dsn, collation) == "C"


def test_without_the_password_nobody_gets_in(server: EmbeddedServer) -> None:
    for dsn in (server.dsn, server.superuser_dsn):
        parameters = conninfo_to_dict(dsn)
        assert len(str(parameters["password"])) >= 32
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(make_conninfo(dsn, password="wrong"))
    stored = "SELECT bool_and(rolpassword LIKE 'SCRAM-SHA-256$%') FROM pg_authid WHERE rolcanlogin"
    assert ask(server.superuser_dsn, stored) is True
    rules = "SELECT string_agg(type || ' ' || auth_method, ', ') FROM pg_hba_file_rules"
    assert ask(server.superuser_dsn, rules) == "local scram-sha-256"


def test_there_is_no_tcp_port(server: EmbeddedServer) -> None:
    assert ask(server.superuser_dsn, "SHOW listen_addresses") == ""
    assert ask(server.superuser_dsn, "SELECT inet_server_addr()") is None


def test_sockets_and_data_are_the_servers_own_and_passwords_the_callers(
    server: EmbeddedServer,
) -> None:
    pgdata, pgpass = server.data_dir / "pgdata", server.data_dir / "pgpass"
    assert [mode(folder) for folder in (server.socket_dir, pgdata)] == [0o700, 0o700]
    assert (mode(pgpass), pgpass.stat().st_uid) == (0o600, os.geteuid())
    assert pgdata.stat().st_uid == server.socket_dir.stat().st_uid != 0


def test_the_password_file_works_as_pgpassfile(server: EmbeddedServer) -> None:
    psql = psql_path(server.bindir)
    if psql is None:
        pytest.skip("no psql on this machine")
    for user in ("durable", "postgres"):
        done = subprocess.run(
            [psql, "-XAtwc", "SELECT current_user", "-U", user, "-h", server.socket_dir, "durable"],
            env={"PGPASSFILE": str(server.data_dir / "pgpass")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stdout.strip(), done.stderr) == (user, "")


def test_it_waits_for_the_disk_unless_told_otherwise(server: EmbeddedServer) -> None:
    assert ask(server.dsn, "SHOW fsync") == "on"
    with embedded_server(throwaway=True) as throwaway:
        assert ask(throwaway.dsn, "SHOW fsync") == "off"
        assert ask(throwaway.dsn, "SHOW synchronous_commit") == "on"


def test_two_clusters_have_different_passwords(server: EmbeddedServer) -> None:
    with embedded_server() as other:
        parameters = [conninfo_to_dict(each.dsn)["password"] for each in (server, other)]
    assert parameters[0] != parameters[1]


def test_an_instance_does_not_show_its_passwords_when_printed(server: EmbeddedServer) -> None:
    assert str(conninfo_to_dict(server.dsn)["password"]) not in repr(server)


def test_the_environment_of_the_server_holds_none_of_ours(server: EmbeddedServer) -> None:
    environ = Path(f"/proc/{server.pid}/environ")
    if not environ.exists():
        pytest.skip("this system does not show environments")
    names = {entry.split("=")[0] for entry in environ.read_text().split("\0")}
    assert "HOME" in os.environ
    assert "HOME" not in names


@as_root
def test_as_root_the_server_is_an_unprivileged_user_and_parents_stay_as_they_are(
    open_folder: Path,
) -> None:
    parent = open_folder / "parent"
    parent.mkdir(mode=0o751)
    with embedded_server(parent / "data") as server:
        assert user_of(server.pid) == server_account(None).name
        assert user_of(parent_of(server.pid)) == "root"
        assert (mode(parent), parent.stat().st_uid) == (0o751, 0)
        assert (mode(open_folder), open_folder.stat().st_uid) == (0o755, 0)


@as_root
def test_as_root_without_a_user_postgres_the_server_is_nobody(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "UNPRIVILEGED", ("no such user", "nobody"))
    environ = {**os.environ, "PG_DURABLE_CACHE_DIR": str(open_folder / "cache")}
    with embedded_server(open_folder / "data", environ=environ) as server:
        assert user_of(server.pid) == "nobody"
        assert ask(server.dsn, "SELECT 1") == 1


@as_root
def test_as_root_without_any_other_user_the_error_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accounts, "UNPRIVILEGED", ("no such user",))
    with pytest.raises(EmbeddedServerError, match="useradd --system postgres"):
        embedded_server().__enter__()


@as_root
def test_as_root_a_folder_in_a_private_home_is_refused(open_folder: Path) -> None:
    home = open_folder / "home"
    home.mkdir(mode=0o700)
    with pytest.raises(UnusableFolder, match=f"{home} is closed to it. Name a folder outside"):
        embedded_server(home / "data").__enter__()


@as_root
def test_as_root_programs_of_a_wheel_in_a_private_home_are_copied(open_folder: Path) -> None:
    wheel = next(each for each in find_binaries() if each.origin == "wheel")
    package = wheel.bindir.parent.parent
    home = open_folder / "home"
    home.mkdir(mode=0o700)
    for installed in (package, package.with_name(f"{WHEEL_PACKAGE}.libs")):
        (home / installed.name).symlink_to(installed)
    bindir = home / wheel.bindir.relative_to(package.parent)
    cache = open_folder / "cache"
    with embedded_server(
        open_folder / "data",
        binaries=Binaries(bindir=bindir, version=wheel.version, origin="wheel"),
        environ={"PG_DURABLE_CACHE_DIR": str(cache)},
    ) as server:
        assert cache in server.bindir.parents
        assert ask(server.dsn, "SELECT 1") == 1


@as_root
def test_as_root_other_programs_in_a_private_home_are_refused(open_folder: Path) -> None:
    bindir = open_folder / "home" / "bin"
    bindir.mkdir(parents=True)
    (open_folder / "home").chmod(0o700)
    (bindir / "postgres").touch()
    binaries = Binaries(bindir=bindir, version="16.1", origin="named")
    with pytest.raises(UnusableFolder, match="Install PostgreSQL where every user can run it"):
        embedded_server(open_folder / "data", binaries=binaries).__enter__()


def test_data_stays_and_so_do_the_passwords(open_folder: Path) -> None:
    with embedded_server(open_folder) as server:
        command(server.dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
        first = conninfo_to_dict(server.dsn)["password"]
    with embedded_server(open_folder) as server:
        assert ask(server.dsn, "SELECT answer FROM kept") == 42
        assert conninfo_to_dict(server.dsn)["password"] == first


def test_a_lost_password_file_is_replaced(open_folder: Path) -> None:
    with embedded_server(open_folder) as server:
        first = server.dsn
    (open_folder / "pgpass").unlink()
    with embedded_server(open_folder) as server:
        assert ask(server.dsn, "SELECT 1") == 1
        assert conninfo_to_dict(server.dsn)["password"] != conninfo_to_dict(first)["password"]


def test_data_of_another_major_version_is_refused(open_folder: Path) -> None:
    with embedded_server(open_folder) as server:
        version = server.version
    (open_folder / "pgdata" / "PG_VERSION").write_text("13\n")
    with pytest.raises(UnusableFolder, match=f"was made by PostgreSQL 13, found {version} in"):
        embedded_server(open_folder).__enter__()


def test_a_month_after_its_last_use_a_prepared_cluster_goes(open_folder: Path) -> None:
    environ = {**os.environ, "PG_DURABLE_CACHE_DIR": str(open_folder / "cache")}
    first, second = find_binaries()[0], find_binaries()[-1]
    with embedded_server(throwaway=True, environ=environ, binaries=first):
        (prepared,) = (open_folder / "cache").glob("template-*")
    long_ago = prepared.stat().st_mtime - 31 * 24 * 3600
    os.utime(prepared, (long_ago, long_ago))
    with embedded_server(throwaway=True, environ=environ, binaries=first):
        assert prepared.stat().st_mtime > long_ago
    os.utime(prepared, (long_ago, long_ago))
    with embedded_server(throwaway=True, environ=environ, binaries=second):
        assert not prepared.exists()


def test_damaged_data_is_said_to_be_damaged(open_folder: Path) -> None:
    with embedded_server(open_folder):
        pass
    (open_folder / "pgdata" / "PG_VERSION").write_text("")
    with pytest.raises(UnusableFolder, match=r"is damaged: .*PG_VERSION is no version"):
        embedded_server(open_folder).__enter__()


def test_the_programs_that_made_the_data_are_preferred_to_newer_ones(open_folder: Path) -> None:
    oldest = min(find_binaries(), key=lambda each: each.major)
    with embedded_server(open_folder, binaries=oldest):
        pass
    with embedded_server(open_folder) as server:
        assert server.version == oldest.version


def test_a_server_that_does_not_start_shows_its_log(open_folder: Path) -> None:
    with embedded_server(open_folder):
        pass
    with (open_folder / "pgdata" / "postgresql.conf").open("a") as settings:
        settings.write("max_connections = several\n")
    with pytest.raises(ServerDidNotStart, match='invalid value for parameter "max_connections"'):
        embedded_server(open_folder).__enter__()


def test_a_start_that_takes_too_long_is_an_error_and_leaves_nothing(open_folder: Path) -> None:
    with pytest.raises(ServerDidNotStart, match=r"was not ready after 0.001 seconds"):
        embedded_server(open_folder, start_timeout=0.001).__enter__()
    assert not (open_folder / "server.json").exists()
    with embedded_server(open_folder) as server:
        assert ask(server.dsn, "SELECT 1") == 1


def test_a_server_that_lives_where_we_see_no_process_is_not_started_twice(
    open_folder: Path,
) -> None:
    with embedded_server(open_folder):
        pass
    elsewhere = acquire(open_folder / "server.lock", timeout=0)  # as another container would
    try:
        with pytest.raises(EmbeddedServerError, match=r"server\.lock .* in another container"):
            embedded_server(open_folder, start_timeout=0.1).__enter__()
    finally:
        os.close(elsewhere)


def test_durable_and_throwaway_owners_do_not_mix(open_folder: Path) -> None:
    with embedded_server(open_folder, throwaway=True) as server:
        with pytest.raises(EmbeddedServerError, match=r"does not wait for the disk. End that"):
            embedded_server(open_folder).__enter__()
        assert ask(server.dsn, "SELECT 1") == 1


def test_the_pid_of_a_crashed_server_may_belong_to_somebody_else(open_folder: Path) -> None:
    with embedded_server(open_folder) as server:
        pid_file = open_folder / "pgdata" / "postmaster.pid"
        left = pid_file.read_text().splitlines()
    account = server_account(open_folder / "pgdata")
    other = subprocess.Popen(["sleep", "60"], **credentials(account))
    try:
        pid_file.write_text("\n".join([str(other.pid), *left[1:]]) + "\n")
        os.chown(pid_file, account.uid, account.gid)
        with embedded_server(open_folder) as server:
            assert server.pid != other.pid
            assert ask(server.dsn, "SELECT 1") == 1
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_request_to_stop_the_watchdog_stops_the_server(open_folder: Path) -> None:
    with embedded_server(open_folder) as server:
        pid = server.pid
        os.kill(parent_of(pid), signal.SIGTERM)
        until(lambda: not is_alive(pid))
    assert "database system is shut down" in server.log_file.read_text()
