"""One SQL step: what to run, and the leased activity that it finishes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from duroxide.activity_context import FinishedAs
from duroxide.codec import encode_work
from duroxide.work import ActivityCompletion
from pg_durable.sqloptions import SqlOptions


@dataclass(slots=True)
class Record:
    """What the transaction left that recorded a step, once it is known."""

    message: FinishedAs | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlStep:
    """One text to run, and the leased activity that it finishes."""

    instance_id: str  # the orchestration's
    execution_id: int
    activity_id: int
    token: str
    node_id: str
    query: str
    submitted_by: str
    database: str | None
    stamp: str  # scope and generation, for status_details
    iteration: int = 0  # of the loop around it, from 0
    options: SqlOptions = field(default_factory=SqlOptions)
    record: Record = field(default_factory=Record, compare=False)

    @property
    def workflow_id(self) -> str:
        """The instance that df knows; children are named after it."""
        return self.instance_id.partition("::")[0]

    @property
    def activity(self) -> str:
        """Names the step in df._attempts; the same at every delivery."""
        return f"{self.instance_id}::{self.execution_id}::{self.activity_id}"

    def completion(self, result: str) -> str:
        return encode_work(
            ActivityCompletion(
                instance=self.instance_id,
                execution_id=self.execution_id,
                id=self.activity_id,
                result=result,
            )
        )

    def projection(self, result: str, details: dict[str, Any] | None = None) -> str:
        """The record of the node's status; `details` go to status_details."""
        record: dict[str, Any] = {
            "node": self.node_id,
            "status": "completed",
            "stamp": self.stamp,
            "result": result,
        }
        if details:
            record["details"] = details
        return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


class LeaseGone(Exception):
    """Somebody else has the step, or nobody needs it any more; the attempt was rolled back."""


class TryAgain(Exception):
    """The attempt had no effect, and the reason may pass.

    Args:
        counts: false: the home database could not be reached, which is no failure of the step. Its
            workflow waits, as it does for everything else while the database is away.
    """

    def __init__(self, failure: Exception, *, counts: bool = True) -> None:
        super().__init__(failure)
        self.failure = failure
        self.counts = counts
