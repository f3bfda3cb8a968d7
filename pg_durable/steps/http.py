"""HTTP steps: one request an attempt, and its envelope. They may be delivered more than once.

A worker that dies after sending leaves it unknown whether the other side has acted, so every request but
GET carries an Idempotency-Key that is the same on every delivery of the step.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable
from importlib.metadata import version
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpcore

from duroxide.activity_context import ActivityContext, LeaseLost
from duroxide.errors import ActivityError
from duroxide.registry import ActivityDef, define_activity
from pg_durable.egress import Blocked, Egress, parse_url
from pg_durable.identity import superuser_refused
from pg_durable.leaves import EXECUTE_HTTP
from pg_durable.results import encode, parse
from pg_durable.steps.activity import while_wanted
from pg_durable.steps.desk import Desk, Marked
from pg_durable.steps.envelope import envelope_of, retry_after_s
from pg_durable.steps.failures import StepFailed, one_line
from pg_durable.steps.httpclient import HttpClient, Response, ResponseTooLarge
from pg_durable.steps.httprequest import InvalidRequest, Request, read_request
from pg_durable.steps.roles import role_is_gone
from pg_durable.steps.step import LeaseGone

logger = logging.getLogger(__name__)

_PREVIEW_BYTES = 512
_SECRET_PARAMETERS = frozenset(
    {"sig", "token", "key", "code", "secret", "password", "access_token"}
)
_SIGNATURES = {
    "HTTP": "df.http(text,text,text,jsonb,integer)",
    "HTTP_MULTIPART": "df.http_multipart(text,text,jsonb,jsonb,integer)",
}


def http_activity(
    egress: Egress, desk: Desk, *, concurrency: int, max_response_bytes: int
) -> ActivityDef[Any, Any]:
    """The activity `execute-http`, for both kinds of node; its input is what `leaves.http` writes."""
    client = HttpClient(max_response_bytes=max_response_bytes)

    async def execute_http(ctx: ActivityContext, request_text: str) -> str:
        asked = json.loads(request_text)
        step = Marked(
            workflow_id=ctx.instance_id.partition("::")[0],
            node_id=asked["node_id"],
            activity=f"{ctx.instance_id}::{ctx.execution_id}::{ctx.activity_id}",
            token=ctx.token,
        )
        try:
            return await while_wanted(ctx, _execute(asked, step, egress, desk, client))
        except LeaseGone as gone:
            raise LeaseLost(str(gone)) from gone
        except StepFailed as failure:
            data = failure.data(node_id=asked["node_id"])
            raise ActivityError(
                failure.message, error_type="StepFailed", data=data, retryable=False
            ) from failure

    return define_activity(
        execute_http, name=EXECUTE_HTTP, takes_context=True, raw=True, max_concurrency=concurrency
    )


async def _execute(
    asked: dict[str, Any], step: Marked, egress: Egress, desk: Desk, client: HttpClient
) -> str:
    config, role = asked["config"], asked["submitted_by"]
    try:
        request = read_request(config, boundary=f"pg_durable_{_token(asked['idempotency_key'])}")
        signature = _SIGNATURES[request.kind]
        rights = await desk.rights(step.workflow_id, signature)
        if rights.name is None:
            raise role_is_gone(step.workflow_id, role)
        if rights.is_superuser and not await desk.allows_superusers():
            raise superuser_refused(rights.name)
        role = rights.name
        if not rights.may_call:
            raise Blocked(
                f"Blocked: role '{role}' does not have EXECUTE privilege on "
                f"{signature.partition('(')[0]}(). Grant EXECUTE ON FUNCTION {signature} TO {role} "
                "to allow HTTP requests."
            )
        policy = egress.of(role)
        target = parse_url(request.url)
        policy.check_target(target)
    except (Blocked, InvalidRequest) as refusal:
        logger.info("an HTTP request of role %s was refused", role)
        raise StepFailed(str(refusal)) from refusal
    headers = _with_defaults(request, asked["idempotency_key"])
    if config.get("body_mode") == "json":
        headers.setdefault("content-type", ("application/json",))
    if config.get("on_ambiguous") == "fail":
        await _mark(step, desk)
    started = time.monotonic()
    sending = client.send(target, policy, request.method, headers, request.body)
    response = await _send(request, sending)
    envelope = envelope_of(response, round((time.monotonic() - started) * 1000))
    if response.status >= _fail_from(config):
        facts: dict[str, object] = {"failure": "status", "http_status": response.status}
        pause = retry_after_s(response)
        raise StepFailed(
            f"{_verb(request)} {redacted(request.url)} returned {response.status}: "
            f"{_preview(envelope)}",
            facts if pause is None else {**facts, "retry_after_s": pause},
        )
    text = json.dumps(envelope, ensure_ascii=False, separators=(",", ":"))
    if not config.get("expect_json"):
        return text
    return f'{text[:-1]},"json":{_json_of(request, envelope)}}}'


def _json_of(request: Request, envelope: dict[str, Any]) -> str:
    """The body as JSON text, numbers as they were written; null for an empty one."""
    body: str = envelope["body"]
    if not body or envelope["encoding"] != "text":
        problem: object = "it is empty" if not body else "it is not text"
    else:
        try:
            return encode(parse(body))
        except ValueError as error:
            problem = error
    if not body or not envelope["ok"]:
        return "null"
    raise StepFailed(
        f"{_verb(request)} {redacted(request.url)} returned what is not JSON ({problem}): "
        f"{_preview(envelope)}",
        {"failure": "json", "http_status": envelope["status"]},
    )


async def _mark(step: Marked, desk: Desk) -> None:
    """Say that the request is about to be sent, and refuse to send it if it may have been before."""
    if not await desk.is_leased(step.token):
        raise LeaseGone(f"step {step.activity} is not ours any more")
    attempt = await desk.begin_attempt(step)
    if attempt > 1:
        raise StepFailed(
            f"HTTP request failed: outcome of attempt {attempt - 1} is unknown: the worker that sent it "
            "is gone",
            {
                "failure": "ambiguous",
                "hint": 'ask the other side; "on_ambiguous": "retry" would send it again instead',
            },
        )


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
