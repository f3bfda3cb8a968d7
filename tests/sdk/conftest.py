"""Programs for the official SDK, run on our stores.

Every expectation but those of `test_differences.py` was checked against the official package (0.2.2):
the modules here import nothing of ours but `duroxide`, so that they run in an environment that holds
that package instead. There the store is always a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from duroxide import RuntimeOptions, SqliteProvider
from tests.sdk.app import IS_OURS, App

STORES = ("memory", "file", "postgres") if IS_OURS else ("file",)


@pytest.fixture(params=STORES)
def provider(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    match request.param:
        case "memory":
            return SqliteProvider.in_memory()
        case "file":
            return SqliteProvider.open(f"sqlite:{tmp_path}/made/app.db")
        case _:
            from duroxide import PostgresProvider

            dsn = request.getfixturevalue("database").dsn
            return PostgresProvider.connect_with_schema(dsn, "sdk")


@pytest.fixture
def app(provider: Any) -> Iterator[App]:
    """An app on the defaults; the test registers and starts."""
    made = App(provider)
    yield made
    made.runtime.shutdown(500)


@pytest.fixture
def app_with(provider: Any) -> Iterator[Callable[[RuntimeOptions], App]]:
    """The same with options."""
    made: list[App] = []

    def make(options: RuntimeOptions) -> App:
        made.append(App(provider, options))
        return made[-1]

    yield make
    for each in made:
        each.runtime.shutdown(500)
