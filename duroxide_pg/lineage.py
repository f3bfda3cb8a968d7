"""Where migrations are found, in a wheel as in a checkout, and in which order they follow each other.

A worker only compares a revision with the newest one. Alembic, and SQLAlchemy under it, would cost it a
third of its memory for that, so the order is read from the files; a test compares it with Alembic's.
"""

from __future__ import annotations

import ast
import re
from importlib import resources
from pathlib import Path

from psycopg import sql


def environment() -> Path:
    """The folder of `env.py`; one environment serves every package that has migrations."""
    return _alembic_of("duroxide_pg")


def versions(package: str, name: str) -> Path:
    """The folder of the revisions `name`, shipped with `package`."""
    return _alembic_of(package) / "versions" / name


def chain(folder: Path) -> tuple[str, ...]:
    """The revisions in a folder, oldest first.

    Raises:
        ValueError: they are not one line.
    """
    after: dict[str | None, str] = {}
    for file in sorted(folder.glob("[0-9]*.py")):
        named = _constants(file)
        revision, before = named["revision"], named.get("down_revision")
        if revision is None or before in after:
            raise ValueError(f"{file} does not follow the revisions before it")
        after[before] = revision
    revisions: list[str] = []
    while (following := after.pop(revisions[-1] if revisions else None, None)) is not None:
        revisions.append(following)
    if after or not revisions:
        raise ValueError(f"the revisions in {folder} are not one line")
    return tuple(revisions)


def _constants(file: Path) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value)):
                if value is None or isinstance(value, str):
                    found[name] = value
            case _:
                pass
    return found


def fill(text: str, **identifiers: str) -> str:
    """Replace `{name}` by the quoted identifier; a brace of the SQL itself is left alone.

    `{channel}` is the schema's name as the content of a literal.
    """
    values = {name: quoted(identifier) for name, identifier in identifiers.items()}
    if "schema" in identifiers:
        values["channel"] = identifiers["schema"].replace("'", "''")
    names = re.compile("{(" + "|".join(map(re.escape, values)) + ")}")
    return names.sub(lambda match: values[match[1]], text)  # at once: a value may look like a name


def quoted(*names: str) -> str:
    """A possibly qualified identifier, as SQL text."""
    return str(sql.Identifier(*names).as_string(None))


def _alembic_of(package: str) -> Path:
    packed = Path(str(resources.files(package))) / "_alembic"
    if packed.is_dir():
        return packed
    return Path(str(resources.files(package))).parent / "alembic"
