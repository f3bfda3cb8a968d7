"""Durable tasks for Python: orchestrations that survive crashes, because every step is recorded."""

from __future__ import annotations

import importlib
from typing import Any

from duroxide.context import OrchestrationContext, Queue
from duroxide.decorators import activity, orchestration
from duroxide.descriptors import ScheduledTask, parse_result
from duroxide.engine.combinators import Winner
from duroxide.engine.futures import DurableFuture
from duroxide.errors import (
    ActivityError,
    Cancelled,
    ClientError,
    CodecError,
    DeterminismViolation,
    DurableTimeout,
    DuroxideError,
    InstanceNotFound,
    LimitExceeded,
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
from duroxide.payload import Codec, JsonCodec
from duroxide.registry import ActivityDef, OrchestrationDef, Registry
from duroxide.retry import (
    ExponentialBackoff,
    FixedBackoff,
    LinearBackoff,
    NoBackoff,
    RetryPolicy,
)

__all__ = [
    "MAX_KV_KEYS",
    "MAX_KV_VALUE_BYTES",
    "MAX_TAG_NAME_BYTES",
    "MAX_WORKER_TAGS",
    "ActivityDef",
    "ActivityError",
    "Cancelled",
    "ClientError",
    "Codec",
    "CodecError",
    "DeterminismViolation",
    "DurableFuture",
    "DurableTimeout",
    "DuroxideError",
    "ExponentialBackoff",
    "FixedBackoff",
    "InstanceNotFound",
    "JsonCodec",
    "LimitExceeded",
    "Limits",
    "LinearBackoff",
    "NoBackoff",
    "NonDeterminismError",
    "OrchestrationCancelled",
    "OrchestrationContext",
    "OrchestrationDef",
    "OrchestrationError",
    "ProviderError",
    "Queue",
    "RegistrationError",
    "Registry",
    "RetryPolicy",
    "ScheduledTask",
    "SubOrchestrationError",
    "TaskError",
    "WaitTimeout",
    "Winner",
    "activity",
    "orchestration",
    "parse_result",
]

# Resolved when first used, so that the layer above is not imported by the one below.
_LAZY = {"PostgresProvider": "duroxide_pg"}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)
