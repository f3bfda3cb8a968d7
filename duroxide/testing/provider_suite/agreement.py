"""In any order of calls, and as the clock moves, a provider answers like the reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any, cast

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, initialize, multiple, precondition, rule

from duroxide.ids import ActivityToken, TurnToken
from duroxide.providers.base import (
    AbandonActivity,
    AbandonTurn,
    CommitTurn,
    Enqueue,
    FinishActivity,
    HeartbeatStore,
    LeasedActivity,
    LeasedTurn,
    MessageKind,
    Provider,
    SessionOwner,
    TagSelection,
)
from duroxide.state import ExecutionStatus
from duroxide.testing.provider_suite.comparison import in_order, seen, turn_seen
from duroxide.testing.provider_suite.drawing import (
    DELAYS,
    INSTANCES,
    KINDS,
    LEASE_MS,
    OUTCOMES,
    OWNERS,
    RANGES,
    SELECTIONS,
    Outcome,
)
from duroxide.testing.provider_suite.driver import activity, event, message, new_execution
from duroxide.testing.provider_suite.pairs import Pair
from duroxide.testing.provider_suite.people import PeopleAgree
from duroxide.version import VersionRange


class ProvidersAgree(PeopleAgree):
    """Subclass it and say how the provider under test is made; `.TestCase` is the test."""

    turns: Bundle[Pair] = Bundle("turns")
    activities: Bundle[Pair] = Bundle("activities")

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
