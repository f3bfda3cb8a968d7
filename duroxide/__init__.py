"""Durable tasks for Python: orchestrations that survive crashes, because every step is recorded."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from duroxide.activity_context import ActivityContext
from duroxide.client import AsyncClient, InstanceExists, OrchestrationFailed
from duroxide.context import OrchestrationContext, Queue, current_context
from duroxide.decorators import activity, orchestration
from duroxide.descriptors import ScheduledTask, parse_result
from duroxide.engine.combinators import Winner
from duroxide.engine.futures import DurableFuture
from duroxide.errors import (
    ActivityError,
    Cancelled,
    CannotDeleteSubOrchestration,
    ClientError,
    CodecError,
    DeterminismViolation,
    DurableTimeout,
    DuroxideError,
    InstanceNotFound,
    InstanceStillRunning,
    LimitExceeded,
    ManagementNotAvailable,
    NonDeterminismError,
    OrchestrationCancelled,
    OrchestrationError,
    ProviderError,
    RegistrationError,
    SubOrchestrationError,
    TaskError,
    WaitTimeout,
)
from duroxide.limits import (
    MAX_KV_KEYS,
    MAX_KV_VALUE_BYTES,
    MAX_TAG_NAME_BYTES,
    MAX_WORKER_TAGS,
    Limits,
)
from duroxide.logs import init_tracing
from duroxide.outgoing import CancelRequest, Sent, Signal, SignalRequest, StartRequest
from duroxide.payload import Codec, JsonCodec
from duroxide.providers.base import InstancePage, InstanceQuery
from duroxide.providers.memory import MemoryProvider
from duroxide.providers.sqlite import SqliteProvider
from duroxide.registry import ActivityDef, OrchestrationDef, Registry
from duroxide.results import (
    DeleteInstanceResult,
    Event,
    ExecutionInfo,
    InstanceFilter,
    InstanceInfo,
    InstanceTree,
    MetricsSnapshot,
    OrchestrationResult,
    OrchestrationStatus,
    PruneOptions,
    PruneResult,
    QueueDepths,
    SystemMetrics,
    SystemStats,
    TagFilter,
)
from duroxide.retry import (
    ExponentialBackoff,
    FixedBackoff,
    LinearBackoff,
    NoBackoff,
    RetryPolicy,
)
from duroxide.runtime.options import RuntimeOptions
from duroxide.runtime.runtime import AsyncRuntime
from duroxide.sync import Client
from duroxide.sync_runtime import Runtime

if TYPE_CHECKING:
    from duroxide_pg import PostgresEntraOptions, PostgresProvider

__all__ = [
    "MAX_KV_KEYS",
    "MAX_KV_VALUE_BYTES",
    "MAX_TAG_NAME_BYTES",
    "MAX_WORKER_TAGS",
    "ActivityContext",
    "ActivityDef",
    "ActivityError",
    "AsyncClient",
    "AsyncRuntime",
    "CancelRequest",
    "Cancelled",
    "CannotDeleteSubOrchestration",
    "Client",
    "ClientError",
    "Codec",
    "CodecError",
    "DeleteInstanceResult",
    "DeterminismViolation",
    "DurableFuture",
    "DurableTimeout",
    "DuroxideError",
    "Event",
    "ExecutionInfo",
    "ExponentialBackoff",
    "FixedBackoff",
    "InstanceExists",
    "InstanceFilter",
    "InstanceInfo",
    "InstanceNotFound",
    "InstancePage",
    "InstanceQuery",
    "InstanceStillRunning",
    "InstanceTree",
    "JsonCodec",
    "LimitExceeded",
    "Limits",
    "LinearBackoff",
    "ManagementNotAvailable",
    "MemoryProvider",
    "MetricsSnapshot",
    "NoBackoff",
    "NonDeterminismError",
    "OrchestrationCancelled",
    "OrchestrationContext",
    "OrchestrationDef",
    "OrchestrationError",
    "OrchestrationFailed",
    "OrchestrationResult",
    "OrchestrationStatus",
    "PostgresEntraOptions",
    "PostgresProvider",
    "ProviderError",
    "PruneOptions",
    "PruneResult",
    "Queue",
    "QueueDepths",
    "RegistrationError",
    "Registry",
    "RetryPolicy",
    "Runtime",
    "RuntimeOptions",
    "ScheduledTask",
    "Sent",
    "Signal",
    "SignalRequest",
    "SqliteProvider",
    "StartRequest",
    "SubOrchestrationError",
    "SystemMetrics",
    "SystemStats",
    "TagFilter",
    "TaskError",
    "WaitTimeout",
    "Winner",
    "activity",
    "current_context",
    "init_tracing",
    "orchestration",
    "parse_result",
]

# Resolved when first used, so that the layer above is not imported by the one below.
_LAZY = {"PostgresEntraOptions": "duroxide_pg", "PostgresProvider": "duroxide_pg"}

# Names of earlier releases of the official SDK, for programs that still use them.
_FORMER = frozenset(
    {
        "PyClient",
        "PyDeleteInstanceResult",
        "PyEvent",
        "PyExecutionInfo",
        "PyInstanceFilter",
        "PyInstanceInfo",
        "PyInstanceTree",
        "PyMetricsSnapshot",
        "PyOrchestrationStatus",
        "PyPostgresEntraOptions",
        "PyPostgresProvider",
        "PyPruneOptions",
        "PyPruneResult",
        "PyQueueDepths",
        "PyRuntime",
        "PyRuntimeOptions",
        "PySqliteProvider",
        "PySystemMetrics",
        "PySystemStats",
    }
)


def __getattr__(name: str) -> Any:
    if name in _FORMER:
        name = name.removeprefix("Py")
        if name in globals():
            return globals()[name]
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)
