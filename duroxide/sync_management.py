"""The blocking names for what people ask of a store, off the hot path."""

from __future__ import annotations

import os
from collections.abc import Coroutine
from typing import Any, TypeVar

from duroxide.client import AsyncClient
from duroxide.errors import InstanceNotFound
from duroxide.providers import base
from duroxide.results import (
    DeleteInstanceResult,
    Event,
    ExecutionInfo,
    InstanceFilter,
    InstanceInfo,
    InstanceTree,
    PruneOptions,
    PruneResult,
    QueueDepths,
    SystemMetrics,
    SystemStats,
)

T = TypeVar("T")


class BlockingManagement:
    """The management half of `Client`."""

    _client: AsyncClient

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        raise NotImplementedError

    @property
    def _admin(self) -> base.ProviderAdmin:
        return self._client.admin

    def get_system_metrics(self) -> SystemMetrics:
        found = self._call(self._admin.system_metrics())
        return SystemMetrics(*_fields(found))

    def get_orchestration_stats(self, instance_id: str) -> SystemStats | None:
        found = self._call(self._admin.instance_stats(instance_id))
        return None if found is None else SystemStats(*_fields(found))

    def get_queue_depths(self) -> QueueDepths:
        return QueueDepths(*_fields(self._call(self._admin.queue_depths())))

    def list_all_instances(self) -> list[str]:
        """Ids, newest first."""
        return [state.instance_id for state in self._call(self._admin.list_instances())]

    def list_instances_by_status(self, status: str) -> list[str]:
        found = self._call(self._admin.list_instances(status=status))
        return [state.instance_id for state in found]

    def get_instance_info(self, instance_id: str) -> InstanceInfo:
        state = self._call(self._client.status(instance_id))
        if state is None:
            raise InstanceNotFound(instance_id)
        return InstanceInfo.of(state)

    def get_execution_info(self, instance_id: str, execution_id: int) -> ExecutionInfo:
        for info in self._call(self._admin.list_executions(instance_id)):
            if info.execution_id == execution_id:
                return ExecutionInfo.of(info)
        raise InstanceNotFound(f"{instance_id}, execution {execution_id}")

    def list_executions(self, instance_id: str) -> list[int]:
        return [info.execution_id for info in self._call(self._admin.list_executions(instance_id))]

    def read_execution_history(self, instance_id: str, execution_id: int) -> list[Event]:
        """The events; none if there is no such execution."""
        try:
            events = self._call(self._client.history(instance_id, execution_id))
        except InstanceNotFound:
            return []
        return [Event.of(event) for event in events]

    def get_instance_tree(self, instance_id: str) -> InstanceTree:
        return InstanceTree(instance_id, list(self._call(self._admin.instance_tree(instance_id))))

    def list_instances(
        self,
        which: base.InstanceQuery | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> base.InstancePage:
        """A page of the instances that pass a query, newest first; `cursor` is `next_cursor` of the last."""
        return self._call(self._client.page(which, limit=limit, cursor=cursor))

    def list_poisoned(self, limit: int = 100, cursor: str | None = None) -> base.InstancePage:
        """A page of the instances that were given up because no worker could run them."""
        return self._call(self._client.poisoned(limit=limit, cursor=cursor))

    def start_again(
        self,
        instance_id: str,
        new_instance_id: str | None = None,
        version: str | None = None,
    ) -> str:
        """Start a new instance with the name and the input of another; its id."""
        again = self._client.start_again(
            instance_id, new_instance_id=new_instance_id, version=version
        )
        return self._call(again)

    def export_instance(self, instance_id: str, path: str | os.PathLike[str]) -> int:
        """Write an instance with its histories into a file, a line of JSON each; how many lines."""
        return self._call(self._client.export_to(instance_id, path))

    def has_management_capability(self) -> bool:
        """Whether the store offers lists, deletion and the like at all."""
        return self._client.has_management_capability

    def list_dead_letters(
        self, instance_id: str | None = None, limit: int = 100, cursor: int | None = None
    ) -> base.DeadLetterPage:
        """A page of the messages that were given up, oldest first."""
        return self._call(self._client.dead_letters(instance_id, limit=limit, cursor=cursor))

    def requeue_instance(self, instance_id: str) -> int:
        """Put its dead letters back as never delivered, and let it go on if it was given up; how many.

        Raises:
            ClientError: it has ended otherwise.
        """
        return self._call(self._client.requeue(instance_id))

    def discard_dead_letters(self, instance_id: str) -> int:
        """Delete the dead letters of an instance for good; how many."""
        return self._call(self._client.discard_dead_letters(instance_id))

    def suspend_instance(self, instance_id: str) -> bool:
        """Give it no turns until it is resumed; what comes for it waits. False: it was suspended already.

        Raises:
            ClientError: it has ended; InstanceNotFound if it is unknown, or has had no turn yet.
        """
        return self._call(self._client.suspend(instance_id))

    def resume_instance(self, instance_id: str) -> bool:
        """Let it go on with what has waited; False: it was not suspended."""
        return self._call(self._client.resume(instance_id))

    def delete_instance(self, instance_id: str, force: bool = False) -> DeleteInstanceResult:
        """Delete an instance with all its children.

        Raises:
            ClientError: it is running, unknown, or itself a child.
        """
        result = self._call(self._client.delete(instance_id, force=force))
        return DeleteInstanceResult(*_fields(result))

    def delete_instance_bulk(self, filter: InstanceFilter | None = None) -> DeleteInstanceResult:  # noqa: A002 - the SDK's name
        which = (filter or InstanceFilter()).to_base()
        result = self._call(self._admin.delete_instances_by_filter(which))
        return DeleteInstanceResult(*_fields(result))

    def prune_executions(
        self, instance_id: str, options: PruneOptions | None = None
    ) -> PruneResult:
        chosen = (options or PruneOptions()).to_base()
        return PruneResult(*_fields(self._call(self._admin.prune_executions(instance_id, chosen))))

    def prune_executions_bulk(
        self,
        filter: InstanceFilter | None = None,  # noqa: A002 - the SDK's name
        options: PruneOptions | None = None,
    ) -> PruneResult:
        which, chosen = (
            (filter or InstanceFilter()).to_base(),
            (options or PruneOptions()).to_base(),
        )
        result = self._call(self._admin.prune_executions_by_filter(which, chosen))
        return PruneResult(*_fields(result))


def _fields(value: Any) -> list[Any]:
    return [getattr(value, name) for name in value.__slots__]
