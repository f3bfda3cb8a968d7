"""What the engine has to know of an orchestration's code, and how its failure is written down."""

from __future__ import annotations

from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Protocol

from duroxide.engine.journal import Journal
from duroxide.engine.locate import is_ours
from duroxide.errors import Cancelled, OrchestrationError, TaskError
from duroxide.failures import Failure, orchestration_failure
from duroxide.storable import text_of


class Program(Protocol):
    """An orchestration, as the engine runs it. `duroxide.registry.OrchestrationDef` is one."""

    @property
    def cancel_grace_ms(self) -> int | None:
        """How long the code may clean up once it is cancelled; None: it ends at once."""

    @property
    def tells_traceback(self) -> bool:
        """The message of a failure includes the traceback."""

    def launch(self, journal: Journal, prepared: object) -> Coroutine[Any, Any, str]:
        """The code, ready to be driven; returns the output as text."""


def failure_of(error: BaseException, *, with_traceback: bool) -> Failure:
    """How an execution fails whose code raised `error`."""
    if isinstance(error, OrchestrationError):
        return orchestration_failure(
            error.message, error_type=error.error_type or "OrchestrationError", data=error.data
        )
    name = type(error).__name__
    message = f"{name}: {text_of(error)}"
    lines = _traceback_text(error.__traceback__)
    if isinstance(error, Cancelled):
        message = f"{name}: the orchestration awaited what it had cancelled itself"
    return orchestration_failure(
        f"{message}\n\n{lines}{message}" if with_traceback else message,
        error_type=name,
        traceback=f"{lines}{message}",
        data=error.data if isinstance(error, TaskError) else None,
    )


def _traceback_text(trace: TracebackType | None) -> str:
    # Formatted here, because the standard library would read the source files for it.
    lines = ["Traceback (most recent call last):\n"]
    while trace is not None:
        code = trace.tb_frame.f_code
        if not is_ours(trace.tb_frame):
            lines.append(
                f'  File "{code.co_filename}", line {trace.tb_lineno}, in {code.co_name}\n'
            )
        trace = trace.tb_next
    return "".join(lines)
