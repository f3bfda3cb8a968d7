from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from pg_durable.embedded import EmbeddedServerError, UnusableFolder, default_data_dir
from pg_durable.embedded.accounts import Account, barrier, environment, server_account
from pg_durable.embedded.folders import DataFolder, cache_dir, check_reach, check_space, locked
from pg_durable.embedded.temporary import SOCKET_PATH_BYTES, make_socket_dir

STRANGER = Account(name="stranger", uid=54321, gid=54321)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts servers as another user")
as_user = pytest.mark.skipif(os.geteuid() == 0, reason="root has folders of its own")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_missing_or_empty_folder_is_taken_and_one_of_ours_again(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "a" / "b")
    folder.create()
    folder.create()
    with locked(folder.lock, timeout=0):
        pass
    folder.pgdata.mkdir()
    folder.create()
    assert mode(folder.path) == (0o711 if os.geteuid() == 0 else 0o700)


def test_the_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    with pytest.raises(UnusableFolder, match=r"is not empty .* holds letters. Name a folder"):
        DataFolder(tmp_path).create()


def test_a_bare_data_folder_of_postgresql_is_refused_with_a_better_idea(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("16\n")
    with pytest.raises(UnusableFolder, match="Start its server yourself and pass --dsn"):
        DataFolder(tmp_path).create()


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UnusableFolder, match="can't be used as a data folder"):
            DataFolder(folder).create()


def test_a_name_that_is_too_long_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(UnusableFolder, match=r"File name too long. Name a folder"):
        DataFolder(tmp_path / ("x" * 300)).create()


@as_user
def test_a_folder_that_may_not_be_made_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UnusableFolder, match=r"Permission denied.*Name a folder that you own"):
        DataFolder(tmp_path / "data").create()


def test_too_little_space_is_said_in_numbers(tmp_path: Path) -> None:
    with pytest.raises(UnusableFolder, match=r"MB of free space; a new cluster needs 1048576 MB"):
        check_space(tmp_path, needed_bytes=2**40)


def test_a_lock_that_somebody_holds_is_an_error_in_time(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "lock", timeout=0),
        pytest.raises(EmbeddedServerError, match="has held"),
        locked(tmp_path / "lock", timeout=0.05),
    ):
        pass
    with locked(tmp_path / "lock", timeout=0):
        pass


def test_the_barrier_is_the_first_closed_folder_on_the_way(tmp_path: Path) -> None:
    outer, inner = tmp_path / "outer", tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(mode(parent) | 0o011)
    assert barrier(inner / "missing", STRANGER) is None
    outer.chmod(0o700)
    assert barrier(inner / "missing", STRANGER) == outer
    link = tmp_path / "link"
    link.symlink_to(inner)
    assert barrier(link, STRANGER) == outer


def test_a_folder_that_the_server_can_not_reach_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(UnusableFolder, match=r"can't be reached by 'stranger'.* is closed to it"):
        check_reach(closed / "data", STRANGER)


@as_root
def test_root_hands_the_server_to_an_unprivileged_user() -> None:
    account = server_account(None)
    assert account.name in ("postgres", "nobody")
    assert account.uid != 0


@as_root
def test_root_keeps_the_owner_that_the_data_has(tmp_path: Path) -> None:
    os.chown(tmp_path, STRANGER.uid, STRANGER.gid)
    assert server_account(tmp_path).uid == STRANGER.uid


@as_user
def test_data_of_another_user_is_refused() -> None:
    with pytest.raises(UnusableFolder, match="belongs to 'root'"):
        server_account(Path("/"))


def test_programs_of_postgresql_see_no_secret_and_no_setting_of_the_caller() -> None:
    kept = environment({"PATH": "/bin", "DATABASE_URL": "x", "PGDATA": "x", "LANG": "de_DE.UTF-8"})
    assert kept == {"PATH": "/bin", "LC_ALL": "C", "TZ": "UTC"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/home/ada"}, "/home/ada/.local/share/pg-durable/dev"),
        ({"HOME": "/home/ada", "XDG_DATA_HOME": "/data"}, "/data/pg-durable/dev"),
        ({"HOME": "/home/ada", "XDG_DATA_HOME": "rel"}, "/home/ada/.local/share/pg-durable/dev"),
    ],
)
def test_data_goes_where_xdg_says_but_not_for_root(environ: dict[str, str], expected: str) -> None:
    found = default_data_dir(environ)
    assert found == Path("/var/lib/pg-durable/dev" if os.geteuid() == 0 else expected)


def test_a_named_cache_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    environ = {"PG_DURABLE_CACHE_DIR": str(tmp_path / "cache")}
    assert cache_dir(environ) == tmp_path / "cache"
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(EmbeddedServerError, match="writable for nobody else"):
        cache_dir(environ)


def test_sockets_get_a_short_path_whatever_tmpdir_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    account = server_account(None)
    folder = make_socket_dir(account)
    try:
        assert len(bytes(folder / ".s.PGSQL.5432.lock")) <= SOCKET_PATH_BYTES
        assert mode(folder) == 0o700
    finally:
        folder.rmdir()
