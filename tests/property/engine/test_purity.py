"""Equal inputs give byte-equal outputs, in processes that hash strings differently (property 22)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

SCRIPT = """
import hashlib, logging
logging.disable(logging.CRITICAL)
from duroxide.codec import encode_event
from tests.histories.orchestrations import play as golden
from tests.property.engine.interpret import GENERATOR, NATIVE
from tests.property.engine.play import play
from tests.property.engine.programs import sample

digest = hashlib.sha256()
for handle in golden().values():
    for events in handle.executions:
        for event in events:
            digest.update(encode_event(event).encode())
for seed in range(40):
    for style in (NATIVE, GENERATOR):
        for name, executions in play(sample(seed), seed, style=style).histories().items():
            for events in executions:
                for event in events:
                    digest.update(encode_event(event).encode())
print(digest.hexdigest())
"""


def digest(hash_seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_engine_does_not_depend_on_how_strings_hash() -> None:
    first = digest("0")
    assert len(first) == 64
    assert digest("1") == first
    assert digest("4242") == first
