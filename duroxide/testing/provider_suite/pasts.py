"""Instances with a past: ended ones, children, many executions; and what lists show of them."""

from __future__ import annotations

from typing import Any

from duroxide.providers.base import InstanceQuery, MessageKind
from duroxide.state import ExecutionStatus
from duroxide.testing.provider_suite.driver import StoreDriver, message, new_execution


async def ended(
    store: StoreDriver,
    instance_id: str,
    status: ExecutionStatus = ExecutionStatus.COMPLETED,
    **more: Any,
) -> None:
    """An instance that ended in its first turn."""
    await store.start(instance_id)
    await store.commit_turn(await store.lease(instance_id), 2, status=status, output="out", **more)


async def child_of(store: StoreDriver, parent: str, instance_id: str, **more: Any) -> None:
    await ended(store, instance_id, new=new_execution("Child", parent=parent), **more)


async def several_executions(store: StoreDriver, instance_id: str, count: int) -> None:
    """Executions 1 .. count, the last one running; a second passes between them."""
    await store.start(instance_id)
    for number in range(1, count + 1):
        leased = await store.lease(instance_id)
        is_last = number == count
        again = message(instance_id, "again", kind=MessageKind.CONTINUE_AS_NEW)
        await store.commit_turn(
            leased,
            2,
            execution_id=number,
            first_event_id=1,
            status=ExecutionStatus.RUNNING if is_last else ExecutionStatus.CONTINUED_AS_NEW,
            output=None if is_last else "next",
            messages=() if is_last else (again,),
            new=new_execution(),
        )
        store.clock.advance(1_000)


async def execution_ids(store: StoreDriver, instance_id: str) -> list[int]:
    return [info.execution_id for info in await store.admin.list_executions(instance_id)]


async def listed(store: StoreDriver, **which: Any) -> list[str]:
    return [state.instance_id for state in await store.admin.list_instances(**which)]


async def pages(store: StoreDriver, limit: int, **which: Any) -> list[list[str]]:
    """The ids, page by page."""
    found, cursor = [], None
    while True:
        page = await store.admin.list_page(InstanceQuery(**which), limit=limit, cursor=cursor)
        found.append([state.instance_id for state in page.instances])
        cursor = page.next_cursor
        if cursor is None:
            return found
