"""Logging in orchestrations: each line once, however often the code is run again."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from duroxide.engine.journal import Journal

_LOG = logging.getLogger("duroxide.orchestration")


class ReplayLogger(logging.LoggerAdapter[logging.Logger]):
    """Logs what code says the first time, and keeps silent when it says it again in replay."""

    def __init__(self, journal: Journal, extra: dict[str, object]) -> None:
        super().__init__(_LOG, extra)
        self._journal = journal

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the standard library's name
        return not self._journal.is_replaying and super().isEnabledFor(level)

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return msg, kwargs
