"""Grouping, repeating and narrowing down commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from duroxide.errors import ProviderError
from duroxide.providers.base import (
    CommitCode,
    CommitItem,
    CommitResult,
    EagerDispatch,
    Enqueue,
    Message,
    MessageKind,
    Provider,
)
from duroxide.runtime.flusher import Flusher
from duroxide.runtime.telemetry import Observer
from tests.unit.duroxide.runtime.stores import Scripted, outage


def hello(instance_id: str) -> Enqueue:
    return Enqueue(
        message=Message(instance_id=instance_id, kind=MessageKind.START, body=instance_id)
    )


@asynccontextmanager
async def running(provider: Provider) -> AsyncIterator[Flusher]:
    flusher = Flusher(provider, observer=Observer())
    try:
        yield flusher
    finally:
        await flusher.close()


async def started(provider: Scripted) -> list[str]:
    polled = await provider.poll_turns(worker="w", want=100, lease_ms=1_000)
    return sorted(turn.instance_id for turn in polled.turns)


async def test_an_idle_flusher_commits_one_item_at_once() -> None:
    store = Scripted()
    async with running(store) as flusher:
        assert (await flusher.commit(hello("a"))).ok
        assert (await flusher.commit(hello("b"))).ok
    assert [len(batch) for batch in store.batches] == [1, 1]


async def test_what_becomes_ready_during_a_commit_goes_together() -> None:
    store = Scripted()
    store.gate = asyncio.Event()
    async with running(store) as flusher:
        first = asyncio.create_task(flusher.commit(hello("first")))
        await store.called.wait()
        others = [asyncio.create_task(flusher.commit(hello(f"i{n}"))) for n in range(5)]
        await asyncio.sleep(0)
        store.gate.set()
        assert all(result.ok for result in await asyncio.gather(first, *others))
    assert [len(batch) for batch in store.batches] == [1, 5]


async def test_a_batch_holds_only_so_much_text_but_always_an_item() -> None:
    store = Scripted()
    store.gate = asyncio.Event()
    flusher = Flusher(store, observer=Observer(), max_characters=10)
    names = ["first", "four", "more", "x", "larger than the limit", "y"]
    bodies: dict[CommitItem, str] = {hello(name): name for name in names}
    commits = [asyncio.create_task(flusher.commit(hello(name))) for name in names[:1]]
    await store.called.wait()
    commits += [asyncio.create_task(flusher.commit(hello(name))) for name in names[1:]]
    await asyncio.sleep(0)
    store.gate.set()
    assert all(result.ok for result in await asyncio.gather(*commits))
    await flusher.close()
    assert [list(map(bodies.get, batch)) for batch in store.batches] == [
        ["first"],
        ["four", "more", "x"],
        ["larger than the limit"],
        ["y"],
    ]


class OneIsHeld(Scripted):
    """Keeps a batch that holds the item waiting, as a store does for rows that a user has locked."""

    def __init__(self) -> None:
        super().__init__()
        self.holding = asyncio.Event()

    async def commit(
        self, batch: Sequence[CommitItem], *, eager: EagerDispatch | None = None
    ) -> Sequence[CommitResult]:
        if hello("held") in batch:
            self.holding.set()
            await asyncio.Event().wait()
        return await super().commit(batch, eager=eager)


async def test_a_batch_that_the_store_keeps_waiting_holds_up_no_other() -> None:
    store = OneIsHeld()
    async with running(store) as flusher:
        held = asyncio.create_task(flusher.commit(hello("held")))
        await store.holding.wait()
        async with asyncio.timeout(10):
            assert (await flusher.commit(hello("other"))).ok
        assert not held.done()
        held.cancel()


async def test_an_unknown_outcome_is_repeated_until_it_is_known() -> None:
    store = Scripted()
    store.before = [outage(), outage()]
    async with running(store) as flusher:
        assert (await flusher.commit(hello("a"))).ok
    assert [len(batch) for batch in store.batches] == [1, 1, 1]
    assert await started(store) == ["a"]


class OneIsBad(Scripted):
    """Fails every batch that holds the bad item, as a whole."""

    async def commit(
        self, batch: Sequence[CommitItem], *, eager: EagerDispatch | None = None
    ) -> Sequence[CommitResult]:
        if any(isinstance(item, Enqueue) and item.message.body == "bad" for item in batch):
            self.batches.append(tuple(batch))
            raise ProviderError("commit", "value out of range", retryable=False)
        return await super().commit(batch, eager=eager)


async def test_a_bad_item_fails_alone() -> None:
    store = OneIsBad()
    names = ["a", "b", "bad", "c", "d", "e", "f"]
    async with running(store) as flusher:
        results = await asyncio.gather(*(flusher.commit(hello(name)) for name in names))
    codes = dict(zip(names, (result.code for result in results), strict=True))
    assert codes.pop("bad") is CommitCode.REFUSED
    assert set(codes.values()) == {CommitCode.APPLIED}
    assert await started(store) == ["a", "b", "c", "d", "e", "f"]


async def test_a_defect_of_the_store_is_narrowed_down_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Scripted()
    store.before = [ZeroDivisionError("oops")]
    async with running(store) as flusher:
        results = await asyncio.gather(flusher.commit(hello("a")), flusher.commit(hello("b")))
    assert [result.code for result in results] == [CommitCode.APPLIED, CommitCode.APPLIED]
    assert "not a ProviderError" in caplog.text


async def test_a_caller_that_is_cancelled_does_not_disturb_the_batch() -> None:
    store = Scripted()
    store.gate = asyncio.Event()
    async with running(store) as flusher:
        calls = [asyncio.create_task(flusher.commit(hello(f"i{n}"))) for n in range(3)]
        await store.called.wait()
        calls[1].cancel()
        await asyncio.sleep(0)
        store.gate.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results[1], asyncio.CancelledError)
    assert [isinstance(result, CommitResult) for result in results] == [True, False, True]
    assert await started(store) == ["i0", "i1", "i2"], "written all the same"


async def test_a_closed_flusher_leaves_nobody_waiting() -> None:
    store = Scripted()
    store.before = [outage()] * 1_000
    async with running(store) as flusher:
        waiting = asyncio.create_task(flusher.commit(hello("a")))
        await asyncio.sleep(0.02)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(asyncio.CancelledError):
        await flusher.commit(hello("b"))


async def test_the_offer_is_made_anew_for_each_attempt() -> None:
    offered: list[EagerDispatch | None] = []

    class Noting(Scripted):
        async def commit(
            self, batch: Sequence[CommitItem], *, eager: EagerDispatch | None = None
        ) -> Sequence[CommitResult]:
            offered.append(eager)
            return await super().commit(batch, eager=eager)

    limits = iter((3, 2, 1))
    store = Noting()
    store.before = [outage()]
    flusher = Flusher(
        store,
        observer=Observer(),
        offer=lambda: EagerDispatch(worker="w", limit=next(limits), lease_ms=1),
    )
    await flusher.commit(hello("a"))
    await flusher.close()
    assert [offer.limit for offer in offered if offer is not None] == [3, 2]
