"""A connection to the server that can be cut at an awkward moment."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class Proxy:
    """Passes bytes on both ways, until it is told to lose a request or what the server answers."""

    def __init__(self) -> None:
        self.dsn = ""
        self.cuts = 0
        self._loses_replies_to: bytes | None = None
        self._loses: bytes | None = None
        self._chance = random.Random()
        self._one_in = 0
        self._serving: set[asyncio.Task[None]] = set()

    def lose_the_reply_to(self, request: bytes) -> None:
        """The next request with these bytes reaches the server, and the connection ends with its reply."""
        self._loses_replies_to = request

    def lose(self, request: bytes) -> None:
        """The next request with these bytes does not reach the server, and the connection ends."""
        self._loses = request

    def lose_replies_at_random(self, chance: random.Random, *, one_in: int) -> None:
        """From now on, one in so many requests reaches the server, and its connection ends with the reply."""
        self._chance, self._one_in = chance, one_in

    @asynccontextmanager
    async def to(self, dsn: str) -> AsyncIterator[Proxy]:
        parameters = conninfo_to_dict(dsn)
        host, port = str(parameters["host"]), int(str(parameters.get("port") or 5432))

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._serving.add(task)
            try:
                if host.startswith("/"):
                    path = f"{host}/.s.PGSQL.{port}"
                    server_reader, server_writer = await asyncio.open_unix_connection(path)
                else:
                    server_reader, server_writer = await asyncio.open_connection(host, port)
            except BaseException:
                writer.close()
                raise
            await self._pass_on(reader, writer, server_reader, server_writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        self.dsn = make_conninfo(dsn, host=address[0], port=address[1])
        try:
            yield self
        finally:
            server.close()
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        is_cut = asyncio.Event()

        async def requests() -> None:
            while data := await reader.read(65_536):
                if self._loses is not None and self._loses in data:
                    self._loses = None
                    self.cuts += 1
                    return
                if self._loses_replies_to is not None and self._loses_replies_to in data:
                    self._loses_replies_to = None
                    is_cut.set()
                if self._one_in and self._chance.randrange(self._one_in) == 0:
                    is_cut.set()
                server_writer.write(data)
                await server_writer.drain()

        async def replies() -> None:
            while data := await server_reader.read(65_536):
                if is_cut.is_set():
                    self.cuts += 1
                    return  # the server has done it, and nobody will hear of it
                writer.write(data)
                await writer.drain()

        tasks = [asyncio.create_task(requests()), asyncio.create_task(replies())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for end in (writer, server_writer):
                end.close()
            await asyncio.gather(*tasks, return_exceptions=True)
            for end in (writer, server_writer):
                with suppress(ConnectionError):
                    await end.wait_closed()
