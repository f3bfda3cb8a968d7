"""What people and their tools ask of a store, off the hot path: lists, trees, deletion, export."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import cast

from duroxide import results
from duroxide.codec import decode_event, decode_events
from duroxide.errors import (
    CannotDeleteSubOrchestration,
    ClientError,
    CodecError,
    InstanceNotFound,
    InstanceStillRunning,
    ManagementNotAvailable,
)
from duroxide.ids import InstanceId
from duroxide.providers.base import (
    DeadLetterPage,
    DeadLetterStore,
    DeleteResult,
    ExecutionInfo,
    InstanceFilter,
    InstancePage,
    InstanceQuery,
    InstanceStats,
    InstanceStatus,
    Provider,
    ProviderAdmin,
    PruneOptions,
    PruneResult,
    QueueDepths,
    Suspension,
    SystemMetrics,
)
from duroxide.reopening import poisoned_ending, reopening
from duroxide.state import ExecutionStatus

EXPORT_FORMAT = 1


class Management:
    """The management half of `AsyncClient`.

    Every method raises `ClientError` where the store offers no management, and `ProviderError` where
    it fails or refuses.
    """

    provider: Provider

    @property
    def has_management_capability(self) -> bool:
        """Whether the store offers management at all."""
        return hasattr(self.provider, "delete_instances")

    @property
    def admin(self) -> ProviderAdmin:
        """The store's own management calls."""
        if not self.has_management_capability:
            raise ManagementNotAvailable(self.provider.name)
        return cast("ProviderAdmin", self.provider)

    async def instances(
        self, *, status: str | None = None, limit: int | None = None
    ) -> Sequence[InstanceStatus]:
        """Instances, newest first.

        Args:
            status: only those: `Running`, `Completed`, `Failed` or `ContinuedAsNew`.
            limit: at most so many; None: all.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit must not be negative, but is {limit}")
        return await self.admin.list_instances(status=status, limit=limit)

    async def page(
        self,
        which: InstanceQuery | None = None,
        *,
        limit: int = 100,
        cursor: str | None = None,
    ) -> InstancePage:
        """A page of the instances that pass a query, newest first.

        Args:
            which: None: all of them.
            limit: at most so many.
            cursor: `next_cursor` of the page before; None: the first page.

        Raises:
            ValueError: a limit below 1.
            ProviderError: the cursor is none of this store.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        return await self.admin.list_page(which or InstanceQuery(), limit=limit, cursor=cursor)

    async def dead_letters(
        self, instance_id: InstanceId | None = None, *, limit: int = 100, cursor: int | None = None
    ) -> DeadLetterPage:
        """A page of the messages that were given up, oldest first: with their text and the reason.

        They were delivered too often without a turn being finished (`poisoned` lists the instances that
        failed of it), or were sent to an instance that never started. `requeue` puts them back.

        Args:
            instance_id: only those for it.
            cursor: `next_cursor` of the page before; None: the first page.

        Raises:
            ClientError: the store keeps none.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        found = await self._letters.list_dead_letters(
            instance_id=instance_id, after=cursor or 0, limit=limit + 1
        )
        page = tuple(found[:limit])
        return DeadLetterPage(
            letters=page, next_cursor=page[-1].letter_id if len(found) > limit else None
        )

    async def requeue(self, instance_id: InstanceId) -> int:
        """Put the dead letters of an instance back on its queue, as never delivered; how many.

        An instance that failed because no worker could run it goes back to where it was: it is as if its
        last turn had not been. What that turn gave up is put back: timers keep their time, activities
        run again, and a child that was cancelled with it answers as failed. A parent that was told of
        the failure is not told otherwise. An instance that never began begins anew.

        Raises:
            ClientError: the instance has ended otherwise, so that nothing can come of its letters; or the
                store keeps none.
            ProviderError: something has changed meanwhile; ask again.
        """
        letters = self._letters
        state = (await self.provider.read_status([instance_id])).get(instance_id)
        if state is None or not state.status.is_terminal:
            return await letters.requeue(instance_id)
        events = decode_events(await self.provider.read_history(instance_id))
        ending = poisoned_ending(events)
        if ending is None:
            raise ClientError(
                f"instance {instance_id!r} has ended, and not for want of a worker that could run it: "
                "start_again begins anew with its input"
            )
        ended = {}
        for event_id, child in ending.children().items():
            state = (await self.provider.read_status([child])).get(child)
            if state is not None and state.status.is_terminal:
                ended[event_id] = decode_event((await self.provider.read_history(child))[-1])
        return await letters.requeue(instance_id, reopening(ending, events[0].execution_id, ended))

    async def discard_dead_letters(self, instance_id: InstanceId) -> int:
        """Delete the dead letters of an instance for good; how many."""
        return await self._letters.discard_dead_letters(instance_id)

    @property
    def _letters(self) -> DeadLetterStore:
        if not self.provider.capabilities.dead_letters:
            raise ClientError(f"the {self.provider.name} provider keeps no dead letters")
        return cast("DeadLetterStore", self.provider)

    async def poisoned(self, *, limit: int = 100, cursor: str | None = None) -> InstancePage:
        """A page of the instances that were given up because no worker could run them, newest first.

        Their messages were delivered too often without a turn being finished: the code is missing, its
        worker dies of it, or it does not do what history says. Once that is mended, `requeue` lets one go
        on from where it was; `AsyncClient.start_again` begins anew.

        Args:
            limit: how many failed instances are looked at; a page may have fewer, or none, and still
                have a next one.
        """
        failed = InstanceQuery(statuses=(ExecutionStatus.FAILED,))
        page = await self.page(failed, limit=limit, cursor=cursor)
        poisoned = [s for s in page.instances if await self._is_poisoned(s.instance_id)]
        return InstancePage(instances=tuple(poisoned), next_cursor=page.next_cursor)

    async def _is_poisoned(self, instance_id: InstanceId) -> bool:
        history = await self.provider.read_history(instance_id)
        if not history:
            return False
        try:
            last = decode_event(history[-1])
        except CodecError:
            return False  # a newer version ended it
        return poisoned_ending([last]) is not None

    async def executions(self, instance_id: InstanceId) -> Sequence[ExecutionInfo]:
        """The executions that continue-as-new has made of an instance, oldest first.

        Raises:
            InstanceNotFound: the store does not know it.
        """
        found = await self.admin.list_executions(instance_id)
        if not found:
            raise InstanceNotFound(instance_id)
        return found

    async def tree(self, instance_id: InstanceId) -> Sequence[InstanceId]:
        """An instance and all its descendants, parents first."""
        return await self.admin.instance_tree(instance_id)

    async def suspend(self, instance_id: InstanceId) -> bool:
        """Give an instance no turns until it is resumed; False: it was suspended already.

        From the moment this returns no turn of it is written. Messages wait in order, due timers among
        them; its activities and its children go on. Cancelling a suspended instance resumes it, so that
        it can end.

        Raises:
            InstanceNotFound: the store does not know it, or not yet: it has to have had a turn.
            ClientError: it has ended.
        """
        outcome = (await self.admin.suspend_instances([instance_id]))[instance_id]
        return _changed(outcome, instance_id)

    async def resume(self, instance_id: InstanceId) -> bool:
        """Let an instance have turns again, first with what has waited; False: it was not suspended.

        Raises:
            InstanceNotFound: the store does not know it.
        """
        outcome = (await self.admin.resume_instances([instance_id]))[instance_id]
        return _changed(outcome, instance_id)

    async def delete(self, instance_id: InstanceId, *, force: bool = False) -> DeleteResult:
        """Delete an instance with all its descendants, or nothing.

        Args:
            force: also if it runs. Its activities that run go on until they notice.

        Raises:
            InstanceNotFound: the store does not know it.
            CannotDeleteSubOrchestration: it is a child: delete its root.
            InstanceStillRunning: it runs, or one of its descendants, and not `force`.
            ProviderError: it has changed meanwhile, and was not deleted.
        """
        state = (await self.provider.read_status([instance_id])).get(instance_id)
        if state is None:
            raise InstanceNotFound(instance_id)
        if state.parent_instance_id is not None:
            raise CannotDeleteSubOrchestration(instance_id)
        tree = await self.tree(instance_id)
        if not force:
            for member in (await self.provider.read_status(tree)).values():
                if not member.status.is_terminal:
                    raise InstanceStillRunning(member.instance_id)
        return await self.admin.delete_instances(tree, force=force)

    # What `duroxide` exports under these two names are the official SDK's forms of them.

    async def delete_many(self, which: InstanceFilter | results.InstanceFilter) -> DeleteResult:
        """Delete ended root instances with their trees; a tree of which something runs stays."""
        return await self.admin.delete_instances_by_filter(_filter(which))

    async def prune(
        self, instance_id: InstanceId, options: PruneOptions | results.PruneOptions
    ) -> PruneResult:
        """Delete old executions of an instance; the current one always stays."""
        return await self.admin.prune_executions(instance_id, _options(options))

    async def prune_many(
        self,
        which: InstanceFilter | results.InstanceFilter,
        options: PruneOptions | results.PruneOptions,
    ) -> PruneResult:
        return await self.admin.prune_executions_by_filter(_filter(which), _options(options))

    async def metrics(self) -> SystemMetrics:
        return await self.admin.system_metrics()

    async def queue_depths(self) -> QueueDepths:
        return await self.admin.queue_depths()

    async def stats(self, instance_id: InstanceId) -> InstanceStats | None:
        """Sizes of an instance; None if the store does not know it."""
        return await self.admin.instance_stats(instance_id)

    async def export(self, instance_id: InstanceId) -> AsyncIterator[str]:
        """An instance as lines of JSON, to be kept or to be replayed elsewhere.

        `duroxide.testing.exports` reads and replays them. The first line describes the instance, with
        its output, custom status and key-values; then comes, for each execution, a line that describes
        it, followed by its events, a line each, as they are stored. Payloads are in it.

        Raises:
            InstanceNotFound: the store does not know it.
        """
        state = (await self.provider.read_status([instance_id])).get(instance_id)
        if state is None:
            raise InstanceNotFound(instance_id)
        values = await self.provider.read_key_values(instance_id)
        yield _line(
            "instance",
            format=EXPORT_FORMAT,
            instance_id=instance_id,
            name=state.name,
            version=state.version,
            status=state.status.value,
            parent_instance_id=state.parent_instance_id,
            created_at_ms=state.created_at_ms,
            completed_at_ms=state.completed_at_ms,
            output=state.output,
            custom_status=state.custom_status,
            key_values={key: value.value for key, value in values.items()},
        )
        for info in await self.executions(instance_id):
            yield _line(
                "execution",
                execution_id=info.execution_id,
                status=info.status.value,
                started_at_ms=info.started_at_ms,
                completed_at_ms=info.completed_at_ms,
            )
            for event in await self.provider.read_history(instance_id, info.execution_id):
                yield event

    async def export_to(self, instance_id: InstanceId, path: str | os.PathLike[str]) -> int:
        """Write an export into a file, which is replaced if it is there; how many lines it has.

        The file has its name only once it is complete.

        Raises:
            InstanceNotFound: the store does not know it.
        """
        lines = [line async for line in self.export(instance_id)]
        await asyncio.to_thread(_write_whole, Path(path), lines)
        return len(lines)


def _write_whole(path: Path, lines: Sequence[str]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _changed(outcome: Suspension, instance_id: InstanceId) -> bool:
    match outcome:
        case Suspension.UNKNOWN:
            raise InstanceNotFound(instance_id)
        case Suspension.ENDED:
            raise ClientError(f"instance {instance_id!r} can't be suspended: it has ended")
        case Suspension.CHANGED | Suspension.UNCHANGED:
            return outcome is Suspension.CHANGED


def _line(about: str, **facts: object) -> str:
    return json.dumps({"export": about, **facts}, separators=(",", ":"))


def _filter(which: InstanceFilter | results.InstanceFilter) -> InstanceFilter:
    return which.to_base() if isinstance(which, results.InstanceFilter) else which


def _options(options: PruneOptions | results.PruneOptions) -> PruneOptions:
    return options.to_base() if isinstance(options, results.PruneOptions) else options
