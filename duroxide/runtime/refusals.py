"""Children under an id that is taken already: whoever asked for them gets an answer."""

from __future__ import annotations

from collections.abc import Sequence

from duroxide import work
from duroxide.failures import orchestration_failure
from duroxide.history import OrchestrationStarted
from duroxide.ids import InstanceId
from duroxide.providers.base import Message
from duroxide.routing import message_of
from duroxide.runtime.inbox import Beginning


def refused_children(
    instance_id: InstanceId,
    starts: Sequence[work.StartOrchestration],
    began: Beginning | OrchestrationStarted,
    *,
    is_terminal: bool,
) -> tuple[Message, ...]:
    """An answer to each parent that waits for an instance which is not its child.

    Args:
        starts: that came to `instance_id`, the one that began it possibly among them.
        began: how the instance came into being; a repetition of that start is no second one.
    """
    suffix = " and is terminal" if is_terminal else ""
    details = orchestration_failure(
        f"sub-orchestration instance id '{instance_id}' already exists{suffix}"
    )
    return tuple(
        message_of(
            work.ChildFailed(
                parent_instance=start.parent_instance,
                parent_execution_id=start.parent_execution_id or 1,
                parent_id=start.parent_id or 0,
                details=details,
            )
        )
        for start in starts
        if start.parent_instance is not None and _call(start) != _call(began)
    )


def _call(start: Beginning | OrchestrationStarted) -> tuple[object, ...]:
    return start.parent_instance, start.parent_execution_id or 1, start.parent_id
