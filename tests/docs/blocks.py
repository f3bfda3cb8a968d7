"""The fenced blocks of a document, and what is to be done with each.

An HTML comment in the line before a fence says it; without one, a block of SQL, shell or Python is run:

    <!-- test: output -->                 what the block before must have printed
    <!-- test: tests/some/test_it.py -->  that test runs it
    <!-- test: not run, REASON -->
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUNNABLE = ("sql", "sh", "python")
MARKER = re.compile(r"<!-- test: (?P<words>.*?) -->\s*")
FENCE = re.compile(r"(?P<indent> *)```(?P<language>\w*)\s*")


class BadDocument(Exception):
    """A block says something that can't be so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block."""

    path: Path
    line: int  # of its fence, from 1
    language: str
    text: str
    marker: str | None  # the words after "test: "

    @property
    def runs(self) -> bool:
        return self.language in RUNNABLE and self.marker is None

    @property
    def is_output(self) -> bool:
        return self.marker == "output"

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line}"


def documents() -> list[Path]:
    """Return every document that a reader may follow."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(path: Path) -> Iterator[Block]:
    """Yield the blocks of a document in order.

    Raises:
        BadDocument: a fence is not closed, or a marker stands before nothing.
    """
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    marker: str | None = None
    for number, line in lines:
        opening = FENCE.fullmatch(line)
        if opening:
            yield Block(
                path=path,
                line=number,
                language=opening["language"],
                text=_body(lines, opening["indent"], f"{path.name}:{number}"),
                marker=marker,
            )
            marker = None
            continue
        if marker is not None:
            raise BadDocument(f"{path.name}:{number}: no block after <!-- test: {marker} -->")
        found = MARKER.fullmatch(line.strip())
        marker = found["words"] if found else None


def _body(lines: Iterator[tuple[int, str]], indent: str, where: str) -> str:
    body: list[str] = []
    for _, line in lines:
        if line == f"{indent}```":
            return "".join(f"{each}\n" for each in body)
        body.append(line.removeprefix(indent))
    raise BadDocument(f"{where}: the fence is not closed")
