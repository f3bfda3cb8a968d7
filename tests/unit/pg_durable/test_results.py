from __future__ import annotations

import json

import pytest

from pg_durable.results import Column, encode, is_true, parse, row_set


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ('{"rows":[{"a":true}],"row_count":1}', True),
        ('{"rows":[{"a":false,"b":true}],"row_count":1}', False),
        ('{"rows":[],"row_count":0}', False),
        ('{"rows":[{}],"row_count":1}', True),
        ('{"rows":[{"a":null}],"row_count":1}', False),
        ('{"rows":[{"a":"0.00"}],"row_count":1}', False),
        ('{"rows":[{"a":"NaN"}],"row_count":1}', True),
        ("null", False),
        ("0", False),
        ("-0.0", False),
        ("0.001", True),
        ("1e400", True),
        ('" F "', False),
        ('"yes"', True),
        ('"off"', True),
        ("not json", True),
        ("", False),
        ("[]", False),
        ("[0]", True),
        ("{}", False),
        ('{"timed_out":true}', True),
        ('"-0.0e5"', False),
        ('"0_0"', True),
        ('"\u0660"', True),  # a zero, to Python
    ],
)
def test_a_document_is_true_as_documented(document: str, expected: bool) -> None:
    assert is_true(document) is expected


@pytest.mark.parametrize(
    "text", ["1.10", "123456789012345678901234567890", "1E+400", "-0", '{"b":1,"a":[1.0,null,"é"]}']
)
def test_numbers_and_order_survive(text: str) -> None:
    assert encode(parse(text)) == text


def test_a_document_of_any_depth_that_can_be_read_is_written_again() -> None:
    deepest = next(n for n in range(10_000, 0, -10) if _is_read("[" * n + "]" * n))
    arrays, objects = (
        "[" * deepest + "]" * deepest,
        '{"a":' * (deepest // 2) + "1" + "}" * (deepest // 2),
    )
    for text in (arrays, objects, f'[1,{arrays[1:-1]},"x"]'):
        assert encode(parse(text)) == text


def test_half_of_a_character_stays_an_escape() -> None:
    text = r'{"\ud800ü":["\udfff\ud83d",1]}'
    assert encode(parse(text)) == text
    assert encode(parse(r'"\ud83d\ude00"')) == '"😀"'


def _is_read(text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def test_what_is_not_json_is_refused() -> None:
    for text in ("NaN", "[Infinity]", "{", "'a'"):
        with pytest.raises(ValueError):
            parse(text)


def test_a_row_set_keeps_the_order_of_columns_and_says_what_ran() -> None:
    text = row_set(
        [Column("b", "text"), Column("a", "integer")],
        [('"x"', "1"), ("null", "2")],
        2,
        command="SELECT",
        affected=2,
    )
    assert text == (
        '{"rows":[{"b":"x","a":1},{"b":null,"a":2}],"row_count":2,"affected":2,'
        '"command":"SELECT","columns":[{"name":"b","type":"text"},{"name":"a","type":"integer"}]}'
    )


def test_of_two_columns_with_one_name_the_first_is_kept() -> None:
    text = row_set([Column("a", "text"), Column("a", "integer")], [('"x"', "1")], 1)
    assert json.loads(text)["rows"] == [{"a": "x"}]
    assert text.count('"a":') == 1
    assert json.loads(text)["columns"] == [{"name": "a", "type": "text"}]
