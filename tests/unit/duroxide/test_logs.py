"""A log file for programs that set up no logging."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import duroxide
from duroxide import logs


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    logger = logging.getLogger("duroxide")
    level, handlers = logger.level, list(logger.handlers)
    monkeypatch.setattr(logs, "_installed", None)
    yield
    for handler in set(logger.handlers) - set(handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(level)


def tell() -> None:
    log = logging.getLogger("duroxide.runtime")
    log.info("turn of %s", "a", extra={"instance_id": "a", "duration_ms": 1.5})
    log.debug("never seen")


def test_a_line_is_a_json_object_with_the_fields(tmp_path: Path) -> None:
    path = tmp_path / "log"
    duroxide.init_tracing(str(path), log_format="json")
    tell()
    (line,) = path.read_text().splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["target"]) == ("INFO", "duroxide.runtime")
    assert (entry["message"], entry["instance_id"], entry["duration_ms"]) == ("turn of a", "a", 1.5)


def test_compact_is_one_line_and_pretty_has_the_fields_below(tmp_path: Path) -> None:
    duroxide.init_tracing(tmp_path / "compact")
    tell()
    assert (tmp_path / "compact").read_text().endswith(" INFO duroxide.runtime: turn of a\n")
    assert "    instance_id: a" in logs.PrettyFormatter().format(
        logging.makeLogRecord({"msg": "turn", "instance_id": "a"})
    )


def test_the_first_file_wins(tmp_path: Path) -> None:
    duroxide.init_tracing(tmp_path / "first")
    duroxide.init_tracing(tmp_path / "second")
    tell()
    assert "turn of a" in (tmp_path / "first").read_text()
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"log_file": "/no/such/folder/log"}, "/no/such/folder/log"),
        ({"log_file": "log", "log_level": "loud"}, "'loud'"),
        ({"log_file": "log", "log_format": "xml"}, "'xml'"),
    ],
)
def test_what_is_wrong_is_named(arguments: dict[str, str], names: str) -> None:
    with pytest.raises(RuntimeError, match=names):
        duroxide.init_tracing(**arguments)


def test_the_former_names_of_the_sdk_are_the_same_classes() -> None:
    for name in ("RuntimeOptions", "Client", "Runtime", "SqliteProvider", "Event", "PruneOptions"):
        assert getattr(duroxide, f"Py{name}") is getattr(duroxide, name)
    with pytest.raises(AttributeError, match="PyNothing"):
        _ = duroxide.PyNothing
