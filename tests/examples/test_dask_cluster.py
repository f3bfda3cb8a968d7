"""The Dask example, on a real cluster of two worker processes."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

pytest.importorskip("distributed")

EXAMPLE = Path(__file__).parents[2] / "examples" / "dask_cluster" / "dask_cluster.py"


async def test_activities_run_on_the_cluster() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLE), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    assert output.decode() == "7837 primes below 80000, counted by 2 processes\n"
