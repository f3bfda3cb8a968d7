"""Durable workflows written in SQL, on any PostgreSQL 14 to 18.

The public names are loaded when they are first used: the embedded server and the command line need
neither the engine nor a database driver to say what is wrong.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pg_durable.settings import Settings
    from pg_durable.worker import Worker

__all__ = ["Settings", "Worker"]

_HOMES = {"Settings": "pg_durable.settings", "Worker": "pg_durable.worker"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
