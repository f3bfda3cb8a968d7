from __future__ import annotations

import pytest

from pg_durable.steps.literals import parse_array, parse_record
from pg_durable.steps.values import TypeDescription, converter


@pytest.mark.parametrize(
    ("oid", "text", "expected"),
    [
        (16, "t", "true"),
        (16, "f", "false"),
        (20, "-9223372036854775808", "-9223372036854775808"),
        (700, "0.1", "0.1"),
        (701, "1e+300", "1e+300"),
        (701, "NaN", "null"),
        (701, "-Infinity", "null"),
        (1700, "1.50", '"1.50"'),
        (1700, "NaN", '"NaN"'),
        (25, 'a "b"\n', '"a \\"b\\"\\n"'),
        (1042, "x  ", '"x  "'),
        (17, "\\x00ff", '"\\\\x00ff"'),
        (1114, "2024-01-02 03:04:05", '"2024-01-02T03:04:05"'),
        (1114, "2024-01-02 03:04:05.5", '"2024-01-02T03:04:05.500"'),
        (1114, "2024-01-02 03:04:05.1234", '"2024-01-02T03:04:05.123400"'),
        (1114, "infinity", '"infinity"'),
        (1114, "0044-03-15 12:00:00 BC", '"0044-03-15 12:00:00 BC"'),
        (1184, "2024-01-02 03:04:05+00", '"2024-01-02T03:04:05+00:00"'),
        (1184, "2024-01-02 03:04:05.25+05:30", '"2024-01-01T21:34:05.250+00:00"'),
        (1184, "0900-01-01 00:00:00+01", '"0899-12-31T23:00:00+00:00"'),
        (1082, "infinity", '"infinity"'),
        (114, '{"a": 1.10,\n "a": 2}', '{"a": 1.10,\n "a": 2}'),
        (3802, "[1, 2]", "[1, 2]"),
        (2278, "", "null"),
        (1186, "1 day 02:00:00", '"1 day 02:00:00"'),
        (1007, "{1,NULL,3}", "[1,null,3]"),
        (1007, "[0:1]={1,2}", "[1,2]"),
        (1007, "{{1,2},{3,4}}", "[[1,2],[3,4]]"),
        (1009, '{a,"NULL","x\\"y",""}', '["a","NULL","x\\"y",""]'),
        (1020, "{(1,1),(0,0);(2,2),(1,1)}", '["(1,1),(0,0)","(2,2),(1,1)"]'),
        (3807, '{"{\\"a\\": 1}",NULL}', '[{"a": 1},null]'),
        (99999, "{anything}", '"{anything}"'),
    ],
)
def test_a_value_becomes_json(oid: int, text: str, expected: str) -> None:
    assert converter(oid, {})(text) == expected


def test_types_of_the_database_are_taken_apart() -> None:
    types = {
        1: TypeDescription(oid=1, name="mood"),
        2: TypeDescription(oid=2, name="mood[]", element=1),
        3: TypeDescription(oid=3, name="posint", base=23),
        4: TypeDescription(oid=4, name="pair", attributes=(("n", 3), ("moods", 2))),
        5: TypeDescription(oid=5, name="pair[]", element=4),
    }
    assert converter(2, types)("{ok,sad}") == '["ok","sad"]'
    assert converter(3, types)("7") == "7"
    assert converter(4, types)('(7,"{ok,sad}")') == '{"n":7,"moods":["ok","sad"]}'
    assert converter(5, types)('{"(7,{ok})","(,)"}') == (
        '[{"n":7,"moods":["ok"]},{"n":null,"moods":null}]'
    )


@pytest.mark.parametrize("text", ["", "1", "{1", "{1}}", "{1}{2}"])
def test_text_that_is_no_array_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an array literal"):
        parse_array(text)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("(1,)", ["1", None]),
        ('("",x)', ["", "x"]),
        ('("a ""b""","c\\\\d")', ['a "b"', "c\\d"]),
        ("()", []),
    ],
)
def test_a_composite_is_read(text: str, fields: list[str | None]) -> None:
    assert parse_record(text) == fields
