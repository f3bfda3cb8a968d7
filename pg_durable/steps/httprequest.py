"""The configuration of an HTTP node, read and checked; multipart bodies."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pg_durable.steps.httpclient import MAX_HEADER_BYTES

METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"})
MULTIPART_METHODS = frozenset({"POST", "PUT", "PATCH"})
MAX_REQUEST_BYTES = 10 * 1024 * 1024
MAX_TIMEOUT_S = 3600

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MEDIA_TYPE = re.compile(
    r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:\s*;[^\r\n\0]*)?"
)
# The connection is the client's business.
_RESERVED = frozenset(
    [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "keep-alive",
    ]
)


class InvalidRequest(ValueError):
    """The configuration is not one of a request; the message names the part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as a node asks for it, after substitution."""

    url: str
    method: str
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    body: bytes | None = None
    timeout_s: int = 30
    is_multipart: bool = False

    @property
    def kind(self) -> str:
        return "HTTP_MULTIPART" if self.is_multipart else "HTTP"


def read_request(config: Mapping[str, Any], *, boundary: str) -> Request:
    """Read a node's configuration; one with `parts` has a multipart body.

    Args:
        boundary: of a multipart body; the same one each time, so that a repetition is the same request.

    Raises:
        InvalidRequest: what is wrong with it.
    """
    is_multipart = "parts" in config
    what = "multipart HTTP config" if is_multipart else "HTTP config"
    url, method = config.get("url"), config.get("method")
    if not isinstance(url, str) or not isinstance(method, str):
        raise InvalidRequest(f"Invalid {what}: url and method must be strings")
    allowed = MULTIPART_METHODS if is_multipart else METHODS
    if method.upper() not in allowed:
        raise InvalidRequest(f"Unsupported HTTP method: {method}")
    headers = read_headers(config.get("headers"))
    body = config.get("body")
    if not (body is None or isinstance(body, str)):
        raise InvalidRequest(f"Invalid {what}: body must be a string")
    content = None if body is None else body.encode()
    if is_multipart:
        headers = {name: values for name, values in headers.items() if name != "content-type"}
        headers["content-type"] = (f"multipart/form-data; boundary={boundary}",)
        content = multipart_body(config["parts"], boundary)
    if content is not None and len(content) > MAX_REQUEST_BYTES:
        raise InvalidRequest(
            f"the request body is {len(content)} bytes, more than the limit of {MAX_REQUEST_BYTES}"
        )
    return Request(
        url=url,
        method=method.upper(),
        headers=headers,
        body=content,
        timeout_s=_timeout(config.get("timeout_seconds", 30)),
        is_multipart=is_multipart,
    )


def read_headers(value: Any) -> dict[str, tuple[str, ...]]:
    """Header lines by lower-case name."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest("headers must be a JSON object")
    headers: dict[str, tuple[str, ...]] = {}
    for name, given in value.items():
        values = given if isinstance(given, list) else [given]
        if _TOKEN.fullmatch(name) is None:
            raise InvalidRequest(f"header name {name!r} is not a token")
        if name.lower() in _RESERVED or name.lower().startswith("proxy-"):
            raise InvalidRequest(f"header '{name}' is set by the client and can't be given")
        if name.lower() in headers:
            raise InvalidRequest(
                f"header '{name}' is given twice, in two spellings; give its values as a list"
            )
        headers[name.lower()] = tuple(_header_value(name, item) for item in values)
    size = sum(len(name) + len(item) for name, items in headers.items() for item in items)
    if size > MAX_HEADER_BYTES:
        raise InvalidRequest(
            f"the headers are {size} bytes, more than the limit of {MAX_HEADER_BYTES}"
        )
    return headers


def _header_value(name: str, value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case str() if not any(character in value for character in "\r\n\0"):
            return value
        case str():
            raise InvalidRequest(f"header '{name}' contains a line break or a NUL character")
        case _:
            raise InvalidRequest(f"header '{name}' must be a string, a number or a list of strings")


def multipart_body(parts: Any, boundary: str) -> bytes:
    """The body of a multipart/form-data request."""
    if not isinstance(parts, list) or not parts:
        raise InvalidRequest("Invalid multipart HTTP config: parts must be a non-empty array")
    pieces: list[bytes] = []
    for part in parts:
        pieces += [f"--{boundary}\r\n".encode(), *_part(part), b"\r\n"]
    pieces.append(f"--{boundary}--\r\n".encode())
    return b"".join(pieces)


def _part(part: Any) -> tuple[bytes, bytes]:
    match part:
        case {"name": str() as name, "data_b64": str() as data}:
            pass
        case _:
            raise InvalidRequest(
                "Invalid multipart HTTP config: a part needs the strings name and data_b64"
            )
    try:
        content = base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"Invalid base64 in part '{name}': {error}") from error
    disposition = f'form-data; name="{_quoted(name)}"'
    filename, content_type = part.get("filename"), part.get("content_type")
    if filename is not None:
        disposition += f'; filename="{_quoted(str(filename))}"'
    lines = f"Content-Disposition: {disposition}\r\n"
    if content_type is not None:
        if not isinstance(content_type, str) or _MEDIA_TYPE.fullmatch(content_type) is None:
            raise InvalidRequest(f"Invalid content_type for part '{name}': {content_type!r}")
        lines += f"Content-Type: {content_type}\r\n"
    return f"{lines}\r\n".encode(), content


def _quoted(text: str) -> str:
    """Names as browsers write them: what would end the parameter or the line is percent-encoded."""
    if "\0" in text:
        raise InvalidRequest("a part's name or filename contains a NUL character")
    return text.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")


def _timeout(value: Any) -> int:
    try:
        seconds = int(value)
    except (TypeError, ValueError):
        seconds = 0
    if isinstance(value, bool) or not 1 <= seconds <= MAX_TIMEOUT_S:
        raise InvalidRequest(
            f"timeout_seconds must be between 1 and {MAX_TIMEOUT_S}, not {value!r}"
        )
    return seconds
