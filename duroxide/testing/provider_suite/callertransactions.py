"""Messages sent inside a transaction of the caller's: there once it has committed, or never."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import cast

import pytest

from duroxide.clock import SystemClock
from duroxide.errors import ClientError
from duroxide.providers.base import CallerTransactions, Message, MessageKind
from duroxide.testing.provider_suite.capabilities import needs
from duroxide.testing.provider_suite.catalogue import confirms
from duroxide.testing.provider_suite.driver import StoreDriver, SuiteBase, bodies, message

SOON_S = 5.0  # far more than a waiting poll needs to notice; a failing one takes as long

BOTH = pytest.mark.parametrize("is_async", [False, True])


class RolledBack(Exception):
    """Ends the transaction of a caller who has thought better of it."""


async def send(store: StoreDriver, connection: object, is_async: bool, *messages: Message) -> None:
    """In the caller's transaction, by a blocking connection or by an async one."""
    caller = cast("CallerTransactions", store.provider)
    if is_async:
        await caller.send_within_async(connection, messages)
    else:
        caller.send_within(connection, messages)


def ready(store: StoreDriver) -> None:
    """Move the clock to the time by which the database itself dates what callers send."""
    needs(store, "caller_transaction")
    store.clock.advance(max(SystemClock().now_ms() + 60_000 - store.now_ms(), 0))


class CallerTransactionSuite(SuiteBase):
    @confirms("callers_send_with_their_rows_or_not_at_all")
    @BOTH
    async def test_what_a_caller_sends_is_there_once_he_commits(
        self, store: StoreDriver, is_async: bool
    ) -> None:
        ready(store)
        sent = (message("a", "start", kind=MessageKind.START), message("b", "one"))
        async with self.caller_transaction(store.provider, is_async=is_async) as connection:
            await send(store, connection, is_async, *sent)
            await send(store, connection, is_async, message("b", "two"))
        turns = {turn.instance_id: bodies(turn) for turn in await store.poll()}
        assert turns == {"a": ["start"], "b": ["one", "two"]}

    @confirms("callers_send_with_their_rows_or_not_at_all")
    @BOTH
    async def test_what_a_caller_rolls_back_was_never_sent(
        self, store: StoreDriver, is_async: bool
    ) -> None:
        ready(store)
        transaction = self.caller_transaction(store.provider, is_async=is_async)
        with suppress(RolledBack):
            async with transaction as connection:
                await send(store, connection, is_async, message("a", "one"))
                raise RolledBack
        assert await store.poll() == ()

    async def test_what_a_caller_sends_comes_after_what_was_there(self, store: StoreDriver) -> None:
        ready(store)
        await store.start("a")
        async with self.caller_transaction(store.provider, is_async=False) as connection:
            await send(store, connection, False, message("a", "one"), message("a", "two"))
        await store.send("a", "three")
        assert bodies(await store.lease("a")) == ["start", "one", "two", "three"]

    async def test_a_waiting_poll_sees_what_a_caller_commits(self, store: StoreDriver) -> None:
        ready(store)
        poll = asyncio.create_task(store.poll(wait_ms=60_000))
        await asyncio.sleep(0.01)
        async with self.caller_transaction(store.provider, is_async=False) as connection:
            await send(store, connection, False, message("a", "start", kind=MessageKind.START))
        async with asyncio.timeout(SOON_S):
            turns = await poll
        assert [bodies(turn) for turn in turns] == [["start"]]

    @BOTH
    async def test_without_a_transaction_nothing_is_sent(
        self, store: StoreDriver, is_async: bool
    ) -> None:
        ready(store)
        by_itself = self.caller_transaction(store.provider, is_async=is_async, begins=False)
        async with by_itself as connection:
            with pytest.raises(ClientError):
                await send(store, connection, is_async, message("a", "one"))
        assert await store.poll() == ()

    @BOTH
    async def test_what_is_no_connection_is_refused(
        self, store: StoreDriver, is_async: bool
    ) -> None:
        ready(store)
        with pytest.raises(TypeError):
            await send(store, object(), is_async, message("a", "one"))
