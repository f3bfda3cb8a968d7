"""HTTP steps: one request an attempt, and its envelope. They may be delivered more than once.

A worker that dies after sending leaves it unknown whether the other side has acted, so every request but
GET carries an Idempotency-Key that is the same on every delivery of the step.
"""

from __future__ import annotations

import asyncio
import base64
import codecs
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpcore

from duroxide.activity_context import ActivityContext
from duroxide.errors import ActivityError
from duroxide.registry import ActivityDef, define_activity
from pg_durable.egress import Blocked, Policy, parse_url
from pg_durable.leaves import EXECUTE_HTTP
from pg_durable.steps.activity import while_wanted
from pg_durable.steps.failures import StepFailed, one_line
from pg_durable.steps.httpclient import HttpClient, Response, ResponseTooLarge
from pg_durable.steps.httprequest import InvalidRequest, Request, read_request

logger = logging.getLogger(__name__)

_PREVIEW_BYTES = 512
_SECRET_PARAMETERS = frozenset(
    {"sig", "token", "key", "code", "secret", "password", "access_token"}
)
_TEXT_TYPES = frozenset(
    f"application/{name}"
    for name in (
        [
            "json",
            "xml",
            "javascript",
            "ecmascript",
            "x-www-form-urlencoded",
            "graphql",
            "yaml",
            "x-yaml",
        ]
    )
)
_SIGNATURES = {
    "HTTP": "df.http(text,text,text,jsonb,integer)",
    "HTTP_MULTIPART": "df.http_multipart(text,text,jsonb,jsonb,integer)",
}

MayCall = Callable[[str, str], Awaitable[bool]]
"""Whether a role may execute a function, given by its signature, at this moment."""


def http_activity(
    policy: Policy, may_call: MayCall, *, concurrency: int, max_response_bytes: int
) -> ActivityDef[Any, Any]:
    """The activity `execute-http`, for both kinds of node; its input is what `leaves.http` writes."""
    client = HttpClient(policy, max_response_bytes=max_response_bytes)

    async def execute_http(ctx: ActivityContext, request_text: str) -> str:
        asked = json.loads(request_text)
        try:
            return await while_wanted(ctx, _execute(asked, policy, may_call, client))
        except StepFailed as failure:
            data = failure.data(node_id=asked["node_id"])
            raise ActivityError(
                failure.message, error_type="StepFailed", data=data, retryable=False
            ) from failure

    return define_activity(
        execute_http, name=EXECUTE_HTTP, takes_context=True, raw=True, max_concurrency=concurrency
    )


async def _execute(
    asked: dict[str, Any], policy: Policy, may_call: MayCall, client: HttpClient
) -> str:
    config, role = asked["config"], asked["submitted_by"]
    try:
        request = read_request(config, boundary=f"pg_durable_{_token(asked['idempotency_key'])}")
        signature = _SIGNATURES[request.kind]
        if not await may_call(role, signature):
            raise Blocked(
                f"Blocked: role '{role}' does not have EXECUTE privilege on "
                f"{signature.partition('(')[0]}(). Grant EXECUTE ON FUNCTION {signature} TO {role} "
                "to allow HTTP requests."
            )
        target = parse_url(request.url)
        policy.check_target(target)
    except (Blocked, InvalidRequest) as refusal:
        logger.info("an HTTP request of role %s was refused", role)
        raise StepFailed(str(refusal)) from refusal
    headers = _with_defaults(request, asked["idempotency_key"])
    started = time.monotonic()
    response = await _send(request, client.send(target, request.method, headers, request.body))
    envelope = envelope_of(response, round((time.monotonic() - started) * 1000))
    if response.status >= _fail_from(config):
        raise StepFailed(
            f"{_verb(request)} {redacted(request.url)} returned {response.status}: "
            f"{_preview(envelope)}",
            {"failure": "status", "http_status": response.status},
        )
    return json.dumps(envelope, ensure_ascii=False, separators=(",", ":"))


async def _send(request: Request, sending: Awaitable[Response]) -> Response:
    url = redacted(request.url)
    try:
        async with asyncio.timeout(request.timeout_s):
            return await sending
    except (TimeoutError, httpcore.TimeoutException) as error:
        raise StepFailed(
            f"HTTP timeout after {request.timeout_s}s: {url}", {"failure": "timeout"}
        ) from error
    except Blocked as refusal:
        raise StepFailed(str(refusal)) from refusal
    except httpcore.ConnectError as error:
        raise StepFailed(
            f"HTTP connection failed: {url} - {one_line(error)}", {"failure": "connect"}
        ) from error
    except (httpcore.NetworkError, httpcore.ProtocolError, ResponseTooLarge) as error:
        raise StepFailed(
            f"HTTP request failed: {url} - {one_line(error)}", {"failure": "request"}
        ) from error


def _with_defaults(request: Request, key: str) -> dict[str, tuple[str, ...]]:
    defaults: dict[str, tuple[str, ...]] = {
        "user-agent": (f"pg_durable/{version('pg-durable')}",),
        "accept": ("*/*",),
        "accept-encoding": ("identity",),
    }
    if request.method != "GET":
        defaults["idempotency-key"] = (key,)
    return {**defaults, **request.headers}


def envelope_of(response: Response, duration_ms: int) -> dict[str, Any]:
    """The result document of an HTTP node."""
    single: dict[str, str] = {}
    several: dict[str, list[str]] = {}
    for raw_name, raw_value in response.headers:
        name, value = raw_name.decode("ascii").lower(), raw_value.decode("latin-1")
        single[name] = value
        several.setdefault(name, []).append(value)
    body, encoding = body_text(response.body, single.get("content-type", ""))
    return {
        "status": response.status,
        "body": body,
        "encoding": encoding,
        "headers": single,
        "ok": 200 <= response.status <= 299,
        "duration_ms": duration_ms,
        "headers_multi": several,
    }


def body_text(body: bytes, content_type: str) -> tuple[str, str]:
    """The body as text if it is text, else in base64; and which of the two."""
    media = content_type.split(",")[0].split(";")[0].strip().lower()
    textual = (
        media.startswith("text/")
        or media.endswith(("+json", "+xml", "+yaml"))
        or media in _TEXT_TYPES
    )
    if b"\0" not in body:
        if textual:
            return body.decode(_charset(content_type), errors="replace"), "text"
        try:
            return body.decode(), "text"
        except UnicodeDecodeError:
            pass
    return base64.b64encode(body).decode(), "base64"


def _charset(content_type: str) -> str:
    match = re.search(r"charset=\"?([A-Za-z0-9_.:-]+)", content_type, re.IGNORECASE)
    if match is None:
        return "utf-8"
    try:
        return codecs.lookup(match[1]).name
    except LookupError:
        return "utf-8"


def _fail_from(config: dict[str, Any]) -> int:
    return {"5xx": 500, "4xx": 400, "never": 1000}.get(str(config.get("fail_on", "5xx")), 500)


def _verb(request: Request) -> str:
    return f"{request.kind} {request.method}"


def _preview(envelope: dict[str, Any]) -> str:
    body: str = envelope["body"]
    raw = body.encode()
    if len(raw) <= _PREVIEW_BYTES:
        return body
    unit = "base64 characters" if envelope["encoding"] == "base64" else "bytes"
    cut = raw[:_PREVIEW_BYTES].decode(errors="ignore")
    return f"{cut}... [truncated, {len(raw)} {unit} total]"


def redacted(url: str) -> str:
    """The URL without what must not appear in errors and logs."""
    parts = urlsplit(url)
    if not parts.query:
        return url
    pairs = [
        (name, "REDACTED" if name.lower() in _SECRET_PARAMETERS else value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    if all(name.lower() not in _SECRET_PARAMETERS for name, _ in pairs):
        return url
    return parts._replace(query=urlencode(pairs)).geturl()


def _token(key: str) -> str:
    return re.sub(r"[^0-9A-Za-z]", "", key)[-40:]
