"""Laws of replay: what was recorded is done again, and anything else is noticed.

The numbers are those of the list of properties in docs/reference/replay.md.
"""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from duroxide import history, work
from duroxide.engine.run import Run
from duroxide.errors import NonDeterminismError
from duroxide.failures import activity_failure
from duroxide.history import Event
from duroxide.state import ExecutionStatus
from duroxide.testing.replay import assert_replays
from tests.property.engine.interpret import GENERATOR, NATIVE, Probe, definition
from tests.property.engine.play import (
    COMPLETIONS,
    Play,
    Recording,
    ended_by_code,
    inbound_of,
    play,
    start_info,
    timeless,
)
from tests.property.engine.programs import (
    COMMANDS,
    Body,
    Call,
    ContinueAsNew,
    Fail,
    KeyPrune,
    Patch,
    Program,
    SpawnCancel,
    Timed,
    programs,
    relabel,
    sequences,
    statements,
    swap,
)

SEEDS = st.integers(0, 2**32)


def code_of(played: Play, recording: Recording) -> Any:
    found = played.registry.orchestration(recording.name)
    assert found is not None
    return found


def rerun(played: Play, recording: Recording, probe: Probe | None = None) -> Run:
    """The recorded execution from its very beginning, fed with what came from outside."""
    return Run.start(
        code_of(played, recording),
        start_info(recording.events),
        now_ms=recording.events[0].timestamp_ms,
        key_values=recording.key_values,
        prepared=probe or Probe(),
    )


# 1. Prefix.


@given(programs(), SEEDS)
def test_from_any_point_of_a_history_the_rest_of_the_inbound_events_gives_the_rest_of_it(
    program: Program, seed: int
) -> None:
    played = play(program, seed)
    rng = random.Random(seed)
    for recording in played.recordings:
        events = recording.events
        boundaries = [i for i, e in enumerate(events) if i and _is_inbound(e)]
        for cut in rng.sample(boundaries, min(3, len(boundaries))):
            if _ended_before(events, cut):
                continue
            run = Run.replay(
                code_of(played, recording),
                events[:cut],
                key_values=recording.key_values,
                prepared=Probe(),
            )
            rest: list[Event] = []
            for now_ms, message in inbound_of(events[cut:]):
                rest += run.apply([message], now_ms).events
            run.park()
            assert rest == events[cut:]


def _is_inbound(event: Event) -> bool:
    return bool(inbound_of([event]))


def _ended_before(events: list[Event], cut: int) -> bool:
    return isinstance(events[cut - 1].kind, history.Terminal)


# 3. Batching.


@given(programs(), SEEDS)
def test_how_messages_are_batched_into_turns_does_not_show_in_history(
    program: Program, seed: int
) -> None:
    # Pruning by age looks at the clock, which a different batching moves.
    assume(not any(isinstance(s, KeyPrune) for s in statements(program)))
    played = play(program, seed)
    rng = random.Random(seed)
    for recording in played.recordings:
        expected = [timeless(e) for e in recording.events]
        messages = [m for _, m in inbound_of(recording.events)]
        run = rerun(played, recording)
        events: list[Event] = []
        while messages:
            size = rng.randint(1, len(messages))
            events += run.apply(messages[:size], recording.events[-1].timestamp_ms).events
            del messages[:size]
        events += run.apply((), recording.events[-1].timestamp_ms).events
        run.park()
        assert [timeless(e) for e in events] == expected


# 5 and 6. Idempotent replay; live equals replay.


@given(programs(), SEEDS)
def test_replaying_a_complete_history_emits_nothing_and_ends_as_recorded(
    program: Program, seed: int
) -> None:
    played = play(program, seed)
    for name, executions in played.histories().items():
        for number, events in enumerate(executions, 1):
            recording = next(
                r
                for r in played.recordings
                if (r.events[0].instance_id, r.events[0].execution_id) == (name, number)
            )
            run = Run.replay(
                code_of(played, recording),
                events,
                key_values=recording.key_values,
                prepared=Probe(),
            )
            assert run.status is _recorded_status(events)
            result = run.apply((), events[-1].timestamp_ms + 5)
            run.park()
            assert (result.events, result.activities, result.messages) == ((), (), ())


def _recorded_status(events: list[Event]) -> ExecutionStatus:
    match events[-1].kind:
        case history.OrchestrationCompleted():
            return ExecutionStatus.COMPLETED
        case history.OrchestrationFailed():
            return ExecutionStatus.FAILED
        case history.OrchestrationContinuedAsNew():
            return ExecutionStatus.CONTINUED_AS_NEW
        case _:
            return ExecutionStatus.RUNNING


@given(programs(), SEEDS)
def test_code_sees_the_same_values_in_its_first_run_and_in_every_replay(
    program: Program, seed: int
) -> None:
    played = play(program, seed)
    for recording in played.recordings:
        live, again = Probe(), Probe()
        run = rerun(played, recording, live)
        for now_ms, message in inbound_of(recording.events):
            run.apply([message], now_ms)
        run.park()
        assert_replays(
            recording.events,
            code_of(played, recording),
            key_values=recording.key_values,
            prepared=again,
        )
        assert live.trace == again.trace
        assert live.trace[: len(recording.trace)] == recording.trace


# 7. Mutation.


@given(programs(), SEEDS, st.sampled_from(("alter", "skip", "repeat")), st.integers(0, 200))
def test_a_command_altered_left_out_or_added_is_noticed(
    program: Program, seed: int, how: str, choice: int
) -> None:
    played = play(program, seed)
    recording = next(r for r in played.recordings if r.name == "root")
    assume(ended_by_code(recording.events))
    done = _emitted_labels(recording.events)
    assume(bool(done))
    label = done[choice % len(done)]
    probe = Probe()
    setattr(probe, how, label)
    with pytest.raises(NonDeterminismError):
        assert_replays(
            recording.events,
            code_of(played, recording),
            key_values=recording.key_values,
            prepared=probe,
        )


def _emitted_labels(events: list[Event]) -> list[str]:
    """Labels of the statements that certainly emitted a command: their label is in it."""
    found = []
    for event in events:
        match event.kind:
            case history.ActivityScheduled(input=text):
                found.append(text.strip('"'))
            case history.CustomStatusUpdated(status=str(status)):
                found.append(status)
            case history.KeyValueSet(value=value):
                found.append(value.rpartition("+")[2])
            case history.OrchestrationChained(instance=instance):
                found.append(instance.rpartition("/")[2])
            case _:
                pass
    return [label for label in found if _is_simple(label)]


def _is_simple(label: str) -> bool:
    return label.startswith("r.")


@given(programs(), SEEDS, st.integers(0, 200))
def test_two_commands_exchanged_are_noticed(program: Program, seed: int, choice: int) -> None:
    neighbours = [
        (a.label, b.label)
        for body in sequences(program.root)
        for a, b in pairwise(body)
        if isinstance(a, COMMANDS) and isinstance(b, COMMANDS)
    ]
    assume(bool(neighbours))  # before the play, which costs most
    played = play(program, seed)
    recording = next(r for r in played.recordings if r.name == "root")
    assume(ended_by_code(recording.events))
    done = set(_emitted_labels(recording.events))
    pairs = [pair for pair in neighbours if done.issuperset(pair)]
    assume(bool(pairs))
    first, second = pairs[choice % len(pairs)]
    mutant = definition("root", swap(program.root, first, second), NATIVE)
    with pytest.raises(NonDeterminismError):
        assert_replays(recording.events, mutant, key_values=recording.key_values, prepared=Probe())


# 8. Truncation.


@given(programs(), SEEDS, st.integers(0, 200), st.booleans())
def test_code_that_ends_before_its_history_does_is_noticed(
    program: Program, seed: int, keep: int, raises: bool
) -> None:
    played = play(program, seed)
    recording = next(r for r in played.recordings if r.name == "root")
    assume(ended_by_code(recording.events))
    shorter = program.root[: keep % len(program.root)]
    removed = [
        s for s in program.root[len(shorter) :] if s.label in _emitted_labels(recording.events)
    ]
    assume(bool(removed))
    end: Body = (Fail("raises"),) if raises else ()
    with pytest.raises(NonDeterminismError):
        assert_replays(
            recording.events,
            definition("root", (*shorter, *end), NATIVE),
            key_values=recording.key_values,
            prepared=Probe(),
        )


# 9. Noise.


@given(programs(), SEEDS)
def test_late_repeated_unknown_and_misdirected_completions_change_nothing(
    program: Program, seed: int
) -> None:
    played = play(program, seed)
    rng = random.Random(seed)
    for recording in played.recordings:
        run = rerun(played, recording)
        events = list(run.apply((), recording.events[0].timestamp_ms).events)
        past: list[work.Inbound] = []
        for now_ms, message in inbound_of(recording.events):
            noise = [_noise(rng, message, past) for _ in range(rng.randint(0, 2))]
            result = run.apply([*noise, message, *noise], now_ms)
            events += result.events
            past.append(message)
            assert len(result.ignored) + result.unapplied >= 2 * len(noise)
        run.park()
        assert events == recording.events


def _noise(rng: random.Random, message: work.Inbound, past: list[work.Inbound]) -> work.Inbound:
    """A completion that answers nothing that is open."""
    first = start_of(message)
    repeats = [m for m in past if isinstance(m, COMPLETIONS)]
    if repeats and rng.random() < 0.5:
        repeated = rng.choice(repeats)
        return _opposite(repeated) if rng.random() < 0.3 else repeated
    unknown = rng.choice((0, 1, 10_000))
    strays: list[work.Inbound] = [
        work.ActivityCompletion(instance=first, execution_id=1, id=unknown, result="1"),
        work.ActivityFailure(
            instance=first, execution_id=99, id=2, details=activity_failure("late")
        ),
        work.TimerDue(instance=first, execution_id=1, id=unknown, fire_at_ms=0),
        work.ChildCompleted(parent_instance=first, parent_execution_id=99, parent_id=2, result="1"),
    ]
    return rng.choice(strays)


def _opposite(message: work.Inbound) -> work.Inbound:
    """The other outcome of what was answered."""
    match message:
        case work.ActivityCompletion():
            return work.ActivityFailure(
                instance=message.instance,
                execution_id=message.execution_id,
                id=message.id,
                details=activity_failure("after all"),
            )
        case work.ActivityFailure():
            return work.ActivityCompletion(
                instance=message.instance,
                execution_id=message.execution_id,
                id=message.id,
                result="1",
            )
        case work.ChildFailed():
            return work.ChildCompleted(
                parent_instance=message.parent_instance,
                parent_execution_id=message.parent_execution_id,
                parent_id=message.parent_id,
                result="1",
            )
        case _:
            return message


def start_of(message: work.Inbound) -> str:
    return work.target(message)


def test_a_completion_of_the_wrong_kind_is_ignored() -> None:
    code = definition("root", relabel((Call(""),), "r"), NATIVE)
    events = Run.start(
        code,
        replace(_INFO, name="root"),
        now_ms=0,
        prepared=Probe(),
    )
    first = events.apply((), 0)
    assert [type(e.kind).__name__ for e in first.events][1] == "ActivityScheduled"
    result = events.apply([work.TimerDue(instance="i", execution_id=1, id=2, fire_at_ms=0)], 1)
    assert result.events == ()
    assert [i.reason.name for i in result.ignored] == ["WRONG_KIND"]
    events.park()


_INFO = start_info(
    [
        Event(
            event_id=1,
            instance_id="i",
            execution_id=1,
            timestamp_ms=0,
            kind=history.OrchestrationStarted(name="x", version="1.0.0", input="0", seed="00"),
        )
    ]
)


# 2. Crash points. The play itself compares what each lost turn and its repetition add.


@given(programs(), SEEDS)
def test_a_worker_that_dies_before_or_after_its_commit_changes_nothing(
    program: Program, seed: int
) -> None:
    disturbed = play(program, seed, crashes=True)
    assert disturbed.histories() == play(program, seed, crashes=False).histories()


# 18, 19. Styles, cache.


CONTINUES_IN_TIME = Program(
    relabel((Timed("", 1, (ContinueAsNew(""), Call(""))), Call("")), "r"), ((), ()), continues=1
)
# The root ends its time limit and asks for more, while a task that it cancelled still has to end its own.
_GIVEN_UP = SpawnCancel("", (Timed("", 1, (Call(""),)),), (Call(""),))
GIVES_UP_IN_TIME = Program(relabel((Timed("", 1, (_GIVEN_UP,)), Call("")), "r"), ((), ()), 0)


@given(programs(), SEEDS)
@example(CONTINUES_IN_TIME, 0)
@example(GIVES_UP_IN_TIME, 0)
def test_coroutine_and_generator_give_identical_histories(program: Program, seed: int) -> None:
    native = play(program, seed, style=NATIVE)
    generator = play(program, seed, style=GENERATOR)
    assert native.histories() == generator.histories()


@given(programs(), SEEDS)
def test_a_cache_of_any_size_makes_no_difference(program: Program, seed: int) -> None:
    cold, one, all_of_them = (play(program, seed, cache_size=n) for n in (0, 1, 1000))
    assert cold.histories() == one.histories()
    assert cold.histories() == all_of_them.histories()


# 20. Logging.


@given(programs(), SEEDS)
def test_what_code_logs_is_logged_once_however_often_it_is_replayed(
    program: Program, seed: int
) -> None:
    played = play(program, seed)
    for recording in played.recordings:
        kept, often = Probe(), Probe()
        run = rerun(played, recording, kept)
        for now_ms, message in inbound_of(recording.events):
            run.apply([message], now_ms)
        run.park()
        run = rerun(played, recording, often)
        for now_ms, message in inbound_of(recording.events):
            run.park()
            run = Run.replay(
                code_of(played, recording),
                [e for e in recording.events if e.event_id < run.next_event_id],
                key_values=recording.key_values,
                prepared=often,
            )
            run.apply([message], now_ms)
        run.park()
        assert often.logged == kept.logged


# 21. Time.


@given(programs(), SEEDS)
def test_time_never_goes_back_and_no_timer_fires_early(program: Program, seed: int) -> None:
    for executions in play(program, seed).histories().values():
        for events in executions:
            times = [e.timestamp_ms for e in events]
            assert times == sorted(times)
            for event in events:
                if isinstance(event.kind, history.TimerFired):
                    assert event.timestamp_ms >= event.kind.fire_at_ms


# 23. Patches.


@given(programs(), SEEDS)
def test_a_patch_is_recorded_once_and_older_histories_replay_without_it(
    program: Program, seed: int
) -> None:
    played = play(program, seed)
    recording = next(r for r in played.recordings if r.name == "root")
    marks = [e.kind.patch_id for e in recording.events if isinstance(e.kind, history.PatchMarked)]
    assert len(marks) == len(set(marks))
    patched = definition("root", (Patch("new"), *program.root), NATIVE)
    if not ended_by_code(recording.events):
        assert_replays(recording.events, patched, key_values=recording.key_values, prepared=Probe())
