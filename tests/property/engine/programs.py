"""Random orchestrations as small trees, which can be run in either style, sabotaged and swapped."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from hypothesis import strategies as st

QUEUES = ("q1", "q2")
EVENTS = ("e1", "e2")
KEYS = ("k1", "k2", "k3")
CHILDREN = ("child0", "child1")


@dataclass(frozen=True)
class Call:
    label: str
    tag: str | None = None


@dataclass(frozen=True)
class Retry:
    """An activity with a retry policy of `attempts`, each of at most `timeout_ms` (0: no limit)."""

    label: str
    attempts: int
    timeout_ms: int


@dataclass(frozen=True)
class Sleep:
    label: str
    delay_ms: int


@dataclass(frozen=True)
class Wait:
    label: str
    name: str
    buffered: bool


@dataclass(frozen=True)
class Dequeue:
    label: str
    name: str


@dataclass(frozen=True)
class Child:
    label: str
    name: str
    explicit_id: bool


@dataclass(frozen=True)
class Detached:
    label: str
    name: str


@dataclass(frozen=True)
class Status:
    label: str
    clear: bool


@dataclass(frozen=True)
class KeySet:
    """Read-modify-write: the new value is the old one and the label."""

    label: str
    key: str


@dataclass(frozen=True)
class KeyClear:
    label: str
    key: str | None  # None: all


@dataclass(frozen=True)
class KeyPrune:
    label: str


@dataclass(frozen=True)
class Peek:
    """Time, a UUID and a random number: no command, but values that a replay must repeat."""

    label: str


@dataclass(frozen=True)
class Patch:
    label: str


@dataclass(frozen=True)
class Fail:
    label: str


@dataclass(frozen=True)
class ContinueAsNew:
    """Does nothing once the counter in the input is used up."""

    label: str


@dataclass(frozen=True)
class Gather:
    label: str
    branches: tuple[Body, ...]
    collect: bool


@dataclass(frozen=True)
class Select:
    label: str
    branches: tuple[Body, ...]


@dataclass(frozen=True)
class Try:
    label: str
    body: Body


@dataclass(frozen=True)
class Timed:
    label: str
    delay_ms: int
    body: Body


@dataclass(frozen=True)
class SpawnCancel:
    """Spawn the branch, do the body, cancel the branch if it is still running."""

    label: str
    branch: Body
    body: Body


Leaf: TypeAlias = (
    Call
    | Retry
    | Sleep
    | Wait
    | Dequeue
    | Child
    | Detached
    | Status
    | KeySet
    | KeyClear
    | KeyPrune
    | Peek
    | Patch
    | Fail
    | ContinueAsNew
)
Statement: TypeAlias = Leaf | Gather | Select | Try | Timed | SpawnCancel
Body: TypeAlias = tuple[Statement, ...]

COMMANDS = (Call, Sleep, Wait, Dequeue, Child, Detached, Status, KeySet, KeyClear)
"""Statements that always emit exactly one command, first thing."""


@dataclass(frozen=True)
class Program:
    """A root orchestration and its children; `continues` is the counter in the input."""

    root: Body
    children: tuple[Body, ...]
    continues: int = 0


# Labels make every command different from every other, so that no mutation goes unseen by chance.


def relabel(body: Body, prefix: str) -> Body:
    return tuple(_relabel(s, f"{prefix}.{i}") for i, s in enumerate(body))


def _relabel(statement: Statement, label: str) -> Statement:
    match statement:
        case Gather(branches=branches) | Select(branches=branches):
            inner = tuple(relabel(b, f"{label}.{i}") for i, b in enumerate(branches))
            return replace(statement, label=label, branches=inner)
        case Try(body=body) | Timed(body=body):
            return replace(statement, label=label, body=relabel(body, label))
        case SpawnCancel(branch=branch, body=body):
            return SpawnCancel(label, relabel(branch, f"{label}.s"), relabel(body, f"{label}.b"))
        case _:
            return replace(statement, label=label)


def sequences(body: Body) -> Iterator[Body]:
    """The body and all bodies in it."""
    yield body
    for statement in body:
        match statement:
            case Gather(branches=branches) | Select(branches=branches):
                for branch in branches:
                    yield from sequences(branch)
            case Try(body=inner) | Timed(body=inner):
                yield from sequences(inner)
            case SpawnCancel(branch=branch, body=inner):
                yield from sequences(branch)
                yield from sequences(inner)
            case _:
                pass


def statements(program: Program) -> Iterator[Statement]:
    """All statements, at all levels."""
    for top in (program.root, *program.children):
        for body in sequences(top):
            yield from body


def swap(body: Body, first: str, second: str) -> Body:
    """The body with two neighbours exchanged, wherever they are in it."""
    done = []
    index = 0
    while index < len(body):
        here = body[index]
        following = body[index + 1] if index + 1 < len(body) else None
        if following is not None and (here.label, following.label) == (first, second):
            done += [following, here]
            index += 2
            continue
        done.append(_swap_inside(here, first, second))
        index += 1
    return tuple(done)


def _swap_inside(statement: Statement, first: str, second: str) -> Statement:
    match statement:
        case Gather(branches=branches) | Select(branches=branches):
            return replace(statement, branches=tuple(swap(b, first, second) for b in branches))
        case Try(body=body) | Timed(body=body):
            return replace(statement, body=swap(body, first, second))
        case SpawnCancel(label=label, branch=branch, body=body):
            return SpawnCancel(label, swap(branch, first, second), swap(body, first, second))
        case _:
            return statement


# Strategies. Written out by hand: many small draws are much faster than `st.recursive`.

_KINDS = (
    "call",
    "call",
    "retry",
    "sleep",
    "wait",
    "dequeue",
    "status",
    "key_set",
    "key_set",
    "key_clear",
    "key_prune",
    "peek",
    "patch",
    "detached",
    "child",
    "end",
    "gather",
    "gather",
    "select",
    "select",
    "try",
    "timed",
    "spawn",
)
_LEAVES = _KINDS.index("gather")
_kind = st.integers(0, len(_KINDS) - 1)
_leaf_kind = st.integers(0, _LEAVES - 1)
_small = st.integers(0, 7)


class _Grower:
    def __init__(self, draw: Callable[[st.SearchStrategy[int]], int], children: bool) -> None:
        self._draw = draw
        self._children = children

    def body(self, longest: int, depth: int) -> Body:
        count = 1 + self._draw(_small) % longest
        return tuple(self.statement(depth) for _ in range(count))

    def branches(self, depth: int) -> tuple[Body, ...]:
        return tuple(self.body(3, depth) for _ in range(2 + self._draw(_small) % 2))

    def statement(self, depth: int) -> Statement:
        kind = _KINDS[self._draw(_kind if depth else _leaf_kind)]
        chance = self._draw(_small)
        match kind:
            case "gather":
                return Gather("", self.branches(depth - 1), chance % 2 == 0)
            case "select":
                return Select("", self.branches(depth - 1))
            case "try":
                return Try("", self.body(3, depth - 1))
            case "timed":
                return Timed("", 1 + chance * 30, self.body(3, depth - 1))
            case "spawn":
                return SpawnCancel("", self.body(2, depth - 1), self.body(2, depth - 1))
            case _:
                return self.leaf(kind, chance)

    def leaf(self, kind: str, chance: int) -> Statement:
        leaves: dict[str, Statement] = {
            "call": Call("", "gpu" if chance == 7 else None),
            "retry": Retry("", 1 + chance % 3, 50 * (chance // 4)),
            "sleep": Sleep("", chance * 40),
            "wait": Wait("", EVENTS[chance % 2], chance > 3),
            "dequeue": Dequeue("", QUEUES[chance % 2]),
            "status": Status("", chance == 7),
            "key_set": KeySet("", KEYS[chance % 3]),
            "key_clear": KeyClear("", (*KEYS, None)[chance % 4]),
            "key_prune": KeyPrune(""),
            "peek": Peek(""),
            "patch": Patch(""),
            "detached": Detached("", "child1") if self._children else Call(""),
            "child": Child("", CHILDREN[chance % 2], chance > 3) if self._children else Call(""),
            "end": Fail("") if chance < 2 else ContinueAsNew(""),
        }
        return leaves[kind]


def grow(draw: Callable[[st.SearchStrategy[int]], int]) -> Program:
    """A root of some statements, with two children that have no children of their own."""
    root = relabel(_Grower(draw, children=True).body(6, 3), "r")
    grower = _Grower(draw, children=False)
    children = tuple(relabel(grower.body(3, 1), f"c{i}") for i in range(2))
    return Program(root, children, draw(_small) % 3)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Programs that Hypothesis can shrink."""
    return grow(draw)


def sample(seed: int) -> Program:
    """The same program for a seed, for ever and in every process."""
    rng = random.Random(seed)
    highest = {_kind: len(_KINDS) - 1, _leaf_kind: _LEAVES - 1, _small: 7}
    return grow(lambda strategy: rng.randint(0, highest[strategy]))
