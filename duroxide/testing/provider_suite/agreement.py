"""In any order of calls, and as the clock moves, a provider answers like the reference."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, cast

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    multiple,
    precondition,
    rule,
)

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
    HeartbeatStore,
    InstanceFilter,
    InstanceQuery,
    LeasedActivity,
    LeasedTurn,
    MessageKind,
    Provider,
    ProviderAdmin,
    PruneOptions,
    SessionOwner,
    TagSelection,
)
from duroxide.providers.memory import MemoryProvider
from duroxide.state import ExecutionStatus
from duroxide.testing.clocks import ManualClock
from duroxide.testing.provider_suite.comparison import in_order, requeued, seen, turn_seen
from duroxide.testing.provider_suite.drawing import (
    DELAYS,
    INSTANCES,
    KEEPS,
    KINDS,
    LEASE_MS,
    OUTCOMES,
    OWNERS,
    QUERIES,
    RANGES,
    SELECTIONS,
    Outcome,
)
from duroxide.testing.provider_suite.driver import activity, event, message, new_execution
from duroxide.version import VersionRange

Pair: TypeAlias = tuple[Any, Any]
"""The same thing as the reference has it and as the provider under test has it (tokens differ)."""


class ProvidersAgree(RuleBasedStateMachine):
    """Subclass it and say how the provider under test is made; `.TestCase` is the test."""

    turns: Bundle[Pair] = Bundle("turns")
    activities: Bundle[Pair] = Bundle("activities")

    redelivers_in_order = True
    """False for a store that may give activities that come again in another order than the reference:
    then all that can be leased are, and their order is not compared."""

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
        self.uncounted: set[str] = set()
        self.taken: set[int] = set()
        self.written: list[tuple[CommitTurn, CommitTurn]] = []
        self.kept: list[Pair] = []
        self.scheduled: dict[tuple[str, int], list[int]] = {}
        self.lives: dict[str, dict[str, str]] = {}  # by id: the reference's, and the other's names

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
        theirs, ours = seen(expected.activities), seen(answer.activities)
        assert ours == theirs, f"{ours} is not {theirs}"
        return list(zip(expected.activities, answer.activities, strict=True))

    def a_moment(self, *delays_ms: int) -> None:
        """Go on to a time such that nothing else becomes visible at it, nor after these delays.

        Who comes first of those who became visible in one millisecond is up to the store.
        """
        while any(self.clock.now_ms() + delay in self.taken for delay in (0, *delays_ms)):
            self.clock.advance(1)
        self.taken.update(self.clock.now_ms() + delay for delay in (0, *delays_ms))

    # What clients do.

    @rule(instance=INSTANCES)
    def start(self, instance: str) -> None:
        self.a_moment()
        item = Enqueue(message=message(instance, self.body(), kind=MessageKind.START))
        self.commit((item, item))

    @rule(instance=INSTANCES, kind=KINDS, delay_ms=DELAYS)
    def send(self, instance: str, kind: MessageKind, delay_ms: int) -> None:
        self.a_moment(delay_ms)
        visible = self.clock.now_ms() + delay_ms if delay_ms else None
        item = Enqueue(message=message(instance, self.body(), kind=kind, visible_at_ms=visible))
        self.commit((item, item))

    def body(self) -> str:
        self.sent += 1
        return f"m{self.sent}"

    @rule(by_ms=st.sampled_from([1, 499, 500, 999, 1_000, 5_000, -1, -700]))
    def time_passes(self, by_ms: int) -> None:
        self.clock.advance(by_ms)

    # What workers do.

    @rule(target=turns, want=st.integers(1, 3), versions=RANGES)
    def poll_turns(self, want: int, versions: tuple[VersionRange, ...] | None) -> Any:
        return multiple(
            *self.polled(
                lambda provider, _: provider.poll_turns(
                    worker="w", want=want, lease_ms=LEASE_MS, versions=versions
                )
            )
        )

    @precondition(lambda self: self.kept)
    @rule(target=turns, which=st.integers(0, 9))
    def poll_with_a_kept_lease(self, which: int) -> Any:
        pair = self.kept[which % len(self.kept)]
        # Whether a message that was delivered under a kept lease counts, if the lease is then ended
        # without consuming it, is up to the store.
        self.uncounted.add(pair[0].instance_id)
        return multiple(
            *self.polled(
                lambda provider, side: provider.poll_turns(
                    worker="w", want=1, lease_ms=LEASE_MS, held=[pair[side].token]
                )
            )
        )

    def polled(self, ask: Callable[[Provider, int], Coroutine[Any, Any, Any]]) -> list[Pair]:
        expected, answer = self.both(ask)
        seen = [[turn_seen(t, self.uncounted) for t in poll.turns] for poll in (answer, expected)]
        assert seen[0] == seen[1], f"{seen[0]} is not {seen[1]}"
        for theirs, ours in zip(expected.turns, answer.turns, strict=True):
            lives = self.lives.setdefault(ours.instance_id, {})
            known = lives.setdefault(theirs.incarnation, ours.incarnation)
            assert known == ours.incarnation, f"another life of {ours.instance_id} than before"
            assert len(set(lives.values())) == len(lives), f"an earlier life of {ours.instance_id}"
        return list(zip(expected.turns, answer.turns, strict=True))

    def can(self, capability: str) -> bool:
        """Whether both stores declare it; the reference does."""
        return bool(getattr(self.pair[1].capabilities, capability))

    @rule(target=activities, want=st.integers(1, 4), tags=SELECTIONS, sessions=OWNERS)
    def poll_activities(self, want: int, tags: TagSelection, sessions: SessionOwner | None) -> Any:
        return multiple(*self.leased(want, tags, sessions))

    def leased(self, want: int, tags: TagSelection, sessions: SessionOwner | None) -> list[Pair]:
        if not self.redelivers_in_order:
            want, sessions = 99, sessions and dataclasses.replace(sessions, max_new=99)
        expected, answer = self.both(
            lambda provider, _: provider.poll_activities(
                worker="w", want=want, lease_ms=LEASE_MS, tags=tags, sessions=sessions
            )
        )
        order = list if self.redelivers_in_order else in_order
        theirs, ours = order(expected.activities), order(answer.activities)
        assert seen(ours) == seen(theirs), f"{seen(ours)} is not {seen(theirs)}"
        return list(zip(theirs, ours, strict=True))

    @rule(target=activities, pair=consumes(turns), outcome=OUTCOMES)
    def commit_turn(self, pair: Pair, outcome: Outcome) -> Any:
        return multiple(*self.commit_as(pair, outcome))

    @rule(target=activities, outcome=OUTCOMES, versions=RANGES)
    def take_a_turn(self, outcome: Outcome, versions: tuple[VersionRange, ...] | None) -> Any:
        """Lease one and commit it at once, as a runtime does most of the time."""
        return multiple(*self.take(outcome, versions))

    @initialize(target=activities, outcomes=st.lists(OUTCOMES, min_size=3, max_size=3))
    def begin(self, outcomes: list[Outcome]) -> Any:
        """Three instances that have had a turn each."""
        for instance in ("a", "b", "c"):
            self.start(instance)
        first = [dataclasses.replace(o, shift=0, status=ExecutionStatus.RUNNING) for o in outcomes]
        return multiple(*(given for o in first for given in self.take(o)))

    def take(
        self, outcome: Outcome, versions: tuple[VersionRange, ...] | None = None
    ) -> list[Pair]:
        pairs = self.polled(
            lambda provider, _: provider.poll_turns(
                worker="w", want=1, lease_ms=LEASE_MS, versions=versions
            )
        )
        return [given for pair in pairs for given in self.commit_as(pair, outcome)]

    @rule(tags=SELECTIONS, sessions=OWNERS, want=st.integers(1, 3), answers=st.booleans())
    def run_activities(
        self, tags: TagSelection, sessions: SessionOwner | None, want: int, answers: bool
    ) -> None:
        """Lease some and finish them at once."""
        for pair in self.leased(want, tags, sessions):
            self.finish_as(pair, answers)

    def commit_as(self, pair: Pair, outcome: Outcome) -> list[Pair]:
        self.a_moment(700)
        body, due_ms = self.body(), self.clock.now_ms() + 700

        def item(leased: LeasedTurn) -> CommitTurn:
            is_between = leased.status is ExecutionStatus.CONTINUED_AS_NEW
            is_next = is_between and outcome.next_execution
            begins = is_next or leased.name is None
            number = leased.execution_id + is_next
            first = (1 if begins else leased.next_event_id) + outcome.shift
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
                events=tuple(
                    event(first + n) for n in range(max(outcome.events, bool(outcome.scheduled)))
                ),
                consumed=tuple(m.message_id for m in leased.messages),
                new_execution=new_execution(
                    engine_version=outcome.version,
                    parent=outcome.parent if outcome.parent != leased.instance_id else None,
                )
                if begins
                else None,
                status=outcome.status,
                output=None if outcome.status is ExecutionStatus.RUNNING else "out",
                activities=tuple(
                    activity(
                        leased.instance_id, 10 * first + n, execution_id=number, tag=t, session_id=s
                    )
                    for n, t, s in outcome.scheduled
                ),
                cancelled_activities=self.some_scheduled(leased, number, first, outcome),
                messages=(due,) if outcome.timer else (),
                custom_status=outcome.custom,
                key_values=tuple(outcome.changes),
                keep_lease_ms=LEASE_MS if outcome.keeps and self.can("sticky_lease") else None,
                bury=outcome.bury if self.can("dead_letters") else None,
            )

        given = outcome.eager if self.can("eager_dispatch") else 0
        items = item(pair[0]), item(pair[1])
        self.written.append(items)
        if items[0].keep_lease_ms:
            self.kept.append(pair)
        return self.commit(items, given)

    def some_scheduled(
        self, leased: LeasedTurn, execution_id: int, first: int, outcome: Outcome
    ) -> tuple[int, ...]:
        """Activities of this execution that the turn gives up, of this turn or of earlier ones."""
        known = self.scheduled.setdefault((leased.instance_id, execution_id), [])
        known.extend(n for n in (10 * first + n for n, _, _ in outcome.scheduled) if n not in known)
        return tuple(sorted({known[-n] for n in outcome.cancelled if n <= len(known)}))

    @precondition(lambda self: self.written)
    @rule(which=st.integers(0, 9))
    def commit_the_same_turn_again(self, which: int) -> None:
        self.a_moment()
        self.commit(self.written[-1 - which % len(self.written)])

    @precondition(lambda self: self.can("fused_completion"))
    @rule(pair=turns, leased=activities)
    def finish_by_a_turn(self, pair: Pair, leased: Pair) -> None:
        if pair[0].instance_id != leased[0].instance_id or pair[0].name is None:
            return

        def item(side: int) -> CommitTurn:
            turn: LeasedTurn = pair[side]
            return CommitTurn(
                instance_id=turn.instance_id,
                token=turn.token,
                execution_id=turn.execution_id,
                first_event_id=turn.next_event_id,
                events=(event(turn.next_event_id),),
                consumed=tuple(m.message_id for m in turn.messages),
                finished=(leased[side].token,),
            )

        self.commit((item(0), item(1)))

    @precondition(lambda self: self.can("heartbeats"))
    @rule(pair=activities, text=st.sampled_from(["1", "2"]))
    def beat(self, pair: Pair, text: str) -> None:
        self.both(
            lambda provider, side: cast("HeartbeatStore", provider).heartbeat(
                {pair[side].token: text}
            )
        )

    @rule(pair=consumes(turns), delay_ms=DELAYS, counts=st.booleans())
    def abandon_turn(self, pair: Pair, delay_ms: int, counts: bool) -> None:
        self.a_moment(delay_ms)

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
        self.finish_as(pair, answers)

    def finish_as(self, pair: Pair, answers: bool) -> None:
        self.a_moment()
        body = self.body()

        def item(leased: LeasedActivity) -> FinishActivity:
            done = message(leased.instance_id, body, kind=MessageKind.ACTIVITY)
            return FinishActivity(token=leased.token, completion=done if answers else None)

        self.commit((item(pair[0]), item(pair[1])))

    @rule(pair=activities, delay_ms=DELAYS, counts=st.booleans())
    def abandon_activity(self, pair: Pair, delay_ms: int, counts: bool) -> None:
        self.a_moment(delay_ms)

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

    # What people do.

    def manage(self, ask: Callable[[ProviderAdmin], Coroutine[Any, Any, Any]]) -> None:
        """Ask both managements; a store that has none is not asked."""
        if hasattr(self.pair[1], "delete_instances"):
            expected, answer = self.both(lambda provider, _: ask(cast("ProviderAdmin", provider)))
            assert answer == expected, f"{answer} is not {expected}"

    # Few rules for what is asked seldom: the others shall come often enough to build on each other.

    @rule(
        how=st.sampled_from(["some", "ended", "executions"]),
        instances=st.lists(INSTANCES, min_size=1, max_size=3, unique=True),
        force=st.booleans(),
        keep=KEEPS,
        limit=st.sampled_from([None, 1]),
        ago_ms=st.sampled_from([None, 500]),
    )
    def delete(
        self,
        how: str,
        instances: list[str],
        force: bool,
        keep: int | None,
        limit: int | None,
        ago_ms: int | None,
    ) -> None:
        before = None if ago_ms is None else self.clock.now_ms() - ago_ms
        if how == "some":
            self.manage(lambda admin: admin.delete_instances(instances, force=force))
        elif how == "ended":
            which = InstanceFilter(completed_before_ms=before, limit=limit)
            self.manage(lambda admin: admin.delete_instances_by_filter(which))
        else:
            options = PruneOptions(keep_last=keep, completed_before_ms=before)
            self.manage(lambda admin: admin.prune_executions(instances[0], options))

    @rule(how=st.sampled_from(["suspend", "resume", "resume", "requeue"]), instance=INSTANCES)
    def steer(self, how: str, instance: str) -> None:
        match how:
            case "suspend":
                self.manage(lambda admin: admin.suspend_instances([instance]))
            case "resume":
                self.manage(lambda admin: admin.resume_instances([instance]))
            case _ if self.can("dead_letters"):
                expected, answer = self.both(lambda provider, _: requeued(provider, instance))
                assert answer == expected, f"{answer} is not {expected}"

    @rule(instance=INSTANCES, which=QUERIES, limit=st.integers(1, 3), sweeps=st.booleans())
    def inspect(self, instance: str, which: InstanceQuery, limit: int, sweeps: bool) -> None:
        async def pages(admin: ProviderAdmin) -> list[Any]:
            found, cursor = [], None
            while True:
                page = await admin.list_page(which, limit=limit, cursor=cursor)
                found.append(page.instances)
                cursor = page.next_cursor
                if cursor is None:
                    return found

        async def everything(admin: ProviderAdmin) -> Any:
            stats = await admin.instance_stats(instance)
            return (
                await pages(admin),
                tuple(await admin.list_executions(instance)),
                sorted(await admin.list_children(instance)),
                sorted(await admin.instance_tree(instance)),
                await admin.system_metrics(),
                await admin.queue_depths(),
                stats and dataclasses.replace(stats, history_size_bytes=0),  # each counts its own
                await admin.cleanup_sessions(idle_ms=0) if sweeps else None,
            )

        self.manage(everything)

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
