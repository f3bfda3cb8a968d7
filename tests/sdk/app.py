"""A program as people wrote it for the official SDK: a store, a client and a runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import duroxide
from duroxide import Client, Runtime, RuntimeOptions

IS_OURS = hasattr(duroxide, "AsyncClient")
TIMEOUT_MS = 20_000

Function = Callable[..., Any]


class App:
    """Orchestrations and activities are registered under the names of their functions."""

    def __init__(self, provider: Any, options: RuntimeOptions | None = None) -> None:
        self.provider = provider
        self.client = Client(provider)
        self.runtime = Runtime(provider, options)

    def activities(self, *functions: Function) -> App:
        for function in functions:
            self.runtime.register_activity(function.__name__, function)
        return self

    def orchestrations(self, *functions: Function) -> App:
        for function in functions:
            self.runtime.register_orchestration(function.__name__, function)
        return self

    def start(self) -> App:
        self.runtime.start()
        return self

    def run(self, name: str, value: Any = None, instance_id: str = "i") -> Any:
        """Start an instance and wait for its end; the result object."""
        self.client.start_orchestration(instance_id, name, value)
        return self.client.wait_for_orchestration(instance_id, TIMEOUT_MS)

    def output(self, name: str, value: Any = None, instance_id: str = "i") -> Any:
        """Its output; it must have completed."""
        result = self.run(name, value, instance_id)
        assert (result.status, result.error) == ("Completed", None)
        return result.output

    def until_status(self, instance_id: str, text: str) -> None:
        """Wait for a custom status."""
        version = 0
        while True:
            seen = self.client.wait_for_status_change(instance_id, version, 20, TIMEOUT_MS)
            if seen.custom_status == text:
                return
            assert seen.status == "Running"
            version = seen.custom_status_version


def echo(ctx: Any, value: Any) -> Any:
    return value


def boom(ctx: Any, value: Any) -> None:
    raise ValueError(value)
