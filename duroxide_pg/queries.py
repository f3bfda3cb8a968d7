"""Named statements and the schema's script, from the `.sql` files of this package."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from duroxide_pg.lineage import fill

_PARAMETER = re.compile(r"%\((\w+)\)s")
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with numbered parameters, and their names in that order."""

    text: bytes  # psycopg takes dynamic SQL only so
    names: tuple[str, ...]

    @classmethod
    def of(cls, text: str, schema: str) -> Statement:
        """Number the parameters here, once: psycopg would parse so long a statement at every call."""
        names = tuple(dict.fromkeys(_PARAMETER.findall(text)))
        numbers = {name: f"${place}" for place, name in enumerate(names, start=1)}
        numbered = _PARAMETER.sub(lambda match: numbers[match[1]], text)
        return cls(fill(numbered, schema=schema).encode(), names)  # may look like a parameter


@cache
def statements(schema: str) -> Mapping[str, Statement]:
    """Every named statement, for one schema."""
    found: dict[str, Statement] = {}
    for file in sorted(_folder().iterdir(), key=lambda file: file.name):
        if file.name.endswith(".sql"):
            parts = _NAME.split(file.read_text(encoding="utf-8"))
            for name, text in zip(parts[1::2], parts[2::2], strict=True):
                assert name not in found, f"two statements are called {name}"
                found[name] = Statement.of(text.strip().removesuffix(";"), schema)
    return found


def schema_script(schema: str) -> str:
    """The whole schema as of this release, as one script; what a fresh migration makes."""
    folder = _folder() / "schema"
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return "".join(fill(file.read_text(encoding="utf-8"), schema=schema) for file in files)


def _folder() -> resources.abc.Traversable:
    return resources.files("duroxide_pg") / "sql"
