"""What a turn's result means for the store: pure translation."""

from __future__ import annotations

from duroxide import work
from duroxide.codec import encode_event
from duroxide.engine.turn import StartInfo, TurnResult
from duroxide.ids import EventId, ExecutionId, MessageId
from duroxide.limits import Limits
from duroxide.providers.base import CommitTurn, LeasedTurn, NewExecution
from duroxide.routing import activity_of, message_of
from duroxide.runtime.inbox import Beginning
from duroxide.version import ENGINE_VERSION


def start_info(
    beginning: Beginning,
    *,
    name: str,
    version: str,
    execution_id: ExecutionId,
    seed: str,
    limits: Limits,
) -> StartInfo:
    """What the first turn of an execution has to know.

    Args:
        name, version: of the code that was found for it.
    """
    carried: tuple[tuple[str, str], ...] = ()
    custom_status: str | None = None
    if isinstance(beginning, work.ContinueAsNew):
        carried = beginning.carry_forward_events
        custom_status = beginning.initial_custom_status
    return StartInfo(
        instance_id=beginning.instance,
        execution_id=execution_id,
        name=name,
        version=version,
        input=beginning.input,
        seed=seed,
        parent_instance=beginning.parent_instance,
        parent_id=beginning.parent_id,
        parent_execution_id=beginning.parent_execution_id,
        carry_forward_events=carried,
        initial_custom_status=custom_status,
        limits=limits,
    )


def turn_item(
    leased: LeasedTurn,
    result: TurnResult,
    *,
    execution_id: ExecutionId,
    consumed: tuple[MessageId, ...],
) -> CommitTurn:
    """The commit of a turn; its execution is the leased one or, if it just began, the next."""
    new = result.new_execution
    first_event_id: EventId = result.events[0].event_id if result.events else leased.next_event_id
    return CommitTurn(
        instance_id=leased.instance_id,
        token=leased.token,
        execution_id=execution_id,
        first_event_id=first_event_id,
        events=tuple(map(encode_event, result.events)),
        consumed=consumed,
        new_execution=None
        if new is None
        else NewExecution(
            name=new.name,
            version=new.version,
            engine_version=ENGINE_VERSION,
            parent_instance_id=new.parent_instance_id,
        ),
        status=result.status,
        output=result.output,
        activities=tuple(map(activity_of, result.activities)),
        cancelled_activities=result.cancelled_activities,
        messages=tuple(map(message_of, result.messages)),
        cancelled_timers=result.cancelled_timers,
        custom_status=result.custom_status,
        key_values=result.key_values,
        projections=result.projections,
    )


def consume_item(leased: LeasedTurn) -> CommitTurn:
    """Takes the messages from the queue; they change nothing."""
    return CommitTurn(
        instance_id=leased.instance_id,
        token=leased.token,
        execution_id=leased.execution_id,
        first_event_id=leased.next_event_id,
        consumed=tuple(message.message_id for message in leased.messages),
        status=leased.status,
    )
