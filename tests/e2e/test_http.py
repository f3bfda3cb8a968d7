"""HTTP nodes against a real server on this machine, which the worker is allowed to reach."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.postgres import Database
from tests.fixtures.workers import worker_process, worker_thread
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
    is_left: bool = False  # by a client that waited

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
                case ["busy", *_] if len(site.requests) == 1:
                    self.reply(429, b"later", "text/plain", retry_after="1")
                case ["page"]:
                    self.reply(200, b"<html>", "text/html")
                case ["hang"]:
                    site.is_left = self.rfile.read(1) == b""  # until the client goes
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
                self.send_header(name.replace("_", "-"), value)
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
def http_worker(installed: Database, site: Site) -> Iterator[None]:
    with worker_thread(
        installed.dsn,
        http_mode="allowlist",
        http_allow=(f"localhost:{site.port}",),
        http_private_allow=("127.0.0.0/8", "::1/128"),
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
        ({"url": "http://x/", "method": "GET", "headers": {"X-A": 1, "x-a": 2}}, "given twice"),
        ({"url": "http://x/", "method": "GET", "timeout_seconds": 0}, "between 1 and 3600"),
    ],
)
def test_a_request_that_may_not_be_sent_is_refused(
    workflows: Workflows, site: Site, config: dict[str, Any], complaint: str
) -> None:
    """df-execution 12.29: refusals. df-execution 12.31: CR and LF, header types."""
    assert complaint in workflows.fail(node(**config))
    assert site.requests == []


@pytest.mark.usefixtures("http_worker")
def test_a_request_has_one_time_limit(workflows: Workflows, site: Site) -> None:
    """df-execution 12.31: time-outs."""
    error = workflows.fail(node(url=f"{site.url}/slow", method="GET", timeout_seconds=1))
    assert error == f"HTTP timeout after 1s: {site.url}/slow"
    eventually(lambda: site.requests)


@pytest.mark.usefixtures("worker_here")
def test_without_configuration_nothing_is_sent(workflows: Workflows, site: Site) -> None:
    error = workflows.fail(node(url=f"{site.url}/", method="GET"))
    assert error.startswith("Blocked: outbound HTTP requests are disabled.")
    assert site.requests == []


def test_a_name_of_this_machine_is_not_public(
    workflows: Workflows, installed: Database, site: Site, tmp_path: Path
) -> None:
    """df-execution 12.29: DNS."""
    options = {"http_mode": "public", "http_ports": str(site.port), "shutdown_grace": "0.5"}
    with worker_process(installed.dsn, tmp_path / "worker.log", **options):
        error = workflows.fail(node(url=f"{site.url}/", method="GET"))
    assert error.startswith(
        "Blocked: the resolved IP address for 'localhost' is in a restricted range."
    )
    assert site.requests == []


@pytest.mark.usefixtures("http_worker")
def test_json_goes_out_and_comes_back_as_json(workflows: Workflows, site: Site) -> None:
    request = f'df.http(\'{site.url}/echo\', \'POST\', \'{{"t": "$r.t", "n": "$r.n"}}\')'
    options = '{"body_mode": "json", "expect_json": true}'
    result = workflows.finish(
        "('select ''say \"hi\"'' as t, 1.5::float8 as n' |=> 'r') ~> "
        f"df.http_options({request}, '{options}')"
    )
    assert result["json"] == {"a": 1}
    [seen] = site.requests
    assert seen.body == b'{"t":"say \\"hi\\"","n":1.5}'
    assert seen.headers["content-type"] == "application/json"
    page = f"df.http_options(df.http('{site.url}/page', 'GET'), '{options}')"
    assert "returned what is not JSON" in workflows.fail(page)
    missing = f"df.http_options(df.http('{site.url}/status/404', 'GET'), '{options}')"
    assert workflows.finish(missing)["json"] is None


@pytest.mark.usefixtures("http_worker")
def test_a_retry_waits_for_as_long_as_the_other_side_asks(workflows: Workflows, site: Site) -> None:
    began = time.monotonic()
    options = '{"retry": {"attempts": 2, "backoff_ms": 1}}'
    busy = f"df.http_options(df.http('{site.url}/busy', 'GET'), '{options}')"
    assert workflows.finish(busy)["status"] == 200
    assert len(site.requests) == 2
    assert time.monotonic() - began >= 1


@pytest.mark.usefixtures("http_worker")
def test_cancelling_an_instance_closes_its_connection(workflows: Workflows, site: Site) -> None:
    """df-execution 12.31: cancel in flight."""
    instance = workflows.start(f"df.http('{site.url}/hang', 'GET')")
    eventually(lambda: site.requests, what="the request was sent")
    workflows.one("select df.cancel(%s)", instance)
    eventually(lambda: site.is_left, what="the connection was closed")
    assert workflows.status(instance) == "cancelled"


@pytest.mark.long  # of SQL steps it is shown every time
@pytest.mark.parametrize("told", ["retry", "fail"])
def test_a_worker_that_dies_over_a_request_sends_it_again_or_says_that_it_does_not_know(
    workflows: Workflows, installed: Database, site: Site, tmp_path: Path, told: str
) -> None:
    options = {
        "http_mode": "allowlist",
        "http_roles": f"{workflows.connection.info.user}=localhost:{site.port}",
        "http_private_allow": "127.0.0.0/8 ::1/128",
        "activity_lease": "1.5",
        "turn_lease": "1.5",
        "poll_interval": "0.5",
        "shutdown_grace": "0.1",
    }
    with worker_process(installed.dsn, tmp_path / "worker.log", **options) as process:
        request = f"df.http('{site.url}/hang', 'POST')"
        instance = workflows.start(f'df.http_options({request}, \'{{"on_ambiguous": "{told}"}}\')')
        eventually(lambda: len(site.requests) == 1)
        process.kill()
        process.start()
        if told == "retry":
            eventually(lambda: len(site.requests) == 2)
            assert len({seen.headers["idempotency-key"] for seen in site.requests}) == 1
        else:
            assert workflows.wait(instance) == "failed"
            assert "outcome of attempt 1 is unknown" in workflows.error(instance)
            assert len(site.requests) == 1
