"""Faster than `json`, and the same."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duroxide.descriptors import json_or_text
from duroxide.engine.matching import same_payload
from duroxide.errors import CodecError
from duroxide.jsontext import dump_json, load_json
from duroxide.payload import JSON

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


def test_text_that_is_nested_too_deeply_is_none_that_can_be_read() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    with pytest.raises(ValueError, match="nested too deeply"):
        load_json(deep)
    assert JSON.decode(deep) == deep
    assert json_or_text(deep) == deep
    assert not same_payload(deep, f" {deep}")


def test_a_value_that_is_nested_too_deeply_is_refused_in_one_line() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(CodecError, match=r"^\$: a list that is nested too deeply"):
        JSON.encode(deep)


def test_what_contains_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(CodecError, match="nested too deeply"):
        dump_json(loop)
