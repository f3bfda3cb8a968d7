"""How fast a long history replays, and how much memory it takes: python benchmarks/replay.py

Prints, for one execution of 10,000 events: decoding and replaying, in CPU time (best of seven, so that
neighbours on the machine do not count), and bytes an event of what stays in memory. Exits with 1 if a
figure is above its bound.
"""

from __future__ import annotations

import gc
import sys
import time
import tracemalloc

from duroxide import OrchestrationContext, work
from duroxide.codec import decode_events, encode_event
from duroxide.engine.run import Run
from duroxide.engine.turn import StartInfo
from duroxide.registry import define_orchestration

EVENTS = 10_000
REPLAY_MS = 150.0
EVENT_BYTES = 2_048


async def steps(ctx: OrchestrationContext, count: int) -> int:
    total = 0
    for i in range(count):
        total += (await ctx.call("step", {"number": i, "note": "a step of some size"}))["value"]
    return total


CODE = define_orchestration(steps)
INFO = StartInfo(
    instance_id="benchmark-1",
    execution_id=1,
    name="steps",
    version="1.0.0",
    input=str(EVENTS // 2),
    seed="00",
)


def record() -> list[str]:
    """The history of an execution that is still running."""
    run = Run.start(CODE, INFO, now_ms=0)
    events = list(run.apply((), 0).events)
    while len(events) < EVENTS:
        done = work.ActivityCompletion(
            instance=INFO.instance_id,
            execution_id=1,
            id=events[-1].event_id,
            result='{"value":1,"more":"of a result"}',
        )
        events += run.apply([done], 0).events
    run.park()
    return [encode_event(event) for event in events]


def main() -> int:
    texts = record()
    decoding, replaying = [], []
    for _ in range(7):
        gc.collect()
        began = time.process_time()
        events = decode_events(texts)
        decoded = time.process_time()
        Run.replay(CODE, events).park()
        replaying.append(time.process_time() - decoded)
        decoding.append(decoded - began)
    del events
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = decode_events(texts)
    run = Run.replay(CODE, kept)
    per_event = (tracemalloc.get_traced_memory()[0] - before) / len(kept)
    tracemalloc.stop()
    run.park()
    decode_ms, replay_ms = 1000 * min(decoding), 1000 * min(replaying)
    print(f"events          {len(texts):>10,}")
    print(f"decode          {decode_ms:>10.1f} ms")
    print(f"replay          {replay_ms:>10.1f} ms   (decode and replay: at most {REPLAY_MS:.0f})")
    print(f"memory an event {per_event:>10.0f} bytes (at most {EVENT_BYTES})")
    return int(decode_ms + replay_ms > REPLAY_MS or per_event > EVENT_BYTES)


if __name__ == "__main__":
    sys.exit(main())
