"""What clients can do, with workers, on each of the stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, cast

import psycopg
import pytest

from duroxide import (
    ActivityContext,
    AsyncClient,
    AsyncRuntime,
    CancelRequest,
    ClientError,
    CodecError,
    InstanceExists,
    InstanceNotFound,
    MemoryProvider,
    OrchestrationContext,
    OrchestrationFailed,
    Registry,
    RuntimeOptions,
    Signal,
    SignalRequest,
    SqliteProvider,
    StartRequest,
    SubOrchestrationError,
    WaitTimeout,
    activity,
    orchestration,
)
from duroxide.codec import decode_event
from duroxide.history import OrchestrationStarted
from duroxide.providers.base import InstanceStatus, MessageKind, Provider, TurnPoll
from duroxide.runtime.watching import LOOK_AGAIN_MS
from duroxide_pg.provider import PostgresProvider
from tests.provider.postgres_store import empty, installed_dsn

__all__ = ["installed_dsn"]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Provider]:
    provider: Provider
    match request.param:
        case "memory":
            provider = MemoryProvider()
        case "sqlite":
            provider = SqliteProvider.in_memory()
        case _:
            dsn = request.getfixturevalue("installed_dsn")
            empty(dsn)
            provider = PostgresProvider(dsn)
    await provider.start()
    yield provider
    await provider.close()


@pytest.fixture
async def client(store: Provider) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(store) as client:
        yield client


def begun(state: InstanceStatus) -> bool:
    return True


class Gated:
    """A worker's way to a store: nothing new comes through while it is shut."""

    def __init__(self, store: Provider) -> None:
        self.store = store
        self.is_shut = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def poll_turns(self, **question: Any) -> TurnPoll:
        while True:
            if self.is_shut:
                question["want"] = 0
            answer = await self.store.poll_turns(**{**question, "wait_ms": 0})
            if answer.turns or self.is_shut or not question["wait_ms"]:
                return answer
            await asyncio.sleep(0.01)


class TestLivesOfAnId:
    async def test_what_one_worker_has_in_memory_is_not_taken_for_what_began_at_another(
        self, store: Provider, client: AsyncClient
    ) -> None:
        @orchestration
        async def echo(ctx: OrchestrationContext, word: str) -> str:
            await ctx.wait_event("go")
            return word

        registry = Registry().add(echo)
        ways = [cast("Any", Gated(store)) for _ in range(2)]
        ways[1].is_shut = True
        options = RuntimeOptions(long_poll_ms=50)
        async with (
            AsyncRuntime(ways[0], registry, options),
            AsyncRuntime(ways[1], registry, options),
        ):
            await client.start(echo, "old", instance_id="e")
            await client.wait_until("e", begun)  # the first worker has it in memory
            ways[0].is_shut, ways[1].is_shut = True, False
            await client.delete("e", force=True)
            await client.start(echo, "new", instance_id="e")
            await client.wait_until("e", begun)
            ways[0].is_shut, ways[1].is_shut = False, True
            await client.raise_event("e", "go")
            assert await client.result("e", echo) == "new"
            (first, *_) = await client.history("e")
            assert isinstance(first.kind, OrchestrationStarted)
            assert first.kind.input == '"new"'


class TestHeartbeats:
    async def test_another_worker_goes_on_where_the_first_one_stopped(
        self, store: Provider, client: AsyncClient
    ) -> None:
        seen: list[Any] = []
        half_way = asyncio.Event()

        @activity
        async def copy(ctx: ActivityContext) -> int:
            seen.append(ctx.last_heartbeat)
            if ctx.last_heartbeat is None:
                ctx.heartbeat({"done": 5, "name": "naïve \\ \n ☃"})
                half_way.set()
                await ctx.cancelled()
            return 10 - int(ctx.last_heartbeat["done"] if ctx.last_heartbeat else 0)

        @orchestration
        async def job(ctx: OrchestrationContext) -> int:
            return await ctx.call(copy)

        registry = Registry().add(job, copy)
        await client.start(job, instance_id="j")
        first = AsyncRuntime(store, registry)
        await first.start()
        await half_way.wait()
        await first.stop()
        async with AsyncRuntime(store, registry):
            assert await client.result("j", job) == 5
        assert seen == [None, {"done": 5, "name": "naïve \\ \n ☃"}]


class TestSuspending:
    async def test_what_comes_meanwhile_is_there_on_resume_in_order(
        self, store: Provider, client: AsyncClient
    ) -> None:
        @orchestration
        async def collects(ctx: OrchestrationContext) -> list[int]:
            mine = ctx.queue("numbers")
            return [int(await mine.get()) for _ in range(3)]

        await client.start(collects, instance_id="c")
        async with AsyncRuntime(store, Registry().add(collects)):
            await client.wait_until("c", begun)
            await client.enqueue("c", "numbers", 1)
            assert await client.suspend("c")
            assert not await client.suspend("c")
            await client.enqueue("c", "numbers", 2)
            await client.enqueue("c", "numbers", 3)
            await client.start(collects, instance_id="other")
            await client.wait_until("other", begun)  # workers are at work
            state = await client.wait_until("c", lambda s: s.suspended_at_ms is not None)
            assert not state.status.is_terminal
        async with AsyncRuntime(store, Registry().add(collects)):  # another one, later
            await client.cancel("other")
            await client.wait("other")
            assert await client.status("c") == state
            assert await client.resume("c")
            assert not await client.resume("c")
            assert await client.result("c", collects) == [1, 2, 3]
            with pytest.raises(ClientError, match="'c' can't be suspended: it has ended"):
                await client.suspend("c")
            for call in (client.suspend, client.resume):
                with pytest.raises(InstanceNotFound, match="'unknown'"):
                    await call("unknown")

    async def test_a_timer_and_an_activity_that_end_meanwhile(
        self, store: Provider, client: AsyncClient
    ) -> None:
        gate, ended = asyncio.Event(), asyncio.Event()

        @activity
        async def slow() -> str:
            await gate.wait()
            ended.set()
            return "done"

        @orchestration
        async def both(ctx: OrchestrationContext) -> str:
            work = ctx.call(slow)
            await ctx.sleep(timedelta(milliseconds=10))
            return await work

        async with AsyncRuntime(store, Registry().add(slow, both)):
            await client.start(both, instance_id="b")
            await client.wait_until("b", begun)
            await client.suspend("b")
            before = await client.history("b")
            gate.set()
            await ended.wait()
            await client.start(both, instance_id="other")
            await client.result("other", both)
            assert await client.history("b") == before
            await client.resume("b")
            assert await client.result("b", both) == "done"

    async def test_cancelling_what_is_suspended_ends_it(
        self, store: Provider, client: AsyncClient
    ) -> None:
        @orchestration
        async def waits(ctx: OrchestrationContext) -> None:
            await ctx.wait_event("never")

        async with AsyncRuntime(store, Registry().add(waits)):
            await client.start(waits, instance_id="w")
            await client.wait_until("w", begun)
            await client.suspend("w")
            await client.cancel("w", "no need")
            with pytest.raises(OrchestrationFailed, match="no need"):
                await client.result("w")


IMPATIENT = RuntimeOptions(
    max_attempts=2,
    unregistered_backoff_ms=(1, 1),
    orphan_retention_ms=0,
    drain_timeout_ms=0,
    cancellation_grace_ms=0,
)


class TestDeadLetters:
    async def test_what_nobody_could_begin_begins_once_the_code_is_there(
        self, store: Provider, client: AsyncClient
    ) -> None:
        @orchestration
        async def late(ctx: OrchestrationContext, word: str) -> str:
            return word

        async with AsyncRuntime(store, Registry(), IMPATIENT):
            await client.start(late, "hello", instance_id="l")
            assert (await client.wait("l")).status.value == "Failed"
        assert [s.instance_id for s in (await client.poisoned()).instances] == ["l"]
        page = await client.dead_letters()
        (letter,) = page.letters
        assert (letter.instance_id, letter.kind, page.next_cursor) == ("l", MessageKind.START, None)
        assert "hello" in letter.body
        assert letter.reason == "delivered 3 times without effect"
        assert await client.requeue("l") == 1
        assert await client.status("l") is None
        async with AsyncRuntime(store, Registry().add(late)):
            assert await client.result("l", late) == "hello"
        assert (await client.dead_letters()).letters == ()
        with pytest.raises(ClientError, match="'l' has ended, and not for want of a worker"):
            await client.requeue("l")

    async def test_a_wrong_deployment_is_undone_without_losing_anything(
        self, store: Provider, client: AsyncClient
    ) -> None:
        gate = asyncio.Event()

        @activity
        async def slow() -> str:
            await gate.wait()
            return "done"

        @orchestration
        async def kid(ctx: OrchestrationContext) -> None:
            await ctx.wait_event("never")

        @orchestration(name="flow")
        async def right(ctx: OrchestrationContext) -> list[str]:
            mine = ctx.queue("words")
            ctx.set_kv_value("words", "1")
            words = [await mine.get()]
            timer, work = ctx.sleep(timedelta(milliseconds=20)), ctx.call(slow)
            child = ctx.call_child(kid, id="kid")
            ctx.set_custom_status("open")
            words.append(await mine.get())
            try:
                await child
            except SubOrchestrationError:
                words.append("kid cancelled")
            await timer
            words.append(await work)
            return words

        @orchestration(name="flow")
        async def wrong(ctx: OrchestrationContext) -> str:
            return await ctx.call(slow)

        good, bad = Registry().add(right, slow, kid), Registry().add(wrong, slow, kid)
        async with AsyncRuntime(store, good, RuntimeOptions(drain_timeout_ms=0)):
            await client.start("flow", instance_id="f")
            await client.enqueue("f", "words", "one")
            await client.wait_until("f", lambda state: state.custom_status == "open")
            await client.wait_until("kid", begun)
        before = await client.history("f")
        await client.enqueue("f", "words", "two")  # what comes after the end is for nobody
        async with AsyncRuntime(store, bad, IMPATIENT):
            assert (await client.wait("f")).status.value == "Failed"
            await client.wait("kid")
        kept = len((await client.dead_letters("f")).letters)
        assert await client.requeue("f") == kept >= 1
        after = await client.history("f")
        assert [event.kind for event in after[: len(before)]] == [event.kind for event in before]
        assert not (await client.wait_until("f", begun)).status.is_terminal
        gate.set()
        async with AsyncRuntime(store, good):
            result = await client.result("f", right)
        assert result == ["one", "two", "kid cancelled", "done"]

    async def test_messages_to_nobody_are_kept_until_somebody_is_there(
        self, store: Provider, client: AsyncClient
    ) -> None:
        @orchestration
        async def takes(ctx: OrchestrationContext) -> list[str]:
            mine = ctx.queue("q")
            return [await mine.get(), await mine.get()]

        async with AsyncRuntime(store, Registry().add(takes), IMPATIENT):
            await client.enqueue("t", "q", "early")
            async with asyncio.timeout(10):
                while not (await client.dead_letters("t")).letters:  # noqa: ASYNC110  # nobody tells
                    await asyncio.sleep(0.01)
            (letter,) = (await client.dead_letters()).letters
            assert letter.reason == "no such instance"
            await client.start(takes, instance_id="t")
            await client.wait_until("t", begun)
            assert await client.requeue("t") == 1
            await client.enqueue("t", "q", "late")
            assert await client.result("t", takes) == ["early", "late"]


class TestManyAtOnce:
    async def test_a_bad_request_leaves_its_neighbours_alone(
        self, store: Provider, client: AsyncClient
    ) -> None:
        @orchestration
        async def takes(ctx: OrchestrationContext, number: int) -> str:
            return f"{number}{await ctx.queue('q').get()}"

        word = Signal(name="q", data="!", queued=True)
        await client.start(takes, 0, instance_id="old")
        async with AsyncRuntime(store, Registry().add(takes)):
            await client.wait_until("old", begun)
            answers = await client.send_many(
                [
                    StartRequest(orchestration=takes, args=(1,), instance_id="one", signal=word),
                    StartRequest(orchestration=takes, args=(0,), instance_id="nul\0"),
                    StartRequest(orchestration=takes, args=(2,), instance_id="two"),
                    StartRequest(orchestration=takes, args=(0,), instance_id="sub::x"),
                    StartRequest(orchestration=takes, args=(object(),), instance_id="bad"),
                    StartRequest(
                        orchestration=takes, args=(9,), instance_id="old", if_exists="error"
                    ),
                    StartRequest(
                        orchestration=takes, args=(3,), instance_id="new", if_exists="error"
                    ),
                    StartRequest(
                        orchestration=takes, args=(4,), instance_id="new", if_exists="error"
                    ),
                    SignalRequest(instance_id="two", signal=word),
                    SignalRequest(instance_id="bad", signal=Signal(name="q", data=object())),
                    CancelRequest(instance_id="old", reason="enough"),
                    StartRequest(orchestration="takes", args=(5,)),
                ]
            )
            wrong = {n: answer.error for n, answer in enumerate(answers) if not answer.ok}
            assert {n: type(error) for n, error in wrong.items()} == {
                1: ClientError,
                3: ClientError,
                4: CodecError,
                5: InstanceExists,
                7: InstanceExists,
                9: CodecError,
            }
            assert [answer.instance_id for answer in answers[:3]] == ["one", "nul\0", "two"]
            assert await client.result("one", takes) == "1!"
            assert await client.result("two", takes) == "2!"
            with pytest.raises(OrchestrationFailed, match="enough"):
                await client.result("old")
            unnamed = answers[-1].instance_id
            assert unnamed is not None
            await client.enqueue(unnamed, "q", "?")
            assert await client.result(unnamed, takes) == "5?"
            assert await client.status("bad") is None
        assert await client.send_many([]) == []

    async def test_hundreds_in_few_commits(self, store: Provider, client: AsyncClient) -> None:
        word = Signal(name="q", data="!", queued=True)
        answers = await client.send_many(
            [
                StartRequest(orchestration="any", instance_id=f"i{n}", signal=word)
                for n in range(300)
            ]
        )
        assert all(answer.ok for answer in answers)
        seen = 0
        while turns := (await store.poll_turns(worker="w", want=100, lease_ms=60_000)).turns:
            assert {len(turn.messages) for turn in turns} == {2}
            seen += len(turns)
        assert seen == 300


async def waited_for(store: Any, dsn: str) -> None:
    """Return once somebody waits for the instance "t", in the way that he has to be told."""
    async with asyncio.timeout(10):
        if not isinstance(store, PostgresProvider):
            while "t" not in store._changes._watches:  # noqa: ASYNC110  # tells nobody
                await asyncio.sleep(0)
            return
        waiting = "select count(*) from duroxide.wake_waiters where topic = 'i:t'"
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            while await (await connection.execute(waiting)).fetchone() == (0,):  # noqa: ASYNC110  # likewise
                await asyncio.sleep(0.02)


class TestWaiting:
    """Waits end by the store's change feed: long before a client would look again by itself."""

    @pytest.fixture
    def store_of_client(self, store: Provider, request: pytest.FixtureRequest) -> Provider:
        """On PostgreSQL another one than the worker's, as in another process."""
        if isinstance(store, PostgresProvider):
            return PostgresProvider(request.getfixturevalue("installed_dsn"))
        return store

    async def test_beginnings_statuses_and_values_are_told(
        self, store: Provider, store_of_client: Provider, installed_dsn: str
    ) -> None:
        @orchestration
        async def tells(ctx: OrchestrationContext) -> None:
            await ctx.wait_event("one")
            ctx.set_kv_value("k", "v")
            await ctx.wait_event("two")
            ctx.set_custom_status("s")
            await ctx.wait_event("three")

        quick = timedelta(milliseconds=LOOK_AGAIN_MS * 0.8)
        await store_of_client.start()
        client, other = AsyncClient(store), AsyncClient(store_of_client)
        async with asyncio.TaskGroup() as group, AsyncRuntime(store, Registry().add(tells)):
            wait = group.create_task(other.wait_until("t", begun, quick))
            await waited_for(store_of_client, installed_dsn)
            await client.start(tells, instance_id="t")
            await wait
            value = group.create_task(other.wait_for_key_value("t", "k", quick))
            await waited_for(store_of_client, installed_dsn)
            await client.raise_event("t", "one")
            assert await value == "v"
            status = group.create_task(other.wait_for_custom_status("t", 0, quick))
            await waited_for(store_of_client, installed_dsn)
            await client.raise_event("t", "two")
            assert (await status).custom_status == "s"
            end = group.create_task(other.wait_for_custom_status("t", 1, quick))
            await waited_for(store_of_client, installed_dsn)
            await client.raise_event("t", "three")
            assert (await end).status.is_terminal
        await other.close()
        if store_of_client is not store:
            await store_of_client.close()


class TestShortWaits:
    @pytest.mark.parametrize(
        "timeout", [timedelta(0), timedelta(seconds=-1), timedelta(microseconds=1)]
    )
    async def test_what_is_there_already_is_found_however_short_the_wait(
        self, store: Provider, client: AsyncClient, timeout: timedelta
    ) -> None:
        @orchestration
        async def keeps(ctx: OrchestrationContext) -> None:
            ctx.set_custom_status("here")
            ctx.set_kv_value("k", "v")

        async with AsyncRuntime(store, Registry().add(keeps)):
            await client.start(keeps, instance_id="i")
            await client.wait("i")
        assert (await client.wait("i", timeout)).status.is_terminal
        assert (await client.wait_for_custom_status("i", 0, timeout)).custom_status == "here"
        assert await client.wait_for_key_value("i", "k", timeout) == "v"
        for waiting in (
            client.wait("nobody", timeout),
            client.wait_for_custom_status("nobody", 0, timeout),
            client.wait_for_key_value("i", "other", timeout),
        ):
            with pytest.raises(WaitTimeout):
                await waiting

    async def test_a_word_for_what_exists_that_is_none_is_refused(
        self, client: AsyncClient
    ) -> None:
        with pytest.raises(ValueError, match="if_exists must be 'ignore' or 'error', not 'raise'"):
            await client.start("o", if_exists=cast("Any", "raise"))


class TestOddTexts:
    async def test_a_cancellation_and_a_failure_in_odd_words_end_the_instance(
        self, store: Provider, client: AsyncClient
    ) -> None:
        odd = "a\0b\ud800c"

        @activity
        async def fail() -> None:
            raise ValueError(odd)

        @orchestration
        async def fails(ctx: OrchestrationContext) -> None:
            await ctx.call(fail)

        @orchestration
        async def waits(ctx: OrchestrationContext) -> None:
            await ctx.wait_event("never")

        @orchestration
        async def parent(ctx: OrchestrationContext) -> str:
            with pytest.raises(SubOrchestrationError) as failed:
                await ctx.call_child(fails)
            return str(failed.value)

        registry = Registry().add(fails).add(waits).add(parent).add(fail)
        async with AsyncRuntime(store, registry):
            await client.start(fails, instance_id="f")
            await client.start(waits, instance_id="w")
            await client.start(parent, instance_id="p")
            await client.wait_until("w", begun)
            await client.cancel("w", odd)
            for instance_id, words in (
                ("f", "ValueError: a\ufffdb\ufffdc"),
                ("w", "canceled: a\ufffdb"),
            ):
                with pytest.raises(OrchestrationFailed, match=words):
                    await client.result(instance_id)
            assert odd in await client.result("p", parent)

    async def test_an_empty_id_is_refused_and_not_replaced(self, client: AsyncClient) -> None:
        for sending in (
            client.start("o", instance_id=""),
            client.raise_event("", "e"),
            client.enqueue("", "q"),
            client.cancel(""),
        ):
            with pytest.raises(ClientError, match="the instance id is empty"):
                await sending

    @pytest.mark.parametrize("odd", ["a\0b", "a\ud800b"])
    async def test_a_start_that_could_never_be_written_is_refused(
        self, client: AsyncClient, odd: str
    ) -> None:
        with pytest.raises(ClientError, match="the orchestration name contains a"):
            await client.start(odd, instance_id="i")
        with pytest.raises(ClientError, match="the version contains a"):
            await client.start("o", instance_id="i", version=odd)
        assert await client.status("i") is None

    async def test_the_view_of_histories_shows_what_the_client_reads(
        self, installed_dsn: str
    ) -> None:
        texts = [
            "a\0b",
            "a\ud800b",
            '{"type":"x"}',
            '"type":"x"',
            "\\",
            '\\"type":"',
            "",
            "\u00fc\n",
        ]

        @orchestration
        async def fails(ctx: OrchestrationContext, text: str) -> None:
            raise ValueError(text)

        empty(installed_dsn)
        store = PostgresProvider(installed_dsn)
        async with AsyncClient(store) as client, AsyncRuntime(store, Registry().add(fails)):
            for number, text in enumerate(texts):
                await client.start(fails, text, instance_id=str(number))
                await client.wait(str(number))
            told = {str(n): await client.history(str(n)) for n in range(len(texts))}
        await store.close()
        with psycopg.connect(installed_dsn) as connection:
            question = "select instance_id, event_id, event_type, event_data from duroxide.history"
            rows = connection.execute(question).fetchall()
        assert len(rows) == sum(map(len, told.values()))
        for instance_id, event_id, event_type, event_data in rows:
            event = told[instance_id][event_id - 1]
            assert (event.event_id, type(event.kind).__name__) == (event_id, event_type)
            assert decode_event(event_data) == event
