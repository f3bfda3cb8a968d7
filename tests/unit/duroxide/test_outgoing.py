"""What a client is given in place of a text is refused there, and disturbs no turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from duroxide import AsyncClient, CancelRequest, Client, ClientError, MemoryProvider, SignalRequest
from duroxide.outgoing import Signal, StartRequest


@pytest.mark.parametrize(
    ("send", "words"),
    [
        (lambda c: c.start_orchestration(None, "O"), "instance id must be text, not None"),
        (lambda c: c.start_orchestration(5, "O"), "instance id must be text, not 5"),
        (lambda c: c.start_orchestration("i", None), "orchestration name must be text, not None"),
        (lambda c: c.start_orchestration_versioned(None, "O", 1, "1.0.0"), "instance id must"),
        (lambda c: c.start_orchestration_versioned("i", "O", 1, 2), "version must be text, not 2"),
        (lambda c: c.raise_event("i", None), "name of the event must be text, not None"),
        (lambda c: c.raise_event(7, "e"), "instance id must be text, not 7"),
        (lambda c: c.enqueue_event("i", 5), "name of the queue must be text, not 5"),
        (lambda c: c.cancel_instance(None), "instance id must be text, not None"),
        (lambda c: c.cancel_instance("i", 5), "reason must be text, not 5"),
    ],
)
def test_what_is_no_text_is_refused_by_the_client(send: Callable[[Any], Any], words: str) -> None:
    provider = MemoryProvider()
    with Client(provider) as client:
        with pytest.raises(ClientError, match=f"^Invalid input: the {words}"):
            send(client)
        assert client.list_all_instances() == []
        assert client.get_queue_depths().orchestrator_queue == 0


async def test_of_many_requests_those_alone_are_refused_that_are_no_text() -> None:
    provider = MemoryProvider()
    given: Any = None
    async with AsyncClient(provider) as client:
        answers = await client.send_many(
            [
                StartRequest(orchestration="O", instance_id="fine"),
                SignalRequest(instance_id="fine", signal=Signal(name=given)),
                CancelRequest(instance_id=given),
            ]
        )
    assert [answer.ok for answer in answers] == [True, False, False]
