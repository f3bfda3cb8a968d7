from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_durable.embedded import (
    Binaries,
    Dsn,
    NoServerFound,
    find_binaries,
    find_dsn,
    find_server,
    psql_path,
)
from pg_durable.embedded.search import WHEEL_PACKAGE, major_of

NOTHING: dict[str, str] = {"PATH": "/nonexistent"}


def install(bindir: Path, version: str, *programs: str) -> Path:
    """Install a PostgreSQL that can do nothing but say its version."""
    bindir.mkdir(parents=True)
    for program in programs or ("postgres", "initdb", "psql"):
        (bindir / program).write_text(f"#!/bin/sh\necho '{program} (PostgreSQL) {version}'\n")
        (bindir / program).chmod(0o755)
    return bindir


def search(
    patterns: tuple[str, ...] = (), wheel: str = "no_such_wheel", **environ: str
) -> list[str]:
    found = find_binaries(environ={**NOTHING, **environ}, patterns=patterns, wheel=wheel)
    return [each.version for each in found]


@given(major=st.integers(10, 99), rest=st.from_regex(r"(\.\d+|beta\d|devel)?", fullmatch=True))
def test_the_major_version_is_the_leading_number(major: int, rest: str) -> None:
    assert major_of(f"{major}{rest}") == major


def test_a_dsn_beats_every_variable_and_the_variables_have_an_order() -> None:
    environ = {
        "PG_DURABLE_DSN": "postgresql://ours",
        "DATABASE_URL": "postgresql://url",
        "PGHOST": "host",
    }
    assert find_server("postgresql://flag", environ=environ) == Dsn(
        dsn="postgresql://flag", origin="--dsn"
    )
    for variable, dsn in (
        ("PG_DURABLE_DSN", "postgresql://ours"),
        ("DATABASE_URL", "postgresql://url"),
        ("PGHOST", ""),
    ):
        assert find_server(environ=environ) == Dsn(dsn=dsn, origin=variable)
        del environ[variable]
    assert find_dsn(environ=environ) is None


@pytest.mark.parametrize("variable", ["PGHOST", "PGHOSTADDR", "PGSERVICE", "PGPORT", "PGDATABASE"])
def test_a_variable_of_libpq_leaves_the_server_to_libpq(variable: str) -> None:
    assert find_dsn(environ={variable: "x"}) == Dsn(dsn="", origin=variable)


def test_a_password_or_an_empty_variable_names_no_server() -> None:
    environ = {"PGPASSWORD": "x", "PGUSER": "x", "PGHOST": "", "PG_DURABLE_DSN": ""}
    assert find_dsn("", environ=environ) is None


def test_a_database_url_of_another_product_is_not_for_us() -> None:
    assert find_dsn(environ={"DATABASE_URL": "mysql://localhost/app"}) is None


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_the_driver_in_a_url_is_dropped(scheme: str) -> None:
    found = find_dsn(f"{scheme}+psycopg://u@h/d", environ={})
    assert found is not None
    assert found.dsn == f"{scheme}://u@h/d"


def test_a_dsn_is_not_shown_when_printed() -> None:
    assert "secret" not in repr(find_dsn("postgresql://u:secret@h/d", environ={}))


def test_the_system_is_searched_newest_first_and_too_old_ones_are_left_out(tmp_path: Path) -> None:
    for version in ("13.9", "15.2", "9.6.24", "16.1", "14.0"):
        install(tmp_path / version / "bin", version)
    assert search((f"{tmp_path}/*/bin",)) == ["16.1", "15.2", "14.0"]


def test_path_counts_as_the_system_and_finds_each_folder_once(tmp_path: Path) -> None:
    bindir = install(tmp_path / "15" / "bin", "15.2")
    link = tmp_path / "link"
    link.mkdir()
    for program in ("postgres", "initdb"):
        (link / program).symlink_to(bindir / program)
    assert search((f"{tmp_path}/*/bin",), PATH=f"{link}:{bindir}") == ["15.2"]


def test_pg_config_on_path_leads_to_the_programs(tmp_path: Path) -> None:
    bindir = install(tmp_path / "hidden", "17.4")
    install(tmp_path / "path", "", "pg_config")
    (tmp_path / "path" / "pg_config").write_text(f"#!/bin/sh\necho {bindir}\n")
    assert search(PATH=str(tmp_path / "path")) == ["17.4"]


def test_client_programs_alone_are_not_a_server(tmp_path: Path) -> None:
    install(tmp_path / "bin", "16.1", "psql", "pg_config")
    with pytest.raises(NoServerFound):
        search((f"{tmp_path}/bin",))


def test_the_wheel_comes_after_the_system_and_is_not_imported(tmp_path: Path) -> None:
    install(tmp_path / "14" / "bin", "14.1")
    versions = search((f"{tmp_path}/*/bin",), wheel=WHEEL_PACKAGE)
    assert [major_of(version) for version in versions] == [14, 18, 16]
    assert WHEEL_PACKAGE not in sys.modules


@pytest.mark.parametrize(("source", "majors"), [("system", [14]), ("wheel", [18, 16])])
def test_the_source_can_be_narrowed(source: str, majors: list[int], tmp_path: Path) -> None:
    install(tmp_path / "14" / "bin", "14.1")
    versions = search((f"{tmp_path}/*/bin",), WHEEL_PACKAGE, PG_DURABLE_PG_SOURCE=source)
    assert [major_of(version) for version in versions] == majors


def test_a_named_folder_is_the_only_one(tmp_path: Path) -> None:
    install(tmp_path / "16" / "bin", "16.1")
    named = install(tmp_path / "named", "14.3")
    assert search((f"{tmp_path}/*/bin",), WHEEL_PACKAGE, PG_DURABLE_PG_BINDIR=str(named)) == [
        "14.3"
    ]


def test_when_nothing_is_found_the_error_lists_what_was_tried_and_what_helps(
    tmp_path: Path,
) -> None:
    install(tmp_path / "13" / "bin", "13.2")
    with pytest.raises(NoServerFound) as caught:
        search((f"{tmp_path}/*/bin",))
    text = str(caught.value)
    assert "PG_DURABLE_DSN, DATABASE_URL, PGHOST" in text
    assert f"{tmp_path}/13/bin: PostgreSQL 13.2 is too old, 14 or newer is needed" in text
    assert "the programs in the wheel no-such-wheel: it is not installed" in text
    assert "pip install 'pg-durable[embedded]'" in text
    assert "install PostgreSQL 14 or newer" in text
    assert "--dsn postgresql://" in text


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"PG_DURABLE_PG_SOURCE": "docker"}, "PG_DURABLE_PG_SOURCE=docker: it must be 'system' or"),
        ({"PG_DURABLE_PG_BINDIR": "/none"}, "/none: there is no program 'postgres'"),
    ],
)
def test_a_setting_that_leads_nowhere_is_named(environ: dict[str, str], said: str) -> None:
    with pytest.raises(NoServerFound, match=said):
        find_binaries(environ={**NOTHING, **environ})


def test_a_program_that_does_not_run_is_named(tmp_path: Path) -> None:
    bindir = install(tmp_path / "bin", "16.1")
    (bindir / "postgres").write_text("not a program")
    with pytest.raises(NoServerFound, match="'postgres -V' does not run here"):
        search(PG_DURABLE_PG_BINDIR=str(bindir))


def test_psql_is_the_one_beside_the_server_else_one_on_path(tmp_path: Path) -> None:
    beside = install(tmp_path / "16", "16.1")
    without = install(tmp_path / "15", "15.1", "postgres", "initdb")
    path = str(beside)
    assert psql_path(beside, environ=NOTHING) == beside / "psql"
    assert psql_path(without, environ={"PATH": path}) == beside / "psql"
    assert psql_path(without, environ=NOTHING) is None


def test_this_machine_has_a_server_to_start() -> None:
    assert isinstance(find_server(environ={"PATH": "/usr/bin:/bin"}), Binaries)
