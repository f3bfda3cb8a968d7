"""Every short cut ends where the long way does: what can be seen afterwards is the same."""

from __future__ import annotations

from typing import Any

from duroxide.ids import ActivityToken
from duroxide.providers.base import Cursor, EagerDispatch, LeasedTurn, TagSelection
from duroxide.state import ExecutionStatus, SetCustomStatus, SetKeyValue
from duroxide.testing.provider_suite.capabilities import needs
from duroxide.testing.provider_suite.driver import (
    LEASE_MS,
    WORKER,
    StoreDriver,
    SuiteBase,
    activity,
    bodies,
)

FAST, PLAIN = "fast", "slow"  # names of one length, so that sizes are equal too


async def seen(store: StoreDriver, instance_id: str) -> Any:
    """All that clients, people and the next turn see of an instance, without its name."""
    state = await store.status(instance_id)
    await store.send(instance_id, "and now")
    leased = await store.lease(instance_id)
    await store.commit_turn(leased, 0)
    values = await store.provider.read_key_values(instance_id)
    return (
        (state.execution_id, state.name, state.version, state.status, state.output),
        (state.custom_status, state.custom_status_version),
        [str(text).replace(instance_id, "") for text in await store.history(instance_id)],
        {key: (value.value, value.updated_at_ms) for key, value in values.items()},
        (leased.execution_id, leased.next_event_id, leased.attempt_count, bodies(leased)),
        len(leased.history),
    )


class EquivalenceSuite(SuiteBase):
    async def same(self, store: StoreDriver) -> None:
        """The two instances can't be told apart, and nothing is left in the queues."""
        assert await seen(store, FAST) == await seen(store, PLAIN)
        store.clock.advance(2 * LEASE_MS)
        assert await store.poll_activities() == ()
        assert await store.poll() == ()

    def changes(self) -> dict[str, Any]:
        return {
            "custom_status": SetCustomStatus(status="half way"),
            "key_values": (SetKeyValue(key="k", value="v", updated_at_ms=7),),
        }

    async def test_a_history_in_pieces_is_the_whole_history(self, store: StoreDriver) -> None:
        needs(store, "history_suffix")
        await store.start(FAST)
        await store.commit_turn(await store.lease(FAST), 3)
        for known in range(4):
            await store.send(FAST, "more")
            whole = await store.lease(FAST)
            await store.abandon(whole, count_attempt=False)
            rest = await store.lease(FAST, known={FAST: Cursor(1, known)})
            assert whole.history[: rest.history_after] + rest.history == whole.history
            assert rest.history_after in (0, known)
            await store.abandon(rest, count_attempt=False)

    async def test_keeping_a_lease_or_polling_again(self, store: StoreDriver) -> None:
        needs(store, "sticky_lease")

        async def run(instance_id: str, keep_ms: int | None) -> None:
            await store.start(instance_id)
            leased = await store.lease(instance_id)
            await store.commit_turn(leased, 2, keep_lease_ms=keep_ms, **self.changes())
            for events in (1, 3):
                await store.send(instance_id, "more")
                held = [leased.token] if keep_ms else []
                leased = await store.lease(instance_id, held=held)
                await store.commit_turn(leased, events, keep_lease_ms=keep_ms)
            await store.send(instance_id, "last")
            leased = await store.lease(instance_id, held=[leased.token])
            await store.commit_turn(leased, status=ExecutionStatus.COMPLETED, output="out")

        await run(FAST, LEASE_MS)
        await run(PLAIN, None)
        await self.same(store)

    async def test_activities_given_by_a_commit_or_by_a_poll(self, store: StoreDriver) -> None:
        needs(store, "eager_dispatch")
        offer = EagerDispatch(worker=WORKER, limit=9, lease_ms=LEASE_MS, tags=TagSelection())

        async def run(instance_id: str, eager: EagerDispatch | None) -> None:
            await store.start(instance_id)
            scheduled = (activity(instance_id, 2), activity(instance_id, 3))
            turn = store.turn(await store.lease(instance_id), activities=scheduled)
            given = (await store.commit(turn, eager=eager)).activities
            if eager is None:
                assert given == ()
                given = tuple(await store.poll_activities())
            assert [(a.activity_id, a.attempt_count, a.tag) for a in given] == [
                (2, 1, None),
                (3, 1, None),
            ]
            assert {a.expires_at_ms for a in given} == {store.now_ms() + LEASE_MS}
            await store.finish(given[1], "second")
            await store.finish(given[0], "first")
            leased = await store.lease(instance_id)
            assert bodies(leased) == ["second", "first"]
            await store.commit_turn(leased, 2)

        await run(FAST, offer)
        await run(PLAIN, None)
        await self.same(store)

    async def test_results_recorded_by_the_turn_or_by_message(self, store: StoreDriver) -> None:
        needs(store, "fused_completion")

        async def turn_of(instance_id: str) -> LeasedTurn:
            await store.send(instance_id, "wake up")
            return await store.lease(instance_id)

        async def run(instance_id: str, *, fused: bool) -> None:
            await store.schedule(activity(instance_id, 2), activity(instance_id, 3))
            done, other = await store.poll_activities()
            if fused:
                leased = await turn_of(instance_id)
                await store.commit_turn(leased, 2, finished=(done.token,), **self.changes())
            else:
                await store.finish(done, "result")
                leased = await turn_of(instance_id)
                assert bodies(leased) == ["result", "wake up"]
                await store.commit_turn(leased, 2, **self.changes())
            await store.finish(other, "other")
            leased = await store.lease(instance_id)
            assert bodies(leased) == ["other"]
            await store.commit_turn(leased)

        await run(FAST, fused=True)
        await run(PLAIN, fused=False)
        await self.same(store)

    async def test_all_of_it_together_or_nothing_of_it(self, store: StoreDriver) -> None:
        """A chain as a runtime runs it on a store that can everything, and on one that can nothing."""
        for capability in ("sticky_lease", "eager_dispatch", "fused_completion"):
            needs(store, capability)
        offer = EagerDispatch(worker=WORKER, limit=9, lease_ms=LEASE_MS, tags=TagSelection())

        async def fast() -> None:
            await store.start(FAST)
            leased = await store.lease(FAST)
            first = leased.next_event_id
            finished: tuple[ActivityToken, ...] = ()
            for number in range(2, 5):
                turn = store.turn(
                    leased,
                    2,
                    first_event_id=first,
                    consumed=tuple(m.message_id for m in leased.messages) if first == 1 else (),
                    activities=(activity(FAST, number),),
                    finished=finished,
                    keep_lease_ms=LEASE_MS,
                )
                (given,) = (await store.commit(turn, eager=offer)).activities
                first, finished = first + 2, (given.token,)
            await store.commit_turn(
                leased,
                2,
                first_event_id=first,
                consumed=(),
                finished=finished,
                status=ExecutionStatus.COMPLETED,
                output="out",
            )

        async def plain() -> None:
            await store.start(PLAIN)
            for number in range(2, 5):
                await store.commit_turn(
                    await store.lease(PLAIN), 2, activities=(activity(PLAIN, number),)
                )
                await store.finish(await store.lease_activity(), "result")
            await store.commit_turn(
                await store.lease(PLAIN), 2, status=ExecutionStatus.COMPLETED, output="out"
            )

        await fast()
        await plain()
        await self.same(store)
