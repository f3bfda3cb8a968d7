"""How one SQL step wants to run: what `df.sql(query, options)` may say, checked again by the worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

_WORDS = {
    "tx": ("auto", "required", "none"),
    "isolation": ("read committed", "repeatable read", "serializable"),
    "on_ambiguous": ("retry", "fail"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlOptions:
    """All fields are optional.

    `tx` is `auto` (outside of a transaction only if the server refuses one), `required` or `none`.
    """

    tx: str = "auto"
    isolation: str = "read committed"
    read_only: bool = False
    deferrable: bool = False
    timeout_seconds: float | None = None  # of each statement; None: the worker's, else the role's
    retries: int | None = None  # after failures that prove that there was no effect; None: two
    on_ambiguous: str | None = None  # retry or fail; None: as the worker is told

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Read a node's options.

        Raises:
            ValueError: an option that does not exist, or a value that it can't have.
        """
        known = {option.name for option in fields(cls)}
        for name, value in values.items():
            if name not in known:
                raise ValueError(
                    f"there is no option {name!r}; there are {', '.join(sorted(known))}"
                )
            if not _fits(name, value):
                raise ValueError(f"{name} can't be {value!r}")
        options = cls(**values)
        if options.tx == "none" and {"isolation", "read_only", "deferrable"} & set(values):
            raise ValueError('isolation, read_only and deferrable need a transaction: tx is "none"')
        return options

    def document(self) -> dict[str, Any]:
        """What differs from the defaults, as `parse` reads it."""
        return {
            option.name: value
            for option in fields(self)
            if (value := getattr(self, option.name)) != option.default
        }

    @property
    def begin(self) -> str:
        """The statement that opens the step's transaction, whatever the role's defaults are."""
        access = "READ ONLY" if self.read_only else "READ WRITE"
        deferrable = " DEFERRABLE" if self.deferrable else ""
        return f"BEGIN ISOLATION LEVEL {self.isolation.upper()} {access}{deferrable}"


def _fits(name: str, value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    match name:
        case "read_only" | "deferrable":
            return isinstance(value, bool)
        case "timeout_seconds":
            return is_number and 0.001 <= value <= 86_400
        case "retries":
            return isinstance(value, int) and is_number and 0 <= value <= 20
        case _:
            return isinstance(value, str) and value in _WORDS[name]
