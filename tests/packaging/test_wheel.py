"""What is in the wheel is enough, wherever it is installed."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import pytest

from duroxide_pg import migrate
from duroxide_pg.migrate import State
from tests.docs.blocks import ROOT
from tests.fixtures.postgres import Database
from tests.packaging.conftest import Installed

PACKAGES = ("duroxide", "duroxide_pg", "pg_durable")
SHIPPED = {".py", ".sql", ".typed", ".mako"}


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    shipped = set(ZipFile(wheel).namelist())
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.suffix in SHIPPED:
                assert str(path.relative_to(ROOT)) in shipped


def test_the_wheel_holds_every_migration_where_the_locator_looks(wheel: Path) -> None:
    shipped = set(ZipFile(wheel).namelist())
    homes = {"duroxide": "duroxide_pg", "df": "pg_durable"}
    for line, package in homes.items():
        revisions = [
            path for path in (ROOT / "alembic/versions" / line).iterdir() if path.suffix in SHIPPED
        ]
        assert revisions, f"there are no revisions of {line}"
        for path in revisions:
            assert f"{package}/_alembic/versions/{line}/{path.name}" in shipped
    for name in ("env.py", "alembic.ini", "script.py.mako"):
        assert f"duroxide_pg/_alembic/{name}" in shipped


def test_the_wheel_adds_nothing_but_our_packages(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_the_wheel_is_typed_and_has_no_rubbish(wheel: Path) -> None:
    shipped = ZipFile(wheel).namelist()
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(shipped)
    assert not [name for name in shipped if "__pycache__" in name or name.endswith(".pyc")]


@pytest.mark.timeout(300)
def test_an_installed_wheel_runs_the_demo(installed: Installed) -> None:
    done = installed.run("pg-durable", "demo", "--private")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100 processed, 250 in all" in done.stdout
    assert "every step took effect exactly once" in done.stdout
    assert done.stderr == ""


def test_an_installed_wheel_says_its_version(installed: Installed) -> None:
    done = installed.run("pg-durable", "--version")
    assert (done.returncode, done.stdout) == (0, "pg-durable, version 0.1.0\n")


@pytest.mark.timeout(300)
def test_without_the_extra_the_command_says_how_to_get_it(installed_library: Installed) -> None:
    done = installed_library.run("pg-durable", "demo")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "pg-durable: the command line needs the package 'click', which is not installed\n"
        "  To fix it: pip install 'pg-durable[cli]'\n"
    )


@pytest.mark.timeout(300)
def test_without_the_extra_the_library_imports(installed_library: Installed) -> None:
    code = "import pg_durable, duroxide_pg, duroxide, pg_durable.install, pg_durable.embedded"
    done = installed_library.run("python", "-W", "error", "-c", code)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.long
@pytest.mark.timeout(300)
def test_an_installed_wheel_migrates_in_the_process_and_by_hand(
    installed_library: Installed, database: Database
) -> None:
    code = (
        "import sys; from duroxide_pg import migrate; from importlib import resources\n"
        "print(migrate.upgrade(sys.argv[1], 'tenant_a').state.value)\n"
        "print(resources.files('duroxide_pg') / '_alembic' / 'alembic.ini')"
    )
    done = installed_library.run("python", "-c", code, database.dsn)
    assert done.returncode == 0, done.stderr
    state, ini = done.stdout.split()
    assert state == "current"
    for line in ("alembic", "df"):
        by_hand = ["-m", "alembic", "-c", ini, "-n", line, "-x", f"dsn={database.dsn}"]
        done = installed_library.run("python", *by_hand, "upgrade", "head")
        assert done.returncode == 0, done.stderr
    check = "import sys, pg_durable.install as i; print(i.install(sys.argv[1]))"
    done = installed_library.run("python", "-c", check, database.dsn)
    assert done.returncode == 0, done.stderr
    assert migrate.check(database.dsn).state is State.CURRENT
