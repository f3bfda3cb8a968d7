"""The versions that are written into histories and compared by dispatchers."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NUMBER = "(0|[1-9][0-9]*)"  # one way to write each, so that a name has no two of the same version
_SEMVER = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}")


@dataclass(frozen=True, slots=True, order=True)
class SemVer:
    """A release number; compared as a tuple, so 1.9.99 < 1.10.0 < 2.0.0."""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> SemVer:
        """Read `1.2.3`.

        Raises:
            ValueError: the text is not three dotted numbers.
        """
        match = _SEMVER.fullmatch(text)
        if match is None:
            raise ValueError(f"version {text!r} is not of the form 1.2.3")
        return cls(*(int(part) for part in match.groups()))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


@dataclass(frozen=True, slots=True)
class VersionRange:
    """Inclusive at both ends."""

    low: SemVer
    high: SemVer

    def __contains__(self, version: SemVer) -> bool:
        return self.low <= version <= self.high


# The major number is far above that of any other implementation of this history format, so that
# no foreign worker ever takes one of our executions for its own.
ENGINE_VERSION = SemVer(90, 1, 0)
"""Pinned to every execution when it starts; a worker runs executions up to its own version."""

ENGINE_MARK = "py1"
"""Names the event order and matching rules that a history was written under."""
