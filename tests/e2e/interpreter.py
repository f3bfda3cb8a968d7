"""What a workflow must do, written straight from the rules: recursion over a tree, no engine, no clock.

A leaf's effect is a row with its number, its result that number. Trees are plain tuples:

    ("sql", n)  ("fail", n)  ("then", a, b)  ("if", truth, a, b)  ("join", a, b)  ("as", name, a)
    ("get", n, name)  ("race", winner, a)  ("loop", n, rounds, a)  ("break", n)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Tree: TypeAlias = tuple[Any, ...]


class Failed(Exception):
    """The node failed; the text is the prefix that composites have put before the server's words."""


class Broke(Exception):
    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.value = value


@dataclass
class Interpreter:
    effects: Counter[int] = field(default_factory=Counter)

    def outcome(self, tree: Tree) -> Any:
        """The result, or how it failed."""
        try:
            return self.visit(tree, {}, nested=False)
        except Broke:
            return Failed("df.break() was called outside of a loop.")
        except Failed as failure:
            return failure

    def visit(self, tree: Tree, names: dict[str, Any], *, nested: bool = True) -> Any:
        """Args: nested: it is neither the root nor a branch of JOIN or RACE."""
        match tree:
            case ("sql", number):
                self.effects[number] += 1
                return number
            case ("fail", _):
                raise Failed("SQL execution failed: ")
            case ("get", number, name):
                self.effects[number] += 1
                return names.get(name, "unbound")
            case ("as", name, inner):
                names[name] = self.visit(inner, names, nested=nested)
                return names[name]
            case ("then", first, second):
                self.visit(first, names)
                return self.visit(second, names)
            case ("if", truth, yes, no):
                return self.visit(yes if truth else no, names)
            case ("join", *branches):
                return self.join(branches, names)
            case ("race", winner, _):
                copy = dict(names)
                try:
                    result = self.visit(winner, copy, nested=False)
                except Failed as failure:
                    raise Failed(f"RACE left branch failed: {failure}") from None
                finally:
                    names.update(copy)
                return result
            case ("loop", number, rounds, body):
                try:
                    return self.loop(number, rounds, body, names)
                except Failed as failure:
                    prefix = "Loop sub-orchestration failed: " if nested else ""
                    raise Failed(f"{prefix}{failure}") from None
            case ("break", number):
                raise Broke(number)
        raise AssertionError(tree)

    def join(self, branches: list[Tree], names: dict[str, Any]) -> list[Any]:
        ends: list[tuple[Any, dict[str, Any]]] = []
        for branch in branches:
            copy = dict(names)
            try:
                ends.append((self.visit(branch, copy, nested=False), copy))
            except (Failed, Broke) as error:
                ends.append((error, copy))
        before, results = dict(names), []
        for position, (end, copy) in enumerate(ends, start=1):
            if isinstance(end, Failed):
                raise Failed(f"JOIN branch {position} failed: {end}")
            names.update({k: v for k, v in copy.items() if before.get(k, names) != v})
            if isinstance(end, Broke):
                raise end
            results.append(end)
        return results

    def loop(self, number: int, rounds: int, body: Tree, names: dict[str, Any]) -> Any:
        try:
            while True:
                result = self.visit(body, names)
                self.effects[number] += 1
                if self.effects[number] >= rounds:
                    return result
        except Broke as broke:
            return broke.value
