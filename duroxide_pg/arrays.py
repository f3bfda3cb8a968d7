"""Columns of a batch as PostgreSQL arrays in binary form.

A list would do, but psycopg guesses its element type from the values, so that each mix of small and
large numbers would be another prepared statement; and text format costs ten times as much.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from psycopg import pq
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Dumper

_TEXT, _TEXT_ARRAY = 25, 1009
_INT8, _INT8_ARRAY = 20, 1016
_NULL = struct.pack("!i", -1)
_HEADER = struct.Struct("!iiIii")
_EMPTY = struct.Struct("!iiI")
_LENGTH = struct.Struct("!i")
_NUMBER = struct.Struct("!iq")


class Texts(list["str | None"]):
    """A `text[]`."""


class Numbers(list["int | None"]):
    """A `bigint[]`."""


class _ArrayDumper(Dumper):
    format = pq.Format.BINARY
    element: int
    empty: bytes

    def dump(self, obj: Texts | Numbers) -> Buffer:
        if not obj:
            return self.empty
        header = _HEADER.pack(1, None in obj, self.element, len(obj), 1)
        return header + b"".join(self.elements(obj))

    def elements(self, values: Texts | Numbers) -> Iterable[bytes]:
        raise NotImplementedError


class _TextsDumper(_ArrayDumper):
    oid = _TEXT_ARRAY
    element = _TEXT
    empty = _EMPTY.pack(0, 0, _TEXT)

    def elements(self, values: Texts | Numbers) -> Iterable[bytes]:
        parts: list[bytes] = []
        for value in values:
            if value is None:
                parts.append(_NULL)
            else:
                encoded = str(value).encode()
                parts += (_LENGTH.pack(len(encoded)), encoded)
        return parts


class _NumbersDumper(_ArrayDumper):
    oid = _INT8_ARRAY
    element = _INT8
    empty = _EMPTY.pack(0, 0, _INT8)

    def elements(self, values: Texts | Numbers) -> Iterable[bytes]:
        return [_NULL if value is None else _NUMBER.pack(8, value) for value in values]


def register(adapters: AdaptersMap) -> None:
    adapters.register_dumper(Texts, _TextsDumper)
    adapters.register_dumper(Numbers, _NumbersDumper)
