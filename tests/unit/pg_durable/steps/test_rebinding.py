"""A name service that changes its answers: only an address that the policy has passed is connected to.

The name service is a real one on UDP, and so are the two sites: one at an address that the policy
allows, one at an address of this machine that it does not.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from pg_durable.egress import Address, Blocked, Policy, parse_url
from pg_durable.steps.httpclient import HttpClient, SystemResolver

VETTED, INSIDE = "127.0.0.2", "127.0.0.1"
POLICY = Policy.parse("public", private=[f"{VETTED}/32"], ports=range(1024, 65536))


@dataclass
class NameService(asyncio.DatagramProtocol):
    """Answers each question about an address with the next of its answers; the last one stays."""

    answers: list[list[str]]
    asked: int = 0
    transport: Any = None  # of the event loop's own class

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        addresses = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        records = b"".join(
            b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04" + socket.inet_aton(address)
            for address in addresses
        )
        head = data[:2] + b"\x81\x80\x00\x01" + len(addresses).to_bytes(2, "big") + bytes(4)
        self.transport.sendto(head + data[12:] + records, addr)


@dataclass
class Resolver:
    """Asks that name service, as a machine without a cache would."""

    port: int

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        loop = asyncio.get_running_loop()
        labels = b"".join(bytes([len(label)]) + label.encode() for label in host.split("."))
        question = b"\x12\x34\x01\x00\x00\x01" + bytes(6) + labels + b"\x00\x00\x01\x00\x01"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            await loop.sock_sendto(client, question, ("127.0.0.1", self.port))
            answer = await asyncio.wait_for(loop.sock_recv(client, 512), 5)
        assert answer[:2] == question[:2]
        records = answer[len(question) :]
        return [
            ipaddress.ip_address(records[offset + 12 : offset + 16])
            for offset in range(0, len(records), 16)
        ]


@dataclass
class Site:
    seen: list[str] = field(default_factory=list)  # Host headers

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        self.seen += [
            line.partition(": ")[2]
            for line in request.decode().splitlines()
            if line.lower().startswith("host:")
        ]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()


@dataclass
class World:
    names: NameService
    client: HttpClient
    port: int
    vetted: Site
    inside: Site

    async def get(self, host: str = "rebind.example.org") -> int:
        target = parse_url(f"http://{host}:{self.port}/")
        return (await self.client.send(target, POLICY, "GET", {}, None)).status


@contextmanager
def listening(address: str, port: int = 0) -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        yield listener


@asynccontextmanager
async def world(*answers: list[str]) -> AsyncIterator[World]:
    loop = asyncio.get_running_loop()
    transport, names = await loop.create_datagram_endpoint(
        lambda: NameService(list(answers)), local_addr=("127.0.0.1", 0)
    )
    vetted, inside = Site(), Site()
    try:
        with listening(VETTED) as first:
            port = first.getsockname()[1]
            with listening(INSIDE, port) as second:
                async with (
                    await asyncio.start_server(vetted.answer, sock=first),
                    await asyncio.start_server(inside.answer, sock=second),
                ):
                    resolver = Resolver(transport.get_extra_info("sockname")[1])
                    client = HttpClient(max_response_bytes=1000, resolve=resolver)
                    yield World(names, client, port, vetted, inside)
    finally:
        transport.close()


async def test_a_name_is_looked_up_once_and_that_address_is_connected_to() -> None:
    """df-execution 12.29: rebinding."""
    async with world([VETTED], [INSIDE]) as the:
        assert await the.get() == 200
        assert the.names.asked == 1
        assert the.vetted.seen == [f"rebind.example.org:{the.port}"]
        with pytest.raises(Blocked, match="restricted range"):
            await the.get()
        assert the.inside.seen == []


async def test_of_several_answers_only_those_that_pass_are_used() -> None:
    async with world([INSIDE, VETTED, INSIDE]) as the:
        assert await the.get() == 200
        assert (len(the.vetted.seen), the.inside.seen) == (1, [])


async def test_nothing_is_connected_to_if_no_answer_passes() -> None:
    async with world([INSIDE, "10.0.0.1", "169.254.169.254"], [VETTED]) as the:
        with pytest.raises(Blocked, match=r"'rebind\.example\.org' is in a restricted range"):
            await the.get()
        assert the.names.asked == 1
        assert (the.vetted.seen, the.inside.seen) == ([], [])


async def test_a_name_that_no_name_service_takes_can_not_be_resolved() -> None:
    for name in (f"{'a' * 64}.example.org", f"{'a.' * 130}example.org"):
        with pytest.raises(OSError):
            await SystemResolver()(name, 80)
