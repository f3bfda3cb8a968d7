"""Lines 28 and 31 of the checklist: what comes back from a web server, and what does not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.crash.receiver import http_settings
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.standing import shared_database
from tests.fixtures.workers import worker_thread
from tests.fixtures.workflows import Workflows, eventually

LIMIT = 10_000


@dataclass
class Server:
    """Answers each path with what is set for it; `/hold` never answers."""

    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    gone: threading.Event = field(
        default_factory=threading.Event
    )  # who asked for /hold has hung up
    port: int = 0
    more_headers: int = 0

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    told = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.paths.append(self.path)
            if self.path == "/hold":
                self.connection.settimeout(30)
                assert self.connection.recv(1) == b""  # the end of the connection
                told.gone.set()
                return
            status, body = told.answers[self.path]
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(body)))
            if 300 <= status < 400:
                self.send_header("Location", "/elsewhere")
            for number in range(told.more_headers):
                self.send_header(f"X-{number:04}", "x" * 994)  # a thousand bytes
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:
                pass  # it had enough

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # inherited name
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.port = listening.server_address[1]
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield told
    listening.shutdown()
    listening.server_close()
    thread.join()


@pytest.fixture(scope="module")
def with_worker(
    postgres_server: PostgresServer, database_owner: tuple[str, str], server: Server
) -> Iterator[Workflows]:
    """A session in a database whose worker may reach the server."""
    settings = {**http_settings(server.port), "http_max_response_bytes": LIMIT}
    with (
        shared_database(postgres_server, database_owner, "http") as database,
        worker_thread(database.dsn, **settings),
    ):
        session = Workflows.connect(database.dsn)
        yield session
        session.connection.close()


@pytest.fixture
def web(with_worker: Workflows, server: Server) -> Workflows:
    server.paths.clear()
    server.gone.clear()
    return with_worker


@pytest.mark.parametrize(
    ("status", "ok", "body"), [(204, True, b""), (302, False, b"moved"), (404, False, b"none")]
)
def test_statuses_that_are_results(
    web: Workflows, server: Server, status: int, ok: bool, body: bytes
) -> None:
    """df-execution 12.28: 204, 3xx, 404."""
    server.answers["/x"] = (status, body)
    result = web.finish(f"df.http('{server.url}/x', 'GET')")
    assert (result["status"], result["ok"], result["body"]) == (status, ok, body.decode())
    assert server.paths == ["/x"]  # and nowhere else


@pytest.mark.parametrize(
    ("body", "preview"),
    [
        ("x" * 511, "x" * 511),
        ("x" * 512, "x" * 512),
        ("x" * 513, "x" * 512 + "... [truncated, 513 bytes total]"),
        ("x" * 511 + "é", "x" * 511 + "... [truncated, 513 bytes total]"),
    ],
    ids=["511", "512", "513", "a character of two bytes"],
)
def test_a_server_error_fails_with_the_beginning_of_what_it_said(
    web: Workflows, server: Server, body: str, preview: str
) -> None:
    """df-execution 12.28: 500, preview of 511 512 513, cut character."""
    server.answers["/x"] = (500, body.encode())
    error = web.fail(f"df.http('{server.url}/x', 'GET')")
    assert error == f"HTTP GET {server.url}/x returned 500: {preview}"


def test_a_response_above_the_limit_fails_and_names_it(web: Workflows, server: Server) -> None:
    """df-execution 12.31: limits."""
    server.answers["/fits"] = (200, b"x" * LIMIT)
    server.answers["/large"] = (200, b"x" * (LIMIT + 1))
    assert len(web.finish(f"df.http('{server.url}/fits', 'GET')")["body"]) == LIMIT
    error = web.fail(f"df.http('{server.url}/large', 'GET')")
    assert str(LIMIT) in error
    assert "http_max_response_bytes" in error


def test_headers_above_the_limit_fail_and_say_so(web: Workflows, server: Server) -> None:
    """df-execution 12.31: limits."""
    server.answers["/x"] = (200, b"")
    for server.more_headers in (65, 66):
        outcome = web.wait(instance := web.start(f"df.http('{server.url}/x', 'GET')"))
        assert outcome == ("completed" if server.more_headers == 65 else "failed")
    server.more_headers = 0
    assert "more than the limit of 65536" in str(web.error(instance))


def test_a_request_that_loses_its_race_ends(web: Workflows, server: Server) -> None:
    """df-execution 12.31: cancel in flight."""
    instance = web.start(f"df.http('{server.url}/hold', 'GET') | df.wait_for_signal('go')")
    eventually(lambda: server.paths == ["/hold"], what="the request is under way")
    web.one("select df.signal(%s, 'go')", instance)
    assert server.gone.wait(10), "the connection is still open"
    assert web.wait(instance) == "completed"
