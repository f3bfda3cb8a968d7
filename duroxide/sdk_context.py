"""The context methods of the official SDK, in its names, arguments and result shapes.

In a generator orchestration they return descriptors that do nothing until they are yielded. In an
`async def` one the same call is made at once, and the descriptor can be awaited.
"""
# ruff: noqa: A002 - arguments are called as in the SDK

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from duroxide.descriptors import ScheduledTask, json_text, retry_descriptor, typed_text
from duroxide.engine.journal import ScheduledFuture
from duroxide.sdk_state import StateMethods

KV_SYSCALL = "__duroxide_syscall:get_kv_value"
"""The activity by which an orchestration reads another instance's key-values."""


class SdkMethods(StateMethods):
    """Mixed into `OrchestrationContext`."""

    def _describe(self, **descriptor: Any) -> ScheduledTask:
        task = ScheduledTask(descriptor)
        if self._journal is None or self._is_generator:
            return task
        from duroxide.driver import schedule

        task.future = future = schedule(self, task)  # type: ignore[arg-type]
        if isinstance(future, ScheduledFuture):
            journal = self.journal
            task._retag = lambda tag: journal.retag(future, tag)
        return task

    @property
    def _is_generator(self) -> bool:
        raise NotImplementedError

    # Activities.

    def schedule_activity(
        self,
        name: str,
        input: Any = None,
        session_id: str | None = None,
    ) -> ScheduledTask:
        """An activity; gives its decoded result."""
        return self._scheduled_activity(name, json_text(input), session_id)

    def schedule_activity_typed(
        self,
        name: str,
        input: Any = None,
        result_type: Any = None,
    ) -> ScheduledTask:
        """`schedule_activity`, except that a `str` input is sent as it is; so for all `_typed` methods."""
        return self._describe(type="activity", name=name, input=typed_text(input), _typed=True)

    def schedule_activity_on_session(
        self,
        name: str,
        input: Any,
        session_id: str,
    ) -> ScheduledTask:
        """An activity that runs in the worker process that owns the session."""
        return self._scheduled_activity(name, json_text(input), session_id)

    def schedule_activity_on_session_typed(
        self,
        name: str,
        input: Any = None,
        session_id: str | None = None,
    ) -> ScheduledTask:
        """`schedule_activity_on_session` with a `str` input sent as it is."""
        return self._describe(
            type="activityWithSession",
            name=name,
            input=typed_text(input),
            sessionId=session_id,
            _typed=True,
        )

    def _scheduled_activity(self, name: str, text: str, session_id: str | None) -> ScheduledTask:
        if session_id is None:
            return self._describe(type="activity", name=name, input=text)
        return self._describe(
            type="activityWithSession", name=name, input=text, sessionId=session_id
        )

    def schedule_activity_with_retry(
        self,
        name: str,
        input: Any,
        retry: Mapping[str, Any],
    ) -> ScheduledTask:
        """An activity tried again after failures.

        Args:
            retry: `max_attempts` (3), `backoff` ("exponential", "fixed", "linear"), `timeout_ms` of an
                attempt, `total_timeout_ms` of all of them.
        """
        return self._describe(
            type="activityWithRetry",
            name=name,
            input=json_text(input),
            retry=retry_descriptor(retry),
        )

    def schedule_activity_with_retry_typed(
        self,
        name: str,
        input: Any = None,
        retry: Mapping[str, Any] | None = None,
    ) -> ScheduledTask:
        """`schedule_activity_with_retry` with a `str` input sent as it is."""
        return self._describe(
            type="activityWithRetry",
            name=name,
            input=typed_text(input),
            retry=retry_descriptor(retry),
            _typed=True,
        )

    def schedule_activity_with_retry_on_session(
        self,
        name: str,
        input: Any,
        retry: Mapping[str, Any],
        session_id: str,
    ) -> ScheduledTask:
        """Both: attempts by policy, all on the worker process that owns the session."""
        return self._describe(
            type="activityWithRetryOnSession",
            name=name,
            input=json_text(input),
            retry=retry_descriptor(retry),
            sessionId=session_id,
        )

    def schedule_activity_with_retry_on_session_typed(
        self,
        name: str,
        input: Any = None,
        retry: Mapping[str, Any] | None = None,
        session_id: str | None = None,
    ) -> ScheduledTask:
        """The same with a `str` input sent as it is."""
        return self._describe(
            type="activityWithRetryOnSession",
            name=name,
            input=typed_text(input),
            retry=retry_descriptor(retry),
            sessionId=session_id,
            _typed=True,
        )

    # Timers, events, queues.

    def schedule_timer(self, delay_ms: int) -> ScheduledTask:
        """A durable timer of so many milliseconds; gives None. A negative delay fails the orchestration."""
        return self._describe(type="timer", delayMs=delay_ms)

    def wait_for_event(self, name: str) -> ScheduledTask:
        """The next event of that name; one that was raised earlier does not count."""
        return self._describe(type="waitEvent", name=name)

    def dequeue_event(self, queue_name: str) -> ScheduledTask:
        """The next message of the queue."""
        return self._describe(type="dequeueEvent", queueName=queue_name)

    def wait_for_event_typed(self, name: str) -> ScheduledTask:
        """`wait_for_event`; the data is decoded alike."""
        return self._describe(type="waitEvent", name=name, _typed=True)

    def dequeue_event_typed(self, queue_name: str) -> ScheduledTask:
        """`dequeue_event`; the message is decoded alike."""
        return self._describe(type="dequeueEvent", queueName=queue_name, _typed=True)

    # Other orchestrations.

    def schedule_sub_orchestration(self, name: str, input: Any = None) -> ScheduledTask:
        """A child orchestration, its id derived from this execution; gives its decoded output."""
        return self._describe(type="subOrchestration", name=name, input=json_text(input))

    def schedule_sub_orchestration_typed(
        self,
        name: str,
        input: Any = None,
        result_type: Any = None,
    ) -> ScheduledTask:
        """`schedule_sub_orchestration` with a `str` input sent as it is."""
        return self._describe(
            type="subOrchestration", name=name, input=typed_text(input), _typed=True
        )

    def schedule_sub_orchestration_with_id(
        self,
        name: str,
        instance_id: str,
        input: Any = None,
    ) -> ScheduledTask:
        """A child orchestration with an id of your own, unique in the store."""
        return self._describe(
            type="subOrchestrationWithId",
            name=name,
            instanceId=instance_id,
            input=json_text(input),
        )

    def schedule_sub_orchestration_with_id_typed(
        self,
        name: str,
        instance_id: str,
        input: Any = None,
    ) -> ScheduledTask:
        """The same with a `str` input sent as it is."""
        return self._describe(
            type="subOrchestrationWithId",
            name=name,
            instanceId=instance_id,
            input=typed_text(input),
            _typed=True,
        )

    def schedule_sub_orchestration_versioned(
        self,
        name: str,
        version: str | None = None,
        input: Any = None,
    ) -> ScheduledTask:
        """A child orchestration in an exact version; None: what the worker resolves."""
        return self._describe(
            type="subOrchestrationVersioned",
            name=name,
            version=version,
            input=json_text(input),
        )

    def schedule_sub_orchestration_versioned_with_id(
        self,
        name: str,
        version: str | None,
        instance_id: str,
        input: Any = None,
    ) -> ScheduledTask:
        """A child orchestration with version and id."""
        return self._describe(
            type="subOrchestrationVersionedWithId",
            name=name,
            version=version,
            instanceId=instance_id,
            input=json_text(input),
        )

    def start_orchestration(
        self,
        name: str,
        instance_id: str,
        input: Any = None,
    ) -> ScheduledTask:
        """Start an orchestration that nothing answers for; gives None at once."""
        return self._describe(
            type="orchestration", name=name, instanceId=instance_id, input=json_text(input)
        )

    def start_orchestration_typed(
        self,
        name: str,
        instance_id: str,
        input: Any = None,
    ) -> ScheduledTask:
        """`start_orchestration` with a `str` input sent as it is."""
        return self._describe(
            type="orchestration", name=name, instanceId=instance_id, input=typed_text(input)
        )

    def start_orchestration_versioned(
        self,
        name: str,
        version: str | None,
        instance_id: str,
        input: Any = None,
    ) -> ScheduledTask:
        """`start_orchestration` in an exact version; None: what the worker resolves."""
        return self._describe(
            type="orchestrationVersioned",
            name=name,
            version=version,
            instanceId=instance_id,
            input=json_text(input),
        )

    def start_orchestration_versioned_typed(
        self,
        name: str,
        version: str | None,
        instance_id: str,
        input: Any = None,
    ) -> ScheduledTask:
        """The same with a `str` input sent as it is."""
        return self._describe(
            type="orchestrationVersioned",
            name=name,
            version=version,
            instanceId=instance_id,
            input=typed_text(input),
        )

    # Values, and the next execution.

    def new_guid(self) -> ScheduledTask:
        """A UUID as text; costs neither an activity nor an event."""
        return self._describe(type="newGuid")

    def utc_now(self) -> ScheduledTask:
        """Milliseconds since the Unix epoch; costs neither an activity nor an event."""
        return self._describe(type="utcNow")

    def get_kv_value_from_instance(self, instance_id: str, key: str) -> ScheduledTask:
        """Another instance's value as text, or None; read by an activity."""
        return self._describe(
            type="activity",
            name=KV_SYSCALL,
            input=json_text({"instance_id": instance_id, "key": key}),
        )

    def _continue_descriptor(
        self,
        input: Any = None,
        version: str | None = None,
    ) -> ScheduledTask:
        if version is None:
            return ScheduledTask(type="continueAsNew", input=json_text(input))
        return ScheduledTask(type="continueAsNewVersioned", input=json_text(input), version=version)

    def continue_as_new_typed(self, input: Any = None) -> ScheduledTask:
        """`continue_as_new` with a `str` input sent as it is."""
        return self._describe(type="continueAsNew", input=typed_text(input))

    def continue_as_new_versioned(
        self,
        input: Any,
        version: str | None = None,
    ) -> ScheduledTask:
        """`continue_as_new` in an exact version of the code; None: what the worker resolves."""
        return self._describe(
            type="continueAsNewVersioned", input=json_text(input), version=version
        )

    # Together.

    def all(self, tasks: Sequence[Mapping[str, Any]]) -> ScheduledTask:
        """`{"ok": value}` or `{"err": text}` of each, in order; never raises."""
        return self._describe(type="join", tasks=list(tasks))

    def race(self, *tasks: Mapping[str, Any]) -> ScheduledTask:
        """`{"index": i, "value": v}` of the first of two or more; raises its error if it failed."""
        return self._describe(type="select", tasks=list(tasks))

    def all_typed(self, tasks: Sequence[Mapping[str, Any]]) -> ScheduledTask:
        """As `all`, with the values of those that succeeded bare."""
        return self._describe(type="join", tasks=list(tasks), _typed_all=True)

    def race_typed(self, *tasks: Mapping[str, Any]) -> ScheduledTask:
        """`race`; the value is decoded alike."""
        return self._describe(type="select", tasks=list(tasks), _typed_race=True)
