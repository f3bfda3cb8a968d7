"""The order of revisions without Alembic, and what a worker does without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from duroxide_pg import lineage
from duroxide_pg.upgrading import configuration

FOLDERS = [("duroxide_pg", "duroxide"), ("pg_durable", "df")]


@pytest.mark.parametrize(("package", "name"), FOLDERS)
def test_the_order_is_that_of_alembic(package: str, name: str) -> None:
    folder = lineage.versions(package, name)
    script = ScriptDirectory.from_config(configuration(folder, name))
    newest_first = [revision.revision for revision in script.walk_revisions()]
    assert list(lineage.chain(folder)) == newest_first[::-1]


def write(folder: Path, revision: str, before: str | None) -> None:
    text = f"revision = {revision!r}\ndown_revision = {before!r}\n"
    (folder / f"{revision}_what.py").write_text(text)


def test_revisions_follow_what_they_say_and_not_their_files(tmp_path: Path) -> None:
    write(tmp_path, "0003", None)
    write(tmp_path, "0001", "0003")
    write(tmp_path, "0002", "0001")
    assert lineage.chain(tmp_path) == ("0003", "0001", "0002")


@pytest.mark.parametrize("befores", [[], ["0009"], [None, None], [None, "0001", "0001"]])
def test_revisions_that_are_not_one_line_are_refused(
    tmp_path: Path, befores: list[str | None]
) -> None:
    for number, before in enumerate(befores, start=1):
        write(tmp_path, f"000{number}", before)
    with pytest.raises(ValueError, match="revisions"):
        lineage.chain(tmp_path)


def test_a_worker_that_migrates_nothing_imports_neither_sqlalchemy_nor_alembic() -> None:
    program = (
        "import sys, duroxide_pg, pg_durable.worker, pg_durable.commands.worker;"
        "print([name for name in ('sqlalchemy', 'alembic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
