"""In any order of calls, and as the clock moves, a provider answers like the reference."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, multiple, rule

from duroxide.errors import DuroxideError
from duroxide.ids import ActivityToken, TurnToken
from duroxide.providers.base import (
    AbandonActivity,
    AbandonTurn,
    CommitItem,
    CommitResult,
    CommitTurn,
    EagerDispatch,
    Enqueue,
    FinishActivity,
    LeasedActivity,
    LeasedTurn,
    MessageKind,
    Provider,
    SessionOwner,
    TagMode,
    TagSelection,
)
from duroxide.providers.memory import MemoryProvider
from duroxide.state import (
    ClearKeyValue,
    ClearKeyValues,
    ExecutionStatus,
    SetCustomStatus,
    SetKeyValue,
)
from duroxide.testing.clocks import ManualClock
from duroxide.testing.provider_suite.driver import activity, event, message, new_execution

LEASE_MS = 1_000
INSTANCES = st.sampled_from(["a", "b", "c"])
KINDS = st.sampled_from([MessageKind.EVENT, MessageKind.QUEUE, MessageKind.CANCEL])
STATUSES = st.sampled_from(
    [ExecutionStatus.RUNNING] * 4
    + [ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.CONTINUED_AS_NEW]
)
KEYS = st.sampled_from(["k", "l"])
CHANGES = st.lists(
    st.one_of(
        st.builds(
            SetKeyValue, key=KEYS, value=st.text("xyz", max_size=2), updated_at_ms=st.just(1)
        ),
        st.builds(ClearKeyValue, key=KEYS),
        st.just(ClearKeyValues()),
    ),
    max_size=3,
)
TAGS = st.sampled_from([None, None, "gpu"])
SESSIONS = st.sampled_from([None, None, "s", "t"])
SELECTIONS = st.sampled_from(
    [
        TagSelection(),
        TagSelection(TagMode.ANY),
        TagSelection(TagMode.TAGS, frozenset({"gpu"})),
        TagSelection(TagMode.DEFAULT_AND, frozenset({"gpu"})),
    ]
)
OWNERS = st.sampled_from(
    [
        None,
        SessionOwner(owner="ann", lease_ms=1_500, max_new=1),
        SessionOwner(owner="bob", lease_ms=1_500, max_new=9),
    ]
)
DELAYS = st.sampled_from([0, 0, 500])

Pair: TypeAlias = tuple[Any, Any]
"""The same thing as the reference has it and as the provider under test has it (tokens differ)."""


class ProvidersAgree(RuleBasedStateMachine):
    """Subclass it and say how the provider under test is made; `.TestCase` is the test."""

    turns: Bundle[Pair] = Bundle("turns")
    activities: Bundle[Pair] = Bundle("activities")

    async def new_provider(self, clock: ManualClock) -> Provider:
        """A fresh, empty, started store that judges time by `clock`."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.runner = ManualClock(), asyncio.Runner()
        self.pair = (
            MemoryProvider(self.clock),
            self.runner.run(self.new_provider(self.clock)),
        )
        self.sent = 0

    def teardown(self) -> None:
        self.runner.run(self.pair[1].close())
        self.runner.close()

    def both(self, ask: Callable[[Provider, int], Coroutine[Any, Any, Any]]) -> Pair:
        """Ask both; an error counts as its type."""

        async def outcome(provider: Provider, side: int) -> Any:
            try:
                return await ask(provider, side)
            except DuroxideError as error:
                return type(error)

        expected, answer = (self.runner.run(outcome(p, n)) for n, p in enumerate(self.pair))
        return expected, answer

    def commit(self, items: tuple[CommitItem, CommitItem], eager: int = 0) -> list[Pair]:
        """Commit on both sides, compare, and return the pairs of activities given."""
        offer = EagerDispatch(worker="w", limit=eager, lease_ms=LEASE_MS) if eager else None

        async def ask(provider: Provider, side: int) -> CommitResult:
            (result,) = await provider.commit([items[side]], eager=offer)
            return result

        expected, answer = self.both(ask)
        assert answer.code == expected.code, (items[0], answer, expected)
        assert seen(answer.activities) == seen(expected.activities)
        return list(zip(expected.activities, answer.activities, strict=True))

    # What clients do.

    @rule(instance=INSTANCES)
    def start(self, instance: str) -> None:
        item = Enqueue(message=message(instance, self.body(), kind=MessageKind.START))
        self.commit((item, item))

    @rule(instance=INSTANCES, kind=KINDS, delay_ms=DELAYS)
    def send(self, instance: str, kind: MessageKind, delay_ms: int) -> None:
        visible = self.clock.now_ms() + delay_ms if delay_ms else None
        item = Enqueue(message=message(instance, self.body(), kind=kind, visible_at_ms=visible))
        self.commit((item, item))

    def body(self) -> str:
        self.sent += 1
        return f"m{self.sent}"

    @rule(by_ms=st.sampled_from([1, 499, 500, 999, 1_000, 5_000]))
    def time_passes(self, by_ms: int) -> None:
        self.clock.advance(by_ms)

    # What workers do.

    @rule(target=turns, want=st.integers(1, 3))
    def poll_turns(self, want: int) -> Any:
        expected, answer = self.both(
            lambda provider, _: provider.poll_turns(worker="w", want=want, lease_ms=LEASE_MS)
        )
        assert [turn_seen(t) for t in answer.turns] == [turn_seen(t) for t in expected.turns]
        return multiple(*zip(expected.turns, answer.turns, strict=True))

    @rule(target=activities, want=st.integers(1, 4), tags=SELECTIONS, sessions=OWNERS)
    def poll_activities(self, want: int, tags: TagSelection, sessions: SessionOwner | None) -> Any:
        expected, answer = self.both(
            lambda provider, _: provider.poll_activities(
                worker="w", want=want, lease_ms=LEASE_MS, tags=tags, sessions=sessions
            )
        )
        assert seen(answer.activities) == seen(expected.activities)
        return multiple(*zip(expected.activities, answer.activities, strict=True))

    @rule(
        target=activities,
        pair=turns,
        events=st.integers(0, 3),
        status=STATUSES,
        changes=CHANGES,
        custom=st.sampled_from(
            [None, None, SetCustomStatus(status="s"), SetCustomStatus(status=None)]
        ),
        scheduled=st.lists(st.tuples(st.integers(1, 6), TAGS, SESSIONS), max_size=3),
        cancelled=st.lists(st.integers(1, 6), max_size=2),
        timer=st.booleans(),
        keeps=st.booleans(),
        next_execution=st.booleans(),
        shift=st.sampled_from([0, 0, 0, 0, 1]),
        eager=st.integers(0, 2),
    )
    def commit_turn(
        self,
        pair: Pair,
        events: int,
        status: ExecutionStatus,
        changes: list[Any],
        custom: SetCustomStatus | None,
        scheduled: list[tuple[int, str | None, str | None]],
        cancelled: list[int],
        timer: bool,
        keeps: bool,
        next_execution: bool,
        shift: int,
        eager: int,
    ) -> Any:
        body, due_ms = self.body(), self.clock.now_ms() + 700

        def item(leased: LeasedTurn) -> CommitTurn:
            begins = next_execution or leased.name is None
            number = leased.execution_id + (leased.name is not None and next_execution)
            first = (1 if begins else leased.next_event_id) + shift
            due = message(
                leased.instance_id,
                body,
                kind=MessageKind.TIMER,
                visible_at_ms=due_ms,
                timer=(number, first),
            )
            return CommitTurn(
                instance_id=leased.instance_id,
                token=leased.token,
                execution_id=number,
                first_event_id=first,
                events=tuple(event(first + n) for n in range(events)),
                consumed=tuple(m.message_id for m in leased.messages),
                new_execution=new_execution() if begins else None,
                status=status,
                output=None if status is ExecutionStatus.RUNNING else "out",
                activities=tuple(
                    activity(leased.instance_id, n, execution_id=number, tag=t, session_id=s)
                    for n, t, s in scheduled
                ),
                cancelled_activities=tuple(cancelled),
                messages=(due,) if timer else (),
                custom_status=custom,
                key_values=tuple(changes),
                keep_lease_ms=LEASE_MS if keeps else None,
            )

        return multiple(*self.commit((item(pair[0]), item(pair[1])), eager))

    @rule(pair=consumes(turns), delay_ms=DELAYS, counts=st.booleans())
    def abandon_turn(self, pair: Pair, delay_ms: int, counts: bool) -> None:
        def item(leased: LeasedTurn) -> AbandonTurn:
            return AbandonTurn(
                instance_id=leased.instance_id,
                token=leased.token,
                delay_ms=delay_ms,
                count_attempt=counts,
            )

        self.commit((item(pair[0]), item(pair[1])))

    @rule(pair=activities, answers=st.booleans())
    def finish(self, pair: Pair, answers: bool) -> None:
        body = self.body()

        def item(leased: LeasedActivity) -> FinishActivity:
            done = message(leased.instance_id, body, kind=MessageKind.ACTIVITY)
            return FinishActivity(token=leased.token, completion=done if answers else None)

        self.commit((item(pair[0]), item(pair[1])))

    @rule(pair=activities, delay_ms=DELAYS, counts=st.booleans())
    def abandon_activity(self, pair: Pair, delay_ms: int, counts: bool) -> None:
        def item(leased: LeasedActivity) -> AbandonActivity:
            return AbandonActivity(token=leased.token, delay_ms=delay_ms, count_attempt=counts)

        self.commit((item(pair[0]), item(pair[1])))

    @rule(turn=turns, leased=activities)
    def renew(self, turn: Pair, leased: Pair) -> None:
        async def ask(provider: Provider, side: int) -> tuple[bool, bool]:
            turns: list[TurnToken] = [turn[side].token]
            tokens: list[ActivityToken] = [leased[side].token]
            answer = await provider.renew(
                turns=turns,
                turn_lease_ms=LEASE_MS,
                activities=tokens,
                activity_lease_ms=LEASE_MS,
            )
            return bool(answer.lost_turns), bool(answer.lost_activities)

        expected, answer = self.both(ask)
        assert answer == expected

    @rule(owner=st.sampled_from(["ann", "bob"]), idle_ms=st.sampled_from([500, 5_000]))
    def renew_sessions(self, owner: str, idle_ms: int) -> None:
        expected, answer = self.both(
            lambda provider, _: provider.renew_sessions(
                owner=owner, lease_ms=1_500, idle_ms=idle_ms
            )
        )
        assert answer == expected

    # Looking.

    @rule(instance=INSTANCES)
    def look(self, instance: str) -> None:
        async def ask(provider: Provider, _: int) -> Any:
            return (
                await provider.read_status([instance]),
                [tuple(await provider.read_history(instance, n)) for n in (None, 1, 2)],
                await provider.read_key_values(instance),
            )

        (state, history, values), (state2, history2, values2) = self.both(ask)
        assert dict(state2) == dict(state)
        assert history2 == history
        assert {k: v.value for k, v in values2.items()} == {k: v.value for k, v in values.items()}


def turn_seen(leased: LeasedTurn) -> Any:
    """All but tokens and ids, which are each store's own."""
    values = {key: value.value for key, value in leased.key_values.items()}
    bodies = tuple((m.kind, m.body) for m in leased.messages)
    plain = dataclasses.replace(
        leased, token=TurnToken(""), messages=(), key_values={}, incarnation=""
    )
    return plain, bodies, values


def seen(leased: Any) -> list[LeasedActivity]:
    return [dataclasses.replace(item, token=ActivityToken("")) for item in leased]
