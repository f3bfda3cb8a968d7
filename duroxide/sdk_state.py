"""Status, key-values and logging of the official SDK: at once, without `yield` or `await`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from duroxide.engine.journal import Journal

if TYPE_CHECKING:
    from duroxide.definitions import OrchestrationDef


class StateMethods:
    """Mixed into `OrchestrationContext`; on a context made by hand they do nothing."""

    def __init__(self, info: Mapping[str, Any]) -> None:
        self.instance_id: str = info.get("instanceId", "")
        self.execution_id: int = info.get("executionId", 1)
        self.orchestration_name: str = info.get("orchestrationName", "")
        self.orchestration_version: str = info.get("orchestrationVersion", "")
        self.prepared: object = None
        self._journal: Journal | None = None
        self._definition: OrchestrationDef[..., Any] | None = None

    @property
    def journal(self) -> Journal:
        """The engine's side of this context.

        Raises:
            RuntimeError: the context was made by hand; there is no execution behind it.
        """
        if self._journal is None:
            raise RuntimeError("this context was made by hand: there is no execution behind it")
        return self._journal

    def set_custom_status(self, status: Any) -> None:
        """Tell those who watch how far it is; `str(status)` is kept, one event.

        Raises:
            LimitExceeded: it is longer than `Limits.custom_status_bytes`.
        """
        if self._journal is not None:
            self._journal.set_custom_status(str(status))

    def reset_custom_status(self) -> None:
        """Have no custom status."""
        if self._journal is not None:
            self._journal.set_custom_status(None)

    def get_custom_status(self) -> str | None:
        """The custom status as set last; None without one."""
        return None if self._journal is None else self._journal.custom_status

    def set_kv_value(self, key: Any, value: Any) -> None:
        """Keep a value with the instance, through all its executions; `str()` of both is kept, one event.

        Raises:
            LimitExceeded: the value is longer than `Limits.kv_value_bytes`, or the key is one too many.
        """
        if self._journal is not None:
            self._journal.set_key_value(str(key), str(value))

    def get_kv_value(self, key: str) -> str | None:
        """The value of a key as this execution sees it; None if there is none."""
        if self._journal is None:
            return None
        found = self._journal.key_values.get(key)
        return None if found is None else found.value

    def get_kv_all_values(self) -> dict[str, str]:
        """All values, in key order."""
        if self._journal is None:
            return {}
        return {k: v.value for k, v in sorted(self._journal.key_values.items())}

    def get_kv_all_keys(self) -> list[str]:
        """All keys, sorted."""
        return [] if self._journal is None else sorted(self._journal.key_values)

    def get_kv_length(self) -> int:
        """How many keys there are."""
        return 0 if self._journal is None else len(self._journal.key_values)

    def clear_kv_value(self, key: str) -> None:
        """Remove a key; one event, also if there is no such key."""
        if self._journal is not None:
            self._journal.clear_key_value(key)

    def clear_all_kv_values(self) -> None:
        """Remove all keys; one event."""
        if self._journal is not None:
            self._journal.clear_key_values()

    def prune_kv_values_updated_before(self, cutoff_ms: int) -> int:
        """Remove, in key order, what was last set before `cutoff_ms`; returns how many.

        Args:
            cutoff_ms: Unix milliseconds; a value's time is that of the event which the code reacted to.
        """
        if self._journal is None:
            return 0
        old = [
            k for k, v in sorted(self._journal.key_values.items()) if v.updated_at_ms < cutoff_ms
        ]
        for key in old:
            self._journal.clear_key_value(key)
        return len(old)

    def trace_info(self, message: str) -> None:
        """Log, not in replay."""
        self._trace("info", message)

    def trace_warn(self, message: str) -> None:
        """Log a warning, not in replay."""
        self._trace("warning", message)

    def trace_error(self, message: str) -> None:
        """Log an error, not in replay."""
        self._trace("error", message)

    def trace_debug(self, message: str) -> None:
        """Log for debugging, not in replay."""
        self._trace("debug", message)

    def _trace(self, level: str, message: str) -> None:
        if self._journal is not None:
            getattr(self.logger, level)("%s", message)  # type: ignore[attr-defined]
