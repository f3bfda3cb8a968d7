"""Named statements and the schema's script, from the `.sql` files of this package."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

from duroxide_pg.revisions import fill

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def statements(schema: str) -> Mapping[str, bytes]:
    """Every named statement, for one schema. Bytes, because psycopg takes dynamic text only so."""
    found: dict[str, bytes] = {}
    for file in sorted(_folder().iterdir(), key=lambda file: file.name):
        if file.name.endswith(".sql"):
            parts = _NAME.split(file.read_text(encoding="utf-8"))
            for name, text in zip(parts[1::2], parts[2::2], strict=True):
                assert name not in found, f"two statements are called {name}"
                found[name] = fill(text.strip().removesuffix(";"), schema=schema).encode()
    return found


def schema_script(schema: str) -> str:
    """The whole schema as of this release, as one script; what a fresh migration makes."""
    folder = _folder() / "schema"
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return "".join(fill(file.read_text(encoding="utf-8"), schema=schema) for file in files)


def _folder() -> resources.abc.Traversable:
    return resources.files("duroxide_pg") / "sql"
