"""Renewal: what it asks, and what it makes of the answers."""

from __future__ import annotations

from duroxide.ids import ActivityToken, TurnToken
from duroxide.providers.base import Enqueue, LeasedTurn, Message, MessageKind
from duroxide.runtime.leases import LeaseKeeper, Leases
from duroxide.runtime.storeclock import StoreClock
from duroxide.runtime.telemetry import Observer
from duroxide.testing.clocks import ManualClock
from tests.unit.duroxide.runtime.stores import Scripted, outage

LEASE_MS = 9_000


class Keeping:
    """A keeper on a store whose clock stands still, and one leased turn."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = Scripted(self.clock)
        self.store_clock = StoreClock(samples=1)
        self.store_clock.observe(self.clock.now_ms())
        self.turns = Leases[TurnToken](lease_ms=LEASE_MS, buffer_ms=6_000)
        self.activities = Leases[ActivityToken](lease_ms=LEASE_MS, buffer_ms=6_000)
        self.keeper = LeaseKeeper(
            self.store,
            self.store_clock,
            turns=self.turns,
            activities=self.activities,
            observer=Observer(),
        )
        self.lost: list[str] = []

    def advance(self, ms: int) -> None:
        self.clock.advance(ms)
        self.store_clock.observe(self.clock.now_ms())

    async def hold(self) -> LeasedTurn:
        message = Message(instance_id="i1", kind=MessageKind.START, body="start")
        await self.store.commit([Enqueue(message=message)])
        polled = await self.store.poll_turns(worker="w", want=1, lease_ms=LEASE_MS)
        (leased,) = polled.turns
        self.turns.hold(leased.token, leased.expires_at_ms, lambda: self.lost.append("i1"))
        return leased

    async def is_leased(self) -> bool:
        polled = await self.store.poll_turns(worker="w", want=1, lease_ms=1)
        return not polled.turns


async def test_while_nothing_is_held_nothing_is_asked() -> None:
    keeping = Keeping()
    assert await keeping.keeper.renew()
    assert keeping.store.renewed == 0


async def test_no_buffer_makes_renewal_a_busy_loop() -> None:
    for buffer_ms in (LEASE_MS - 1, LEASE_MS, 10**9):
        assert Leases[TurnToken](lease_ms=LEASE_MS, buffer_ms=buffer_ms).tick_ms == LEASE_MS // 20
    assert Leases[TurnToken](lease_ms=1, buffer_ms=5).tick_ms == 1


async def test_a_young_lease_is_left_alone() -> None:
    keeping = Keeping()
    await keeping.hold()
    keeping.advance(1_000)
    assert await keeping.keeper.renew()
    assert keeping.store.renewed == 0


async def test_a_lease_is_renewed_before_a_third_has_passed_twice() -> None:
    keeping = Keeping()
    await keeping.hold()
    for _ in range(20):
        keeping.advance(keeping.turns.tick_ms)
        assert await keeping.keeper.renew()
    assert await keeping.is_leased()
    assert keeping.lost == []


async def test_an_error_of_the_store_loses_no_lease() -> None:
    keeping = Keeping()
    await keeping.hold()
    keeping.store.renewals = [outage("renew")] * 3
    keeping.advance(LEASE_MS - 100)
    for _ in range(3):
        assert not await keeping.keeper.renew()
    assert keeping.lost == []
    assert await keeping.keeper.renew()
    keeping.advance(LEASE_MS - 100)
    assert await keeping.is_leased()


async def test_a_lease_whose_time_ran_out_during_an_outage_is_lost() -> None:
    keeping = Keeping()
    await keeping.hold()
    keeping.store.renewals = [outage("renew")]
    keeping.advance(LEASE_MS)
    assert not await keeping.keeper.renew()
    assert keeping.lost == ["i1"]
    assert await keeping.keeper.renew()
    assert keeping.lost == ["i1"], "told once"


async def test_what_the_store_reports_as_gone_is_lost() -> None:
    keeping = Keeping()
    await keeping.hold()
    keeping.clock.advance(LEASE_MS)
    assert not await keeping.is_leased()
    keeping.advance(0)
    assert await keeping.keeper.renew()
    assert keeping.lost == ["i1"]


async def test_losing_a_lease_that_is_being_ended_is_no_news() -> None:
    keeping = Keeping()
    leased = await keeping.hold()
    keeping.turns.ending(leased.token)
    keeping.advance(LEASE_MS)
    assert await keeping.keeper.renew()
    assert keeping.lost == []


async def test_a_released_lease_is_not_renewed() -> None:
    keeping = Keeping()
    leased = await keeping.hold()
    keeping.turns.release(leased.token)
    keeping.advance(LEASE_MS - 1)
    assert await keeping.keeper.renew()
    assert keeping.store.renewed == 0


def test_the_official_buffers_are_kept() -> None:
    leases = Leases[TurnToken](lease_ms=30_000, buffer_ms=5_000)
    assert leases.tick_ms == 12_500
    leases.hold(TurnToken("t"), 30_000, lambda: None)
    assert leases.due(12_499) == []
    assert leases.due(12_501) == ["t"], "so at the latest after two ticks, 5 s before the end"
