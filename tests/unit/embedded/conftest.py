from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pg_durable.embedded.temporary import MEMORY
from tests.unit.embedded.processes import Owner, until


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter, unlike `tmp_path`: as root, the server is another user."""
    base = MEMORY if os.access(MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="test-embedded-", dir=base))
    folder.chmod(0o755)
    yield folder
    until(lambda: remove(folder))


def remove(folder: Path) -> bool:
    """Remove a folder; False if children of a server that a test killed still write there."""
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


@pytest.fixture
def start_owner() -> Iterator[Callable[..., Owner]]:
    """`Owner.start`, with an end for those that a failing test leaves behind."""
    owners: list[Owner] = []

    def start(*arguments: object, **options: object) -> Owner:
        owners.append(Owner.start(*arguments, **options))  # type: ignore[arg-type]
        return owners[-1]

    yield start
    for owner in owners:
        owner.kill()
