"""HTTP/1.1 to vetted addresses: httpcore, with a network layer that looks names up itself.

httpcore is what httpx is built on. It follows no redirects, reads no proxy variables and lets the
network be replaced, which is all that is wanted here; Host header and TLS server name stay those of the
URL while the connection goes to an address that the policy has passed.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpcore
from httpcore import AnyIOBackend, AsyncNetworkBackend, AsyncNetworkStream

from pg_durable.egress import Address, Blocked, Policy, Target

CONNECT_TIMEOUT_S = 10.0
MAX_HEADER_BYTES = 64 * 1024
"""Of names and values, in a request and in a response."""

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[Address]]]
"""The addresses of a name, for a port; OSError if there are none."""


class ResponseTooLarge(Exception):
    """The response was cut off at a limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class VettedNetwork(AsyncNetworkBackend):
    """Connects to addresses that a policy allows, whatever the name service says."""

    def __init__(self, policy: Policy, resolve: Resolve) -> None:
        self._policy = policy
        self._look_up = resolve
        self._sockets = AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> AsyncNetworkStream:
        addresses = await self._resolve(host, port)
        allowed = [address for address in addresses if self._policy.allows_address(address)]
        if not allowed:
            raise Blocked(
                f"Blocked: the resolved IP address for '{host}' is in a restricted range. "
                "df.http() cannot access private or internal network addresses."
            )
        problem: Exception | None = None
        for address in allowed:
            try:
                stream = await self._sockets.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
                continue
            if _peer(stream) != address:
                await stream.aclose()
                raise Blocked(f"Blocked: the connection to '{host}' went to another address.")
            return stream
        assert problem is not None
        raise problem

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _resolve(self, host: str, port: int) -> Sequence[Address]:
        try:
            return [ipaddress.ip_address(host)]
        except ValueError:
            pass
        try:
            found = await self._look_up(host, port)
        except OSError as error:
            raise httpcore.ConnectError(f"{host} could not be resolved: {error}") from error
        return list(dict.fromkeys(found))


class SystemResolver:
    """The machine's own name service, in threads of its own: a dead one holds up nothing else."""

    def __init__(self, threads: int = 16) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="pg_durable: resolve")

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        loop = asyncio.get_running_loop()
        ask = functools.partial(socket.getaddrinfo, host.encode(), port, type=socket.SOCK_STREAM)
        answers = await loop.run_in_executor(self._threads, ask)
        return [ipaddress.ip_address(str(answer[4][0]).partition("%")[0]) for answer in answers]


def _peer(stream: AsyncNetworkStream) -> Address | None:
    name = stream.get_extra_info("server_addr")
    return None if name is None else ipaddress.ip_address(str(name[0]).partition("%")[0])


class HttpClient:
    """Sends one request a connection; nothing is shared between workflows."""

    def __init__(self, *, max_response_bytes: int, resolve: Resolve | None = None) -> None:
        self._resolve = resolve or SystemResolver()
        self._max_response_bytes = max_response_bytes
        self._tls = ssl.create_default_context()

    async def send(
        self,
        target: Target,
        policy: Policy,
        method: str,
        headers: Mapping[str, Sequence[str]],
        body: bytes | None,
    ) -> Response:
        """Send and read the whole response.

        Raises:
            Blocked: the address is not allowed.
            ResponseTooLarge: the body or the headers exceed the limit.
            httpcore.ConnectError, httpcore.ConnectTimeout: there is no connection.
            httpcore.ProtocolError, httpcore.NetworkError, httpcore.TimeoutException: it broke.
        """
        lines = [(b"Host", target.authority.encode())]
        lines += [
            (name.encode(), value.encode()) for name, values in headers.items() for value in values
        ]
        if body is not None:
            lines.append((b"Content-Length", str(len(body)).encode()))
        url = httpcore.URL(
            scheme=target.scheme.encode(),
            host=target.host.encode(),
            port=target.port,
            target=target.path.encode(),
        )
        async with (
            httpcore.AsyncConnectionPool(
                ssl_context=self._tls,
                network_backend=VettedNetwork(policy, self._resolve),
                max_connections=1,
            ) as pool,
            pool.stream(
                method,
                url,
                headers=lines,
                content=body,
                extensions={"timeout": {"connect": CONNECT_TIMEOUT_S}},
            ) as response,
        ):
            header_bytes = sum(len(name) + len(value) for name, value in response.headers)
            if header_bytes > MAX_HEADER_BYTES:
                raise ResponseTooLarge(
                    f"the response's headers are {header_bytes} bytes, more than the limit of {MAX_HEADER_BYTES}"
                )
            chunks: list[bytes] = []
            size = 0
            async for chunk in response.aiter_stream():
                size += len(chunk)
                if size > self._max_response_bytes:
                    raise ResponseTooLarge(
                        f"the response is larger than {self._max_response_bytes} bytes "
                        "(http_max_response_bytes)"
                    )
                chunks.append(chunk)
            return Response(
                status=response.status, headers=tuple(response.headers), body=b"".join(chunks)
            )
