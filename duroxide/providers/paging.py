"""Cursors of lists that go from the newest instance to the oldest."""

from __future__ import annotations

from duroxide.errors import ProviderError
from duroxide.ids import InstanceId


def encode_cursor(created_at: int, instance_id: InstanceId) -> str:
    """The place after an instance; `created_at` in whatever unit the store orders by."""
    return f"{created_at}:{instance_id}"


def decode_cursor(text: str) -> tuple[int, InstanceId]:
    """When the last instance of the page before was created, and its id.

    Raises:
        ProviderError: it is no cursor.
    """
    created_at, separator, instance_id = text.partition(":")
    if not separator or not created_at.isascii() or not created_at.isdigit():
        raise ProviderError(
            "list_page",
            f"{text!r} is no cursor: give `next_cursor` of a page back unchanged",
            False,
        )
    return int(created_at), instance_id
