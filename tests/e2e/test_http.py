"""HTTP nodes against a real server on this machine, which the worker is allowed to reach."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.postgres import Database
from tests.fixtures.workers import worker_process
from tests.fixtures.workflows import Workflows, eventually


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Site:
    """A web server: the path says how it answers."""

    requests: list[Seen] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"


def handler_of(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            site.requests.append(Seen(self.command, self.path, headers, body))
            match self.path.partition("?")[0].split("/")[1:]:
                case ["status", code, *_]:
                    self.reply(int(code), b"x" * 600, "text/plain")
                case ["flaky", *_]:
                    self.reply(503 if len(site.requests) < 3 else 200, b"ok", "text/plain")
                case ["binary"]:
                    self.reply(200, b"\x00\xff", "application/octet-stream")
                case ["redirect"]:
                    self.reply(302, b"", "text/plain", location="/status/200")
                case ["slow"]:
                    threading.Event().wait(3)
                    self.reply(200, b"late", "text/plain")
                case _:
                    self.reply(200, b'{"a": 1}', "application/json")

        def reply(self, status: int, body: bytes, kind: str, **headers: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:
                pass

        do_GET = do_POST = answer  # noqa: N815 - inherited names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - inherited name
            pass

    return Handler


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(made))
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def http_worker(installed: Database, tmp_path: Path, site: Site) -> Iterator[None]:
    with worker_process(
        installed.dsn,
        tmp_path / "worker.log",
        http_mode="allowlist",
        http_allow=f"localhost:{site.port}",
        http_private_allow="127.0.0.0/8 ::1/128",
        shutdown_grace="0.5",
    ):
        yield


def node(kind: str = "HTTP", **config: Any) -> str:
    text = json.dumps({"node_type": kind, "query": json.dumps(config)})
    return "$node$" + text + "$node$"


@pytest.mark.usefixtures("http_worker")
def test_a_response_becomes_an_envelope(workflows: Workflows, site: Site) -> None:
    result = workflows.finish(
        "('select ''v'' as x' |=> 'r') ~> "
        + node(
            url=f"{site.url}/echo?q=$r",
            method="POST",
            body='{"x": "$r", "me": "{sys_instance_id}"}',
            headers={"X-One": "$r", "X-Two": ["a", "b"]},
            timeout_seconds=5,
        )
    )
    assert result["status"] == 200
    assert result["ok"] is True
    assert (result["body"], result["encoding"]) == ('{"a": 1}', "text")
    assert result["headers"]["content-type"] == "application/json"
    [seen] = site.requests
    assert (seen.method, seen.path) == ("POST", "/echo?q=v")
    assert json.loads(seen.body)["x"] == "v"
    assert seen.headers["host"] == f"localhost:{site.port}"
    assert seen.headers["x-one"] == "v"
    assert seen.headers["idempotency-key"]
    assert seen.headers["user-agent"].startswith("pg_durable/")


@pytest.mark.usefixtures("http_worker")
def test_statuses_below_500_complete_and_the_others_fail(workflows: Workflows, site: Site) -> None:
    missing = workflows.finish(node(url=f"{site.url}/status/404", method="GET"))
    assert (missing["status"], missing["ok"]) == (404, False)
    assert workflows.finish(node(url=f"{site.url}/redirect", method="GET"))["status"] == 302
    error = workflows.fail(node(url=f"{site.url}/status/500?token=secret&a=b", method="GET"))
    assert error.startswith(f"HTTP GET {site.url}/status/500?token=REDACTED&a=b returned 500: xxx")
    assert error.endswith("... [truncated, 600 bytes total]")
    binary = workflows.finish(node(url=f"{site.url}/binary", method="GET"))
    assert (binary["body"], binary["encoding"]) == ("AP8=", "base64")


@pytest.mark.usefixtures("http_worker")
def test_a_retry_policy_repeats_the_same_request(workflows: Workflows, site: Site) -> None:
    retry = {"attempts": 5, "backoff_ms": 50}
    result = workflows.finish(node(url=f"{site.url}/flaky", method="POST", body="", retry=retry))
    assert result["status"] == 200
    assert len(site.requests) == 3
    assert len({seen.headers["idempotency-key"] for seen in site.requests}) == 1


@pytest.mark.usefixtures("http_worker")
def test_a_multipart_body_can_not_be_broken_out_of(workflows: Workflows, site: Site) -> None:
    data = base64.b64encode(b"hello").decode()
    parts = [
        {"name": "a", "data_b64": data, "filename": 'x"\r\nEvil: y', "content_type": "text/plain"}
    ]
    workflows.finish(node("HTTP_MULTIPART", url=f"{site.url}/up", method="POST", parts=parts))
    [seen] = site.requests
    assert seen.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert b'filename="x%22%0D%0AEvil: y"' in seen.body
    assert b"\r\n\r\nhello\r\n--" in seen.body


@pytest.mark.usefixtures("http_worker")
@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"url": "http://localhost:1/", "method": "GET"}, "is not in the allowed endpoint list"),
        ({"url": "http://example.org/", "method": "GET"}, "is not in the allowed endpoint list"),
        ({"url": "ftp://localhost/", "method": "GET"}, "unsupported URL scheme 'ftp'"),
        ({"url": "http://localhost/", "method": "BREW"}, "Unsupported HTTP method: BREW"),
        ({"url": "http://x/", "method": "GET", "headers": {"A": "b\r\nC: d"}}, "line break"),
        ({"url": "http://x/", "method": "GET", "headers": {"Host": "y"}}, "set by the client"),
        ({"url": "http://x/", "method": "GET", "timeout_seconds": 0}, "between 1 and 3600"),
    ],
)
def test_a_request_that_may_not_be_sent_is_refused(
    workflows: Workflows, site: Site, config: dict[str, Any], complaint: str
) -> None:
    assert complaint in workflows.fail(node(**config))
    assert site.requests == []


@pytest.mark.usefixtures("http_worker")
def test_a_request_has_one_time_limit(workflows: Workflows, site: Site) -> None:
    error = workflows.fail(node(url=f"{site.url}/slow", method="GET", timeout_seconds=1))
    assert error == f"HTTP timeout after 1s: {site.url}/slow"
    eventually(lambda: site.requests)


@pytest.mark.usefixtures("worker")
def test_without_configuration_nothing_is_sent(workflows: Workflows, site: Site) -> None:
    error = workflows.fail(node(url=f"{site.url}/", method="GET"))
    assert error.startswith("Blocked: outbound HTTP requests are disabled.")
    assert site.requests == []


def test_a_name_of_this_machine_is_not_public(
    workflows: Workflows, installed: Database, site: Site, tmp_path: Path
) -> None:
    options = {"http_mode": "public", "http_ports": str(site.port), "shutdown_grace": "0.5"}
    with worker_process(installed.dsn, tmp_path / "worker.log", **options):
        error = workflows.fail(node(url=f"{site.url}/", method="GET"))
    assert error.startswith(
        "Blocked: the resolved IP address for 'localhost' is in a restricted range."
    )
    assert site.requests == []
