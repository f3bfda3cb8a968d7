"""Faster than `json`, and the same."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duroxide.errors import CodecError
from duroxide.jsontext import dump_json, load_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(VALUES.filter(lambda value: "Infinity" not in json.dumps(value)))
def test_written_as_json_writes_it_and_read_again(value: object) -> None:
    text = dump_json(value)
    assert text == json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert load_json(text) == json.loads(text) == value


@given(st.text(alphabet=' \n[]{}",:0123456789.eE+-nulltrefasNI', max_size=12))
def test_reads_and_refuses_what_json_reads_and_refuses(text: str) -> None:
    assert outcome(load_json, text) == outcome(json.loads, text)


def outcome(read: Callable[[str], object], text: str) -> str:
    try:
        return repr(read(text))
    except ValueError as error:
        return str(error)


def test_what_contains_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(CodecError, match="nested too deeply"):
        dump_json(loop)
