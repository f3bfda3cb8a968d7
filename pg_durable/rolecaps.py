"""How many steps run at once: of each kind, and of each role, so that no role takes all the places.

A step's tag says both: `sql/ann`. What is at its cap is not leased: it waits in the database, where other
workers can have it, and takes neither a place nor a connection here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, unquote


def tag_of(kind: str, role: str) -> str:
    """The tag of a step.

    Args:
        kind: sql or http.
    """
    return f"{kind}/{quote(role, safe=' ')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleCaps:
    """The cap of a tag: `sql` is all SQL steps, `sql/ann` are those of ann."""

    total: Mapping[str, int]  # by kind
    per_role: Mapping[str, int]  # by kind; 0: only the total counts
    by_role: Mapping[str, int] = field(default_factory=dict)  # SQL steps of single roles

    def __call__(self, tag: str) -> int | None:
        kind, slash, role = tag.partition("/")
        if not slash:
            return self.total.get(kind)
        cap = self.per_role.get(kind, 0)
        if kind == "sql":
            cap = self.by_role.get(unquote(role), cap)
        return cap or None


def read_role_counts(words: Sequence[str]) -> Mapping[str, int]:
    """Read `role=number`.

    Raises:
        ValueError: a word is none, or the number is not positive.
    """
    counts = {}
    for word in words:
        role, equals, number = word.rpartition("=")
        if not (role and equals and number.isascii() and number.isdecimal() and int(number) > 0):
            raise ValueError(f"role_concurrency: {word!r} is not role=number")
        counts[role] = int(number)
    return counts
