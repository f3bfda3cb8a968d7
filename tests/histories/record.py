"""Write the histories of a release: python -m tests.histories.record 0.2.0"""

from __future__ import annotations

import sys
from pathlib import Path

from duroxide.codec import encode_event
from tests.histories.orchestrations import play

HERE = Path(__file__).parent


def record(version: str) -> None:
    folder = HERE / version
    folder.mkdir(exist_ok=True)
    for name, handle in play().items():
        for number, events in enumerate(handle.executions, 1):
            text = "".join(f"{encode_event(e)}\n" for e in events)
            text = text.replace(
                str(HERE.parents[1]), "/app"
            )  # in tracebacks: where it was recorded
            (folder / f"{name}.{number}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    record(sys.argv[1])
