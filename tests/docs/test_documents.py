"""What README and docs print is what a reader gets."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pg_durable import install
from pg_durable.commands.worker_process import WorkerProcess
from tests.docs.blocks import ROOT, RUNNABLE, BadDocument, Block, blocks_of, documents
from tests.docs.sessions import Psql, StepFailed, run_program
from tests.fixtures.postgres import Database

LINK = re.compile(r"\]\((?!https?://|mailto:)(?P<target>[^)#\s]+)(?:#(?P<anchor>[^)\s]+))?\)")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def shown(output: str) -> list[str]:
    """Return lines as they look: blanks at the end of a line, and empty lines at the end, do not."""
    return [line.rstrip() for line in output.rstrip().splitlines()]


@pytest.fixture
def psql(database: Database, tmp_path: Path) -> Iterator[Psql]:
    bindir = database.server.bindir
    program = bindir / "psql" if bindir and (bindir / "psql").exists() else Path("psql")
    with Psql(program, database.dsn, tmp_path) as session:
        yield session


@pytest.mark.parametrize(
    "path", [d for d in documents() if any(b.runs for b in blocks_of(d))], ids=named
)
def test_the_blocks_of_a_document_run_in_order(
    path: Path, database: Database, psql: Psql, tmp_path: Path
) -> None:
    install.install(database.dsn)
    environment = {
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PG_DURABLE_DSN": database.dsn,
        "NO_COLOR": "1",
    }
    printed = ""
    with (
        (tmp_path / "worker.log").open("w+b") as log,
        WorkerProcess(database.dsn, log=log) as worker,
    ):
        worker.start()
        for block in blocks_of(path):
            try:
                if block.is_output:
                    if shown(printed) != shown(block.text):
                        raise StepFailed(f"what is printed is\n{printed}")
                elif block.runs and block.language == "sql":
                    printed = psql.run(block.text)
                elif block.runs:
                    printed = run_program(block.language, block.text, tmp_path, environment)
            except StepFailed as failure:
                pytest.fail(f"{block}: {failure}\nworker: {worker.log_tail()}")


@pytest.mark.parametrize("path", documents(), ids=named)
def test_a_marker_is_one_we_know_and_names_a_test_that_exists(path: Path) -> None:
    for block in blocks_of(path):
        match (block.marker or "").split(","):
            case [""] | ["output"]:
                pass
            case ["not run", reason] if reason.strip():
                pass
            case [test] if test.startswith("tests/"):
                assert (ROOT / test).is_file(), f"{block}: there is no {test}"
            case _:
                pytest.fail(f"{block}: unknown marker {block.marker!r}")


@pytest.mark.parametrize("path", documents(), ids=named)
def test_a_link_leads_to_a_file_that_exists(path: Path) -> None:
    for found in LINK.finditer(path.read_text(encoding="utf-8")):
        assert (path.parent / found["target"]).exists(), f"{named(path)}: {found['target']}"


def test_a_fence_that_is_not_closed_is_found(tmp_path: Path) -> None:
    document = tmp_path / "bad.md"
    document.write_text("```sql\nSELECT 1;\n")
    with pytest.raises(BadDocument, match=r"bad\.md:1: the fence is not closed"):
        list(blocks_of(document))


def test_a_marker_before_no_block_is_found(tmp_path: Path) -> None:
    document = tmp_path / "bad.md"
    document.write_text("<!-- test: output -->\n\ntext\n")
    with pytest.raises(BadDocument, match="no block after"):
        list(blocks_of(document))


@pytest.mark.parametrize("language", RUNNABLE)
def test_a_block_runs_unless_a_marker_says_otherwise(tmp_path: Path, language: str) -> None:
    document = tmp_path / "good.md"
    document.write_text(f"```{language}\none\n```\n<!-- test: output -->\n```text\n1\n```\n")
    run, output = blocks_of(document)
    assert run == Block(path=document, line=1, language=language, text="one\n", marker=None)
    assert run.runs
    assert output.is_output
    assert not output.runs
