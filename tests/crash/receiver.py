"""A web server that appends every request to a table before it answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg

Reaction = Callable[[str, str], None]
"""Called with the workflow and the key of a request."""


@contextmanager
def receiver(dsn: str, *, before_the_answer: Reaction = lambda *_: None) -> Iterator[int]:
    """The port of a server for `POST /<workflow>/<step>`; its key is the header Idempotency-Key."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            _, workflow, step = self.path.split("/")
            key = str(self.headers["Idempotency-Key"])
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(
                    "insert into requests (workflow, step, key) values (%s, %s, %s)",
                    [workflow, step, key],
                )
            before_the_answer(workflow, key)
            try:
                self.send_response(204)
                self.end_headers()
            except OSError:
                pass  # who asked is dead

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # inherited name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def http_settings(port: int) -> dict[str, Any]:
    """Let a worker reach it."""
    return {
        "http_mode": "allowlist",
        "http_allow": (f"localhost:{port}",),
        "http_private_allow": ("127.0.0.0/8", "::1/128"),
    }


def request(port: int, step: str) -> str:
    """A step that sends the request, as SQL that builds it."""
    return f"df.http('http://localhost:{port}/{{sys_instance_id}}/{step}', 'POST', '{{}}')"
