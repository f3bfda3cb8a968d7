"""A way to the server on which a worker dies: before, in the middle of or after a request that is named."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class Moment(Enum):
    BEFORE = "before"  # the request does not reach the server
    BEFORE_COMMIT = (
        "before its COMMIT"  # the server has done all of it but the COMMIT in the same packet
    )
    AFTER = "after"  # the server has done it; its answer does not reach the worker


_COMMIT = b"COMMIT\0"
_TO_THE_MESSAGE = 6  # bytes from the start of a Parse message to its text: type, length, no name
_FLUSH = b"H\0\0\0\x04"


class Trap:
    """Passes everything on until the request comes; then it calls `spring` and lets nothing through."""

    def __init__(self, request: bytes, moment: Moment, spring: Callable[[], None]) -> None:
        self.dsn = ""
        self.requests = 0  # what came from the worker, in packets
        self.is_sprung = threading.Event()
        self._request = request
        self._moment = moment
        self._spring = spring
        self._seen = False
        self._open: set[asyncio.Task[None]] = set()

    @contextmanager
    def to(self, dsn: str) -> Iterator[Trap]:
        """Listen, in a thread; `self.dsn` leads through the trap."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        server = asyncio.run_coroutine_threadsafe(self._listen(dsn), loop).result(10)
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._close(server), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _listen(self, dsn: str) -> asyncio.Server:
        parameters = conninfo_to_dict(dsn)
        host, port = str(parameters["host"]), int(str(parameters.get("port") or 5432))

        def connect() -> Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
            if host.startswith("/"):
                return asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
            return asyncio.open_connection(host, port)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there_reader, there_writer = await connect()
            answered = asyncio.Event()
            requests = asyncio.ensure_future(self._requests(reader, there_writer, answered))
            replies = asyncio.ensure_future(self._replies(there_reader, writer, answered))
            replies.add_done_callback(lambda _: None if self._seen else requests.cancel())
            self._open.add(requests)
            await asyncio.wait((requests,))
            self._open.remove(requests)
            replies.cancel()
            for end in (writer, there_writer):
                end.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        self.dsn = make_conninfo(dsn, host=address[0], port=address[1])
        return server

    async def _close(self, server: asyncio.Server) -> None:
        server.close()
        while self._open:
            for requests in self._open:
                requests.cancel()
            await asyncio.sleep(0)

    async def _requests(
        self, reader: asyncio.StreamReader, there: asyncio.StreamWriter, answered: asyncio.Event
    ) -> None:
        while data := await reader.read(1 << 20):
            self.requests += 1
            if self._request in data and not self._seen:
                self._seen = True
                if self._moment is not Moment.BEFORE:
                    there.write(data if self._moment is Moment.AFTER else _without_commit(data))
                    answered.clear()
                    rest = asyncio.ensure_future(_pass_on(reader, there))  # of a long request
                    await answered.wait()
                    rest.cancel()
                self._spring()
                self.is_sprung.set()
                return
            if self.is_sprung.is_set():
                return
            there.write(data)
            await there.drain()

    async def _replies(
        self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, answered: asyncio.Event
    ) -> None:
        while data := await there.read(1 << 20):
            answered.set()
            if self._seen:
                return  # nothing comes through to a worker that is being killed
            with suppress(ConnectionError):
                writer.write(data)
                await writer.drain()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 20):
        writer.write(data)


def _without_commit(data: bytes) -> bytes:
    """What stands before the COMMIT, with a request to answer it."""
    return data[: data.index(_COMMIT) - _TO_THE_MESSAGE] + _FLUSH
