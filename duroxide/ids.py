"""What things are called: instances, executions, events, and the two kinds of lease."""

from typing import NewType, TypeAlias

InstanceId: TypeAlias = str
"""Chosen by the client, or derived from the parent's for a sub-orchestration."""

ExecutionId: TypeAlias = int
"""1, 2, 3 ... within an instance; continue-as-new starts the next one."""

EventId: TypeAlias = int
"""1, 2, 3 ... within an execution, without gaps; also the name of what the event scheduled."""

MessageId: TypeAlias = int
"""Given by the store to a queued message; increasing in the order of arrival at an instance."""

# Mixing these two up would finish the wrong thing, so they are distinct types.
TurnToken = NewType("TurnToken", str)
"""Proof of an instance lease, unique to one poll."""

ActivityToken = NewType("ActivityToken", str)
"""Proof of an activity lease, unique to one delivery."""
