"""What a workflow must do, written straight from the rules: recursion over a tree, no engine, no clock.

Trees are plain tuples; `n` is the number of a leaf, in reading order. The effect of a SQL leaf is a row
with its number.

    ("sql", n)  ("fail", n)  ("empty", n)  ("value", n, v)       steps: returns n, fails, no rows, returns v
    ("get", n, name)  ("say", n)  ("count", n, rounds)           a name, variables, whether it ran `rounds` times
    ("sleep", n)  ("signal", n, name)  ("late", n)               of 0 s; one that comes; one that never does
    ("break", n, text)                                           as df.break takes it; None is no argument
    ("then", a, b)  ("if", condition, a, b)  ("if_rows", name, a, b)  ("as", name, a)
    ("join", a, b, ...)  ("race", "left" | "right", winner, loser)  ("loop", body, condition or None)

The loser of a race sleeps before anything else of it, so it never gets there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Tree: TypeAlias = tuple[Any, ...]
Path: TypeAlias = tuple[int, ...]  # from the root, by the children's places in reading order

VARIABLES = {"who": "world"}


class Failed(Exception):
    """The node failed; the text is the prefix that composites have put before the server's words."""


class Broke(Exception):
    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.value = value


@dataclass(frozen=True)
class Rows:
    """The result of a SQL leaf: rows of one column, v."""

    values: tuple[Any, ...]
    shape: str = "INSERT"  # statements of other shapes give other documents for equal values


@dataclass(frozen=True)
class Text:
    """A document that was put into a string as it stands; how it is spelt is not told here."""


@dataclass
class State:
    """What one branch knows: it gets a copy and hands it back."""

    names: dict[str, Any] = field(default_factory=dict)
    cursors: dict[str, int] = field(default_factory=dict)  # of the signals taken, by name
    bound: set[str] = field(default_factory=set)  # by this branch itself

    def copy(self) -> State:
        return State(dict(self.names), dict(self.cursors))

    def bind(self, name: str, value: Any) -> None:
        self.names[name] = value
        self.bound.add(name)

    def merge(self, other: State) -> None:
        """Take over what the branch has bound, not what it was given, and the signals it has taken."""
        for name in other.bound:
            self.bind(name, other.names[name])
        for name, seq in other.cursors.items():
            self.cursors[name] = max(seq, self.cursors.get(name, 0))


@dataclass
class Interpreter:
    label: str = ""
    effects: Counter[int] = field(default_factory=Counter)
    statuses: dict[Path, set[str]] = field(
        default_factory=dict
    )  # what may be shown; absent: skipped
    signals_taken: int = 0

    def outcome(self, tree: Tree) -> Any:
        """The result, or how it failed."""
        try:
            return self.visit(tree, State(), (), nested=False)
        except Broke:
            return Failed("df.break() was called outside of a loop.")
        except Failed as failure:
            return failure

    def visit(self, tree: Tree, state: State, path: Path, *, nested: bool = True) -> Any:
        """Args: nested: it is neither the root nor a branch of JOIN or RACE."""
        if tree[0] == "as":
            named = tree[2]
            while named[0] == "as":  # a node has one name, the last that it was given
                named = named[2]
            result = self.visit(named, state, path, nested=nested)
            state.bind(tree[1], result)
            return result
        try:
            result = self.composite(tree, state, path, nested=nested)
        except Failed:
            self.statuses[path] = {"failed"}
            raise
        except Broke:
            self.statuses[path] = {"completed"}
            raise
        self.statuses[path] = {"completed"}
        return result

    def composite(self, tree: Tree, state: State, path: Path, *, nested: bool) -> Any:
        match tree:
            case ("then", first, second):
                self.visit(first, state, (*path, 1))
                return self.visit(second, state, (*path, 2))
            case ("if", condition, yes, no):
                holds = is_true(self.visit(condition, state, (*path, 1)))
                return self.arm(holds, yes, no, state, path)
            case ("if_rows", name, yes, no):
                if name not in state.names:
                    raise Failed(f"df.if_rows: result '{name}' not found")
                document = state.names[name]
                if not isinstance(document, Rows):
                    raise Failed(f"df.if_rows: result '{name}' is not a SQL result")
                return self.arm(bool(document.values), yes, no, state, path)
            case ("join", *branches):
                return self.join(branches, state, path)
            case ("race", side, winner, _):
                return self.race(side, winner, state, path)
            case ("loop", body, condition):
                try:
                    return self.loop(body, condition, state, path)
                except Failed as failure:
                    prefix = "Loop sub-orchestration failed: " if nested else ""
                    raise Failed(f"{prefix}{failure}") from None
        return self.leaf(tree, state)

    def leaf(self, tree: Tree, state: State) -> Any:
        match tree:
            case ("sleep", _):
                return {"slept": True, "seconds": 0}
            case ("signal", _, name):
                self.signals_taken += 1
                state.cursors[name] = state.cursors.get(name, 0) + 1
                return {"signal_name": name, "timed_out": False, "data": state.cursors[name]}
            case ("late", _):
                return {"signal_name": "never", "timed_out": True, "data": None}
            case ("break", _, text):
                raise Broke(break_value(text, state.names))
            case ("fail", _):
                raise Failed("SQL execution failed: error returned from database: division by zero")
            case ("get", number, name):
                text = in_a_string(name, state.names)
                self.effects[number] += 1
                return Rows((text,))
            case ("say", number):
                self.effects[number] += 1
                return Rows((f"{VARIABLES['who']}/{self.label}/{{nobody}}",))
            case ("count", number, rounds):
                self.effects[number] += 1
                return Rows((self.effects[number] >= rounds,), "COUNT")
            case ("empty", number):
                self.effects[number] += 1
                return Rows((), "EMPTY")
            case ("value", number, value):
                self.effects[number] += 1
                return Rows((value,))
            case ("sql", number):
                self.effects[number] += 1
                return Rows((number,))
        raise AssertionError(tree)

    def arm(self, holds: bool, yes: Tree, no: Tree, state: State, path: Path) -> Any:
        return self.visit(yes if holds else no, state, (*path, 2 if holds else 3))

    def join(self, branches: list[Tree], state: State, path: Path) -> list[Any]:
        """All run to their end; then the first by position that failed or broke decides."""
        ends: list[tuple[Any, State]] = []
        for place, branch in enumerate(branches, start=1):
            copy = state.copy()
            try:
                ends.append((self.visit(branch, copy, (*path, place), nested=False), copy))
            except (Failed, Broke) as error:
                ends.append((error, copy))
        results = []
        for position, (end, copy) in enumerate(ends, start=1):
            if isinstance(end, Failed):
                raise Failed(f"JOIN branch {position} failed: {end}")
            state.merge(copy)
            if isinstance(end, Broke):
                raise end
            results.append(end)
        return results

    def race(self, side: str, winner: Tree, state: State, path: Path) -> Any:
        """The loser is a THEN whose first child sleeps."""
        copy = state.copy()
        won, lost = (1, 2) if side == "left" else (2, 1)
        try:
            result = self.visit(winner, copy, (*path, won), nested=False)
        except Failed as failure:
            raise Failed(f"RACE {side} branch failed: {failure}") from None
        except Broke:
            state.merge(copy)
            raise
        finally:
            # A winner that ends at once may leave the loser no time to begin.
            self.statuses[(*path, lost, 1)] = {"cancelled", "skipped"}
        state.merge(copy)
        return result

    def loop(self, body: Tree, condition: Tree | None, state: State, path: Path) -> Any:
        try:
            while True:
                for below in [p for p in self.statuses if p[: len(path)] == path]:
                    del self.statuses[below]  # of the iteration before
                result = self.visit(body, state, (*path, 1))
                if condition and not is_true(self.visit(condition, state, (*path, 2))):
                    return result
        except Broke as broke:
            return broke.value


def is_true(document: Any) -> bool:
    value = document
    if isinstance(document, Rows):
        if not document.values:
            return False
        value = document.values[0]
    match value:
        case Rows():
            return True  # inside an array it is an object like any other
        case str():
            word = value.strip().lower()
            if word in ("", "false", "f", "no"):
                return False
            try:
                return float(word) != 0
            except ValueError:
                return True
        case _:
            return bool(value)


def scalar(name: str, document: Any) -> Any:
    """What a strict reference to a name stands for."""
    if not isinstance(document, Rows):
        return document
    if not document.values:
        raise Failed(f"${name} has no rows — query returned zero results")
    if document.values[0] is None:
        raise Failed(f"${name} is NULL — first column of first row is NULL")
    return document.values[0]


def in_a_string(name: str, names: Mapping[str, Any]) -> Any:
    """`'$name'` in SQL text; an unknown name stays as it is."""
    if name not in names:
        return f"${name}"
    value = scalar(name, names[name])
    if isinstance(names[name], Rows):
        return value if isinstance(value, str | Text) else json.dumps(value)
    return json.dumps(value) if isinstance(value, bool | int | str | None) else Text()


def break_value(text: str | None, names: Mapping[str, Any]) -> Any:
    """A reference is the value itself, JSON is that value, other text a string."""
    if text is None:
        return None
    if text.startswith("$"):
        return scalar(text[1:], names[text[1:]]) if text[1:] in names else text
    try:
        return json.loads(text)
    except ValueError:
        return text
