"""Every exception that the library raises on purpose.

    DuroxideError(Exception)
        RegistrationError                 the program is wrong: fix it
        LimitExceeded                     the call asked for too much; nothing was recorded
        TaskError                         what the orchestration awaited failed; it may handle this
            ActivityError  SubOrchestrationError  DurableTimeout
        OrchestrationError                raised by code that wants to fail with exactly this text
        ClientError                       WaitTimeout, InstanceNotFound ...
        ProviderError                     storage failed: .operation .retryable
    OrchestrationAbort(BaseException)     not for user code
        NonDeterminismError               DeterminismViolation
    Cancelled(BaseException)              thrown into what was cancelled: OrchestrationCancelled

Facts are attributes and positional arguments, so that errors survive pickling; `__str__` words them.
"""

from __future__ import annotations


class DuroxideError(Exception):
    """The root of what callers may want to catch."""


class RegistrationError(DuroxideError, ValueError):
    """An activity or orchestration was declared in a way that can't work."""


class LimitExceeded(DuroxideError, ValueError):
    """A call asked for more than a limit allows; nothing was recorded for it."""

    def __init__(self, what: str, actual: int, limit: int, unit: str = "bytes") -> None:
        super().__init__(what, actual, limit, unit)
        self.what = what
        self.actual = actual
        self.limit = limit
        self.unit = unit

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.what} ({self.actual}{unit}) exceeds limit ({self.limit}{unit})"


class TaskError(DuroxideError):
    """Something that an orchestration awaited failed."""

    name: str | None = None  # of the activity or orchestration that failed
    attempt: int = 1  # how many attempts a retry policy had made

    def __init__(
        self,
        message: str,
        error_type: str | None = None,
        data: str | None = None,
        retryable: bool = True,
        category: str = "application",
    ) -> None:
        super().__init__(message, error_type, data, retryable, category)
        self.message = str(message)  # it is recorded: whatever was given has to be text
        self.error_type = error_type  # class name of the original exception
        self.data = data  # JSON text that the failing code attached
        self.retryable = retryable
        self.category = category  # application, poison, configuration or infrastructure

    def __str__(self) -> str:
        return self.message


class ActivityError(TaskError):
    """An activity failed, after all attempts that its retry policy allows.

    A failing activity may raise this itself to set `retryable` or to attach `data`.
    """


class SubOrchestrationError(TaskError):
    """A child orchestration failed or was cancelled."""

    instance_id: str | None = None  # of the child


class DurableTimeout(TaskError, TimeoutError):
    """A durable timer ended what was awaited."""


class OrchestrationError(DuroxideError):
    """Raised by an orchestration to fail with exactly this message, and with data of its own."""

    def __init__(
        self, message: str, error_type: str | None = None, data: str | None = None
    ) -> None:
        super().__init__(message, error_type, data)
        self.message = str(message)
        self.error_type = error_type
        self.data = data  # JSON text

    def __str__(self) -> str:
        return self.message


class ClientError(DuroxideError, RuntimeError):
    """A client call could not do what it was asked to."""

    retryable: bool = False  # the same call may be made again; what it was to do may have been done


class WaitTimeout(ClientError, TimeoutError):
    """The instance did not get there in time; it goes on by itself."""

    retryable = True

    def __init__(self, instance_id: str, timeout_ms: int) -> None:
        super().__init__(instance_id, timeout_ms)
        self.instance_id = instance_id
        self.timeout_ms = timeout_ms

    def __str__(self) -> str:
        return "Operation timed out"


class InstanceNotFound(ClientError, LookupError):
    """There is no instance of that id."""

    def __init__(self, instance_id: str) -> None:
        super().__init__(instance_id)
        self.instance_id = instance_id

    def __str__(self) -> str:
        return f"instance {self.instance_id!r} not found"


class InstanceStillRunning(ClientError):
    """What is to be deleted has not ended, or something below it has not."""

    def __init__(self, instance_id: str) -> None:
        super().__init__(instance_id)
        self.instance_id = instance_id

    def __str__(self) -> str:
        return f"instance {self.instance_id!r} is still running; cancel it first or use force"


class CannotDeleteSubOrchestration(ClientError):
    """A child is deleted with its root only."""

    def __init__(self, instance_id: str) -> None:
        super().__init__(instance_id)
        self.instance_id = instance_id

    def __str__(self) -> str:
        return f"Cannot delete sub-orchestration {self.instance_id!r} directly: delete the root"


class ManagementNotAvailable(ClientError):
    """The store has no management methods."""

    def __init__(self, provider: str) -> None:
        super().__init__(provider)
        self.provider = provider

    def __str__(self) -> str:
        return f"the {self.provider} provider has no management methods"


class ProviderError(DuroxideError):
    """Storage failed. If `retryable`, the outcome is unknown and the same call may be made again."""

    def __init__(self, operation: str, message: str, retryable: bool) -> None:
        super().__init__(operation, message, retryable)
        self.operation = operation
        self.message = message
        self.retryable = retryable

    def __str__(self) -> str:
        return f"{self.operation}: {self.message}"


class CodecError(DuroxideError, ValueError):
    """Stored text is not what this version can read, or a value can't be written."""


class OrchestrationAbort(BaseException):
    """Ends a run from inside; derives from BaseException so that user code does not swallow it."""


class NonDeterminismError(OrchestrationAbort):
    """The code did not repeat what its history says it did.

    Args:
        report: both sides, for people.
        event_id: the recorded event at which they part; None where history ends.
        summary: the report without payloads, for logs; None: it has none.
    """

    def __init__(
        self, report: str, event_id: int | None = None, summary: str | None = None
    ) -> None:
        super().__init__(report, event_id, summary)
        self.report = report
        self.event_id = event_id
        self.summary = report if summary is None else summary

    def __str__(self) -> str:
        return self.report


class DeterminismViolation(NonDeterminismError):
    """The code did what no orchestration may do: awaited something foreign, or never stopped."""


class Cancelled(BaseException):
    """Thrown into a durable task that was cancelled; raised by awaiting what was cancelled.

    Like `asyncio.CancelledError` it does not derive from Exception: clean up and let it pass.
    """


class OrchestrationCancelled(Cancelled):
    """Somebody asked to cancel this orchestration, which has a moment to clean up."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
