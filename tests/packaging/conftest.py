"""A wheel of this checkout, built once, and an empty environment with nothing but it."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """An environment outside of the repository."""

    root: Path
    env: dict[str, str]

    def run(self, *command: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, in a folder where nothing else is."""
        return subprocess.run(
            [self.root / "bin" / command[0], *command[1:]],
            cwd=self.root,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        f"--outdir={folder}",
        str(ROOT),
    ]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("pg_durable-*.whl")
    return built


def install(wheel: Path, root: Path, extra: str) -> Installed:
    """Make an environment at `root` with the wheel and what its extra asks for."""
    venv.create(root, with_pip=False)
    requirement = f"pg-durable[{extra}] @ {wheel.as_uri()}" if extra else str(wheel)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", root, "install", "--quiet", requirement],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # No variable that names a server, a checkout or a colour; only what every shell has.
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    return Installed(root=root, env={**kept, "PATH": os.defpath})


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel with its embedded PostgreSQL."""
    return install(wheel, tmp_path_factory.mktemp("environment"), "embedded")


@pytest.fixture(scope="session")
def installed_library(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel alone, as a service would depend on it."""
    return install(wheel, tmp_path_factory.mktemp("library"), "")
