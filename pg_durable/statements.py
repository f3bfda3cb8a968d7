"""Named statements from `.sql` files: `-- name: x` begins one, comment lines say what it does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def load(resource: str) -> Mapping[str, bytes]:
    """The statements of a file in this package, by name."""
    text = files("pg_durable").joinpath(resource).read_text()
    _, *parts = _NAME.split(text)
    return {
        name: body.strip().rstrip(";").encode()
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }
