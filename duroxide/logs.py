"""A log file for programs that set up no logging of their own; nothing is installed unasked."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

FORMATS = ("json", "pretty", "compact")
_COMPACT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

_lock = threading.Lock()
_installed: logging.Handler | None = None


def init_tracing(
    log_file: str | Path, log_level: str | None = None, log_format: str | None = None
) -> None:
    """Append what this package logs to a file; from the second call on it does nothing.

    Args:
        log_level: the least severe level that is written, default "info".
        log_format: "json" (one object a line), "pretty" (fields on lines of their own) or "compact"
            (the default).

    Raises:
        RuntimeError: the file can't be written, or there is no such level or format.
    """
    global _installed
    level = _level(log_level or "info")
    formatter = _formatter(log_format or "compact")
    with _lock:
        if _installed is not None:
            return
        try:
            handler = logging.FileHandler(log_file, encoding="utf-8")
        except OSError as error:
            raise RuntimeError(f"can't write the log file {str(log_file)!r}: {error}") from error
        handler.setFormatter(formatter)
        logger = logging.getLogger("duroxide")
        logger.addHandler(handler)
        logger.setLevel(level)
        _installed = handler


def _level(name: str) -> int:
    level = logging.getLevelNamesMapping().get({"WARN": "WARNING"}.get(name.upper(), name.upper()))
    if level is None:
        raise RuntimeError(f"log_level {name!r} is none of debug, info, warn, error")
    return level


def _formatter(name: str) -> logging.Formatter:
    if name not in FORMATS:
        raise RuntimeError(f"log_format {name!r} is none of {', '.join(FORMATS)}")
    match name:
        case "json":
            return JsonFormatter()
        case "pretty":
            return PrettyFormatter(_COMPACT)
        case _:
            return logging.Formatter(_COMPACT)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the fields of the record."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "timestamp": self.formatTime(record),
            "level": record.levelname,
            "target": record.name,
            "message": record.getMessage(),
            **fields(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class PrettyFormatter(logging.Formatter):
    """For people: the message, then its fields."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return "\n".join([text, *(f"    {key}: {value}" for key, value in fields(record).items())])


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What was given as `extra`."""
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
