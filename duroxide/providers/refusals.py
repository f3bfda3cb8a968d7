"""Why a store refuses what people ask of it, in the same words whatever the store."""

from __future__ import annotations

from duroxide.errors import ProviderError
from duroxide.ids import InstanceId


def not_found(operation: str, instance_id: InstanceId) -> ProviderError:
    return _refusal(operation, f"instance {instance_id!r} not found")


def still_running(instance_id: InstanceId) -> ProviderError:
    return _refusal(
        "delete_instances",
        f"instance {instance_id!r} is still running; cancel it first or use force",
    )


def would_orphan(instance_id: InstanceId, child_id: InstanceId) -> ProviderError:
    return _refusal(
        "delete_instances",
        f"instance {instance_id!r} has the child {child_id!r}, which would become an orphan; delete "
        "the whole tree",
    )


def cannot_reopen(instance_id: InstanceId) -> ProviderError:
    return _refusal(
        "requeue",
        f"instance {instance_id!r} can't be reopened: it has changed meanwhile; ask again",
    )


def _refusal(operation: str, message: str) -> ProviderError:
    return ProviderError(operation, message, retryable=False)
