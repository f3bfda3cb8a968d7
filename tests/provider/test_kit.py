"""The contract suite itself: each group finds a provider that breaks what the group promises."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from duroxide.providers.base import (
    ActivityPoll,
    CommitCode,
    CommitResult,
    CommitTurn,
    EagerDispatch,
    Message,
    Provider,
    PruneOptions,
    TagSelection,
)
from duroxide.providers.eager import EagerChoice
from duroxide.providers.memory import MemoryProvider
from duroxide.providers.memory_store import MemoryStore
from duroxide.testing import provider_suite as kit
from duroxide.testing.clocks import ManualClock
from duroxide.testing.provider_suite import catalogue
from duroxide.testing.provider_suite.driver import StoreDriver
from tests.provider.damage import DamagedMemory


class Broken(MemoryProvider):
    """A reference store whose rules are replaced by those of `store_class`."""

    store_class: type[MemoryStore] = MemoryStore

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        tokens = itertools.count(1)
        self._store = self.store_class(lambda: f"token-{next(tokens)}")


def broken(name: str, **methods: Any) -> type[Broken]:
    store = type(f"{name}Store", (MemoryStore,), methods)
    return type(name, (Broken,), {"store_class": store})


def writes_in_two_steps(self: MemoryStore, turn: CommitTurn, now_ms: int, eager: Any) -> Any:
    for message in turn.messages:
        self._enqueue(message, now_ms)
    item = dataclasses.replace(turn, messages=())
    return MemoryStore._commit_turn(self, item, now_ms, eager)


def forgets_attempts(self: MemoryStore, item: Any, now_ms: int) -> CommitResult:
    return MemoryStore._abandon_turn(self, dataclasses.replace(item, count_attempt=False), now_ms)


def never_recognises(self: MemoryStore, turn: CommitTurn, now_ms: int, eager: Any) -> CommitResult:
    result = MemoryStore._commit_turn(self, turn, now_ms, eager)
    if result.code is CommitCode.REPEATED:
        return CommitResult(code=CommitCode.HISTORY_CONFLICT)
    return result


def ignores_cancellations(
    self: MemoryStore, turn: CommitTurn, now_ms: int, eager: Any
) -> CommitResult:
    item = dataclasses.replace(turn, cancelled_activities=())
    return MemoryStore._commit_turn(self, item, now_ms, eager)


def creates_on_enqueue(self: MemoryStore, message: Message, now_ms: int) -> None:
    from duroxide.providers.memory_tables import Execution, Instance
    from duroxide.version import ENGINE_VERSION

    MemoryStore._enqueue(self, message, now_ms)
    instance = Instance(message.instance_id, "?", "0.0.0", now_ms, now_ms)
    instance.executions[1] = Execution(1, ENGINE_VERSION, now_ms)
    self.instances.setdefault(message.instance_id, instance)


def loses_custom_status(
    self: MemoryStore, turn: CommitTurn, now_ms: int, eager: Any
) -> CommitResult:
    item = dataclasses.replace(turn, custom_status=None)
    return MemoryStore._commit_turn(self, item, now_ms, eager)


def merges_too_early(self: MemoryStore, instance: Any, turn: CommitTurn, now_ms: int) -> None:
    MemoryStore._write_state(self, instance, turn, now_ms)
    instance.key_values = instance.live_key_values()


def restarts_terminal(self: MemoryStore, instance: Any, turn: CommitTurn, now_ms: int) -> None:
    MemoryStore._write_state(self, instance, turn, now_ms)
    instance.executions.pop(turn.execution_id - 1, None)


def never_expires(self: MemoryStore, instance_id: str, now_ms: int) -> bool:
    return instance_id in self.leases


def all_versions(self: MemoryStore, now_ms: int, versions: Any) -> list[str]:
    return MemoryStore._candidates(self, now_ms, None)


def newest_first(self: MemoryStore, now_ms: int, versions: Any) -> list[str]:
    return MemoryStore._candidates(self, now_ms, versions)[::-1]


def everything_visible(self: MemoryStore, instance_id: str, now_ms: int) -> Any:
    return list(self.messages.get(instance_id, {}).values())


def any_tag(self: MemoryStore, now_ms: int, **question: Any) -> Any:
    from duroxide.providers.base import TagMode

    question["tags"] = TagSelection(TagMode.ANY)
    return MemoryStore.lease_activities(self, now_ms, **question)


def any_session(self: MemoryStore, now_ms: int, **question: Any) -> Any:
    self.sessions.clear()
    return MemoryStore.lease_activities(self, now_ms, **question)


def two_holders(self: MemoryStore, instance_id: str, now_ms: int) -> bool:
    return False


def releases_kept(self: MemoryStore, turn: CommitTurn, now_ms: int, eager: Any) -> CommitResult:
    item = dataclasses.replace(turn, keep_lease_ms=None)
    return MemoryStore._commit_turn(self, item, now_ms, eager)


def gives_too_many(self: MemoryStore, added: Any, now_ms: int, eager: Any) -> Any:
    if eager is None:
        return ()
    generous = EagerChoice(dataclasses.replace(eager.offer, limit=99))
    return MemoryStore._dispatch(self, added, now_ms, generous)


def forgets_the_finished(
    self: MemoryStore, turn: CommitTurn, now_ms: int, eager: Any
) -> CommitResult:
    item = dataclasses.replace(turn, finished=())
    return MemoryStore._commit_turn(self, item, now_ms, eager)


class DeafPolls(Broken):
    async def poll_activities(self, **question: Any) -> ActivityPoll:
        return await super().poll_activities(**{**question, "wait_ms": 0})


class StaleCursors(Broken):
    async def poll_turns(self, **question: Any) -> Any:
        answer = await super().poll_turns(**question)
        turns = tuple(dataclasses.replace(turn, history_after=1) for turn in answer.turns)
        return dataclasses.replace(answer, turns=turns)


class HearsEverybody(Broken):
    async def heartbeat(self, beats: Any) -> None:
        for queued in self._store.activities.values():
            queued.heartbeat = next(iter(beats.values()))


class DeletesAnything(Broken):
    def _check_deletable(self, instance_id: str, doomed: Any, force: bool) -> None:
        super()._check_deletable(instance_id, doomed | frozenset(self._store.instances), True)


class PrunesTooMuch(Broken):
    async def prune_executions(self, instance_id: str, options: PruneOptions) -> Any:
        return await super().prune_executions(instance_id, PruneOptions())


class DeletesRunning(Broken):
    def _tree_has_ended(self, instance: Any) -> bool:
        return True


class CountsNothing(Broken):
    async def queue_depths(self) -> Any:
        return dataclasses.replace(await super().queue_depths(), orchestrator_queue=0)


class PagesByAgeAlone(Broken):
    async def list_page(self, which: Any, *, limit: int, cursor: str | None = None) -> Any:
        if cursor is not None:
            cursor = cursor.partition(":")[0] + ":"
        return await super().list_page(which, limit=limit, cursor=cursor)


class ReversedResults(Broken):
    async def commit(self, batch: Any, *, eager: EagerDispatch | None = None) -> list[CommitResult]:
        results = list(await super().commit(batch, eager=eager))
        return results[::-1]


class SendsAtOnce(Broken):
    """As if the transaction of a caller were of no importance."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self._capabilities = dataclasses.replace(self._capabilities, caller_transaction=True)

    def send_within(self, connection: Any, messages: Sequence[Message]) -> None:
        for message in messages:
            self._store._enqueue(message, self._clock.now_ms())

    async def send_within_async(self, connection: Any, messages: Sequence[Message]) -> None:
        self.send_within(connection, messages)


class HidesCorruption(Broken):
    async def poll_turns(self, **question: Any) -> Any:
        answer = await super().poll_turns(**question)
        turns = tuple(
            dataclasses.replace(turn, history=tuple(t for t in turn.history if t.endswith("}")))
            for turn in answer.turns
        )
        return dataclasses.replace(answer, turns=turns)


def leases_after_looking(self: MemoryStore, now_ms: int, **question: Any) -> Any:
    """Looks at what is due before it waits, and gives all of it afterwards."""
    return MemoryStore.lease_turns(self, now_ms, **{**question, "want": 1})


def loses_custom_status_of_kept(
    self: MemoryStore, turn: CommitTurn, now_ms: int, eager: Any
) -> CommitResult:
    item = turn if turn.keep_lease_ms is None else dataclasses.replace(turn, custom_status=None)
    return MemoryStore._commit_turn(self, item, now_ms, eager)


def buries_nothing(self: MemoryStore, turn: CommitTurn, reason: str, now_ms: int) -> None:
    pass


def always_the_same_life(self: MemoryStore, turn: CommitTurn, now_ms: int) -> Any:
    instance = MemoryStore._begin(self, turn, now_ms)
    instance.incarnation = "same"
    return instance


def forgets_suspensions(self: MemoryStore, instance_id: str) -> bool:
    return False


BROKEN: Mapping[str, type[Broken]] = {
    "AtomicitySuite": broken("TwoSteps", _commit_turn=writes_in_two_steps),
    "AttemptSuite": broken("ForgetsAttempts", _abandon_turn=forgets_attempts),
    "BatchSuite": ReversedResults,
    "BulkDeletionSuite": DeletesRunning,
    "CallerTransactionSuite": SendsAtOnce,
    "CancellationSuite": broken("IgnoresCancellations", _commit_turn=ignores_cancellations),
    "CorruptionSuite": HidesCorruption,
    "CreationSuite": broken("CreatesOnEnqueue", _enqueue=creates_on_enqueue),
    "CustomStatusSuite": broken("LosesCustomStatus", _commit_turn=loses_custom_status),
    "DeadLetterSuite": broken("BuriesNothing", _bury=buries_nothing),
    "DeletionSuite": DeletesAnything,
    "EagerDispatchSuite": broken("GivesTooMany", _dispatch=gives_too_many),
    "EquivalenceSuite": broken("SloppyShortCut", _commit_turn=loses_custom_status_of_kept),
    "ExecutionSuite": broken("DropsExecutions", _write_state=restarts_terminal),
    "FusedCompletionSuite": broken("ForgetsFinished", _commit_turn=forgets_the_finished),
    "HeartbeatSuite": HearsEverybody,
    "HistorySuffixSuite": StaleCursors,
    "IncarnationSuite": broken("SameLife", _begin=always_the_same_life),
    "KeyValueSuite": broken("MergesTooEarly", _write_state=merges_too_early),
    "LeaseSuite": broken("NeverExpires", is_turn_leased=never_expires),
    "LockingSuite": broken("TwoHolders", is_turn_leased=two_holders),
    "ManagementSuite": CountsNothing,
    "PagesSuite": PagesByAgeAlone,
    "PollingSuite": DeafPolls,
    "PruneSuite": PrunesTooMuch,
    "QueueSuite": broken("EverythingVisible", _visible=everything_visible),
    "RaceSuite": broken("OneAtATime", lease_turns=leases_after_looking),
    "SessionSuite": broken("AnySession", lease_activities=any_session),
    "StickyLeaseSuite": broken("ReleasesKept", _commit_turn=releases_kept),
    "SuspensionSuite": broken("ForgetsSuspensions", is_suspended=forgets_suspensions),
    "TagSuite": broken("AnyTag", lease_activities=any_tag),
    "VersionSuite": broken("AllVersions", _candidates=all_versions),
}


class Damaged(DamagedMemory):
    """What the groups are run with."""

    async def new_provider(self, clock: ManualClock) -> Provider:
        raise NotImplementedError

    @asynccontextmanager
    async def caller_transaction(
        self, provider: Provider, *, is_async: bool, begins: bool = True
    ) -> AsyncIterator[object]:
        yield object()


async def failing_checks(group: type[kit.SuiteBase], provider: type[MemoryProvider]) -> list[str]:
    """Which checks of a group a provider fails; those that it need not pass are left out."""
    failed = []
    suite = type(group.__name__, (Damaged, group), {})
    for name, check in inspect.getmembers(suite, inspect.iscoroutinefunction):
        if not name.startswith("test_"):
            continue
        for case in cases(check):
            clock = ManualClock()
            try:
                async with asyncio.timeout(0.5):
                    await check(suite(), StoreDriver(provider(clock), clock), **case)
            except pytest.skip.Exception:
                continue
            except (Exception, pytest.fail.Exception):
                failed.append(name)
    return failed


def cases(check: Any) -> list[dict[str, Any]]:
    """The arguments of a check that is run several times."""
    marks = [m for m in getattr(check, "pytestmark", ()) if m.name == "parametrize"]
    if not marks:
        return [{}]
    (mark,) = marks
    return [{mark.args[0]: value} for value in mark.args[1]]


def test_there_is_a_broken_provider_for_each_group() -> None:
    groups = {base.__name__ for base in kit.ProviderSuite.__bases__}
    assert set(BROKEN) == groups


@pytest.mark.parametrize("name", sorted(BROKEN))
async def test_a_group_finds_what_it_is_there_for(name: str) -> None:
    group = getattr(kit, name)
    assert await failing_checks(group, MemoryProvider) == []
    assert await failing_checks(group, BROKEN[name]) != []


# The catalogue.


def test_every_check_of_the_catalogue_is_a_test() -> None:
    confirmed = catalogue.confirmed_by(kit.ProviderSuite)
    assert [check for check, tests in confirmed.items() if not tests] == []
    assert sum(len(group) for group in catalogue.GROUPS.values()) == 213
    assert len(catalogue.GROUPS) == 19
    assert len(set(catalogue.names())) == 213 + len(catalogue.ADDITIONAL)


def test_a_check_that_is_not_in_the_catalogue_can_not_be_confirmed() -> None:
    with pytest.raises(ValueError, match="test_unheard_of"):
        catalogue.confirms("test_unheard_of")


# A provider that fails some check of each section; most are the broken ones of a group.
BROKEN_BY_SECTION: Mapping[str, str] = {
    "6.1 atomicity": "AtomicitySuite",
    "6.2 errors": "CreationSuite",
    "6.3 instance locking": "LockingSuite",
    "6.4 lease expiry and renewal": "LeaseSuite",
    "6.5 executions": "ExecutionSuite",
    "6.6 queues": "QueueSuite",
    "6.7 creation": "CreationSuite",
    "6.8 management": "ManagementSuite",
    "6.9 polling": "PollingSuite",
    "6.10 attempt counting": "AttemptSuite",
    "6.11 cancellation": "CancellationSuite",
    "6.12 deletion": "DeletionSuite",
    "6.13 pruning": "PruneSuite",
    "6.14 bulk deletion": "BulkDeletionSuite",
    "6.15 engine versions and unreadable history": "VersionSuite",
    "6.16 sessions": "SessionSuite",
    "6.17 custom status": "CustomStatusSuite",
    "6.18 tags": "TagSuite",
    "6.19 key-values": "KeyValueSuite",
}


def test_there_is_a_broken_provider_for_each_section() -> None:
    assert set(BROKEN_BY_SECTION) == set(catalogue.GROUPS)


@pytest.mark.parametrize("section", BROKEN_BY_SECTION)
async def test_a_section_of_the_catalogue_finds_what_it_is_there_for(section: str) -> None:
    confirmed = catalogue.confirmed_by(kit.ProviderSuite)
    tests = {test for check in catalogue.GROUPS[section] for test in confirmed[check]}
    groups = [base for base in kit.ProviderSuite.__bases__ if tests & set(vars(base))]
    provider = BROKEN[BROKEN_BY_SECTION[section]]
    failed = [name for group in groups for name in await failing_checks(group, provider)]
    assert tests & set(failed)


# What a group must not miss.


def test_a_repeated_turn_must_be_recognised() -> None:
    provider = broken("NeverRecognises", _commit_turn=never_recognises)
    failed = asyncio.run(failing_checks(kit.BatchSuite, provider))
    assert "test_a_turn_that_is_sent_again_was_applied_once" in failed


def test_order_must_be_kept() -> None:
    provider = broken("NewestFirst", _candidates=newest_first)
    failed = asyncio.run(failing_checks(kit.QueueSuite, provider))
    assert "test_instances_are_taken_by_their_oldest_message" in failed
