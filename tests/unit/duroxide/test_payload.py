"""Values of user code as JSON and back (property 17): one text for equal values, refusals with a path."""

# ruff: noqa: UP007, UP045 - the older spellings are tested too
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple, NewType, NotRequired, Optional, TypedDict, Union
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duroxide.errors import CodecError
from duroxide.payload import JSON, iso_duration


class Colour(Enum):
    RED = "red"
    PAIR = (1, 2)


class Level(IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int
    y: int = 0


class Row(TypedDict):
    a: int
    b: NotRequired[str]


@dataclass
class Leaf:
    name: str
    tags: frozenset[str] = frozenset()


@dataclass
class Tree:
    leaf: Leaf
    children: list[Tree] = field(default_factory=list)
    size: int = field(init=False, default=0)


class Model:
    """Looks like a pydantic model."""

    def __init__(self, n: int) -> None:
        self.n = n

    def model_dump(self, mode: str = "python", *, by_alias: bool) -> dict[str, Any]:
        assert by_alias, "validated by alias, too"
        return {"n": self.n}

    @classmethod
    def model_validate(cls, value: Any) -> Model:
        if not isinstance(value, dict) or set(value) != {"n"}:
            raise ValueError("not a model")
        return cls(value["n"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and other.n == self.n

    __hash__ = None  # type: ignore[assignment]


class Struct:
    """Looks like a msgspec struct."""

    __struct_fields__ = ("n", "word")
    __struct_defaults__ = ("w",)
    n: int
    word: str

    def __init__(self, n: int, word: str = "w") -> None:
        self.n, self.word = n, word

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Struct) and (other.n, other.word) == (self.n, self.word)

    __hash__ = None  # type: ignore[assignment]


UserId = NewType("UserId", int)


@pytest.mark.parametrize(
    ("value", "annotation", "text"),
    [
        (None, None, "null"),
        ("é\n", str, '"é\\n"'),
        (3, int, "3"),
        (2, float, "2"),
        (True, bool, "true"),
        ([1, "a"], list[Any], '[1,"a"]'),
        ((1, "a"), tuple[int, str], '[1,"a"]'),
        ((1, 2, 3), tuple[int, ...], "[1,2,3]"),
        ({3, 1, 2}, set[int], "[1,2,3]"),
        ({"b": 1, "a": 2}, dict[str, int], '{"b":1,"a":2}'),
        ({1: "x"}, dict[int, str], '{"1":"x"}'),
        ({True: "x"}, Mapping[bool, str], '{"true":"x"}'),
        ([1], Sequence[int], "[1]"),
        (Colour.RED, Colour, '"red"'),
        (Colour.PAIR, Colour, "[1,2]"),
        (Level.LOW, Level, "1"),
        (Point(1, 2), Point, '{"x":1,"y":2}'),
        ({"a": 1}, Row, '{"a":1}'),
        (Tree(Leaf("r", frozenset("ba")), [Tree(Leaf("c"))]), Tree, None),
        (Model(4), Model, '{"n":4}'),
        (Struct(4, "x"), Struct, '{"n":4,"word":"x"}'),
        (datetime(2026, 1, 2, 3, 4, 5, 6, UTC), datetime, '"2026-01-02T03:04:05.000006+00:00"'),
        (date(2026, 1, 2), date, '"2026-01-02"'),
        (time(3, 4), time, '"03:04:00"'),
        (timedelta(seconds=-1.5), timedelta, '"-PT1.5S"'),
        (UUID(int=5), UUID, '"00000000-0000-0000-0000-000000000005"'),
        (Decimal("1.10"), Decimal, '"1.10"'),
        (b"\x00\xff", bytes, '"AP8="'),
        (Path("a/b"), Path, '"a/b"'),
        (None, Optional[int], "null"),
        (5, Union[int, str], "5"),
        ("5", int | str, '"5"'),
        ("a", Literal["a", 1], '"a"'),
        (7, UserId, "7"),
    ],
)
def test_a_value_has_one_text_and_comes_back(value: Any, annotation: Any, text: str | None) -> None:
    written = JSON.encode(value)
    if text is not None:
        assert written == text
    again = JSON.decode(written, annotation)
    assert again == value
    assert type(again) is type(value) or isinstance(value, int)


@pytest.mark.parametrize(
    ("annotation", "text", "complaint"),
    [
        (int, '"5"', r"\$: an integer is expected here, not a string"),
        (int, "true", "an integer is expected here, not true or false"),
        (list[int], '[1,"x"]', r"\$\[1\]: an integer"),
        (tuple[int, int], "[1]", "an array of 2"),
        (dict[str, int], '{"a":"b"}', r"\$\.a: an integer"),
        (Tree, '{"leaf":{"name":1}}', r"\$\.leaf\.name: a string"),
        (Tree, '{"leaf":{"name":"a"},"other":1}', "no field 'other'"),
        (Tree, "{}", "needs the field 'leaf'"),
        (Row, '{"b":"x"}', "needs the field 'a'"),
        (Struct, '{"word":"x"}', "needs the field 'n'"),
        (Colour, '"blue"', "a value of Colour"),
        (Literal[1], "true", "one of 1"),
        (Union[int, None], '"x"', "int or None"),
        (datetime, '"yesterday"', "ISO 8601 date and time"),
        (timedelta, '"PT"', "ISO 8601 duration"),
        (UUID, '"x"', "a UUID"),
        (bytes, '"?"', "base64"),
        (Decimal, '"x"', "a decimal number"),
        (Model, "3", "not a Model"),
        (dict[int, int], '{"x":1}', "an integer as key"),
        (set[int], "3", "an array is expected here, not an integer"),
    ],
)
def test_text_that_does_not_fit_is_refused_with_its_place(
    annotation: Any, text: str, complaint: str
) -> None:
    with pytest.raises(CodecError, match=complaint):
        JSON.decode(text, annotation)


class Opaque:
    pass


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"a": [1, Opaque()]}, r"\$\.a\[1\]: a .*Opaque has no JSON form"),
        ({"a": float("nan")}, r"\$\.a: nan has no JSON form"),
        ([float("inf")], r"\$\[0\]: inf"),
        ({(1, 2): 3}, "a tuple can't be the key"),
        ({1: "a", "1": "b"}, "two keys are both written as '1'"),
    ],
)
def test_a_value_without_a_form_is_refused_with_its_place(value: Any, complaint: str) -> None:
    with pytest.raises(CodecError, match=complaint):
        JSON.encode(value)


def test_a_type_that_can_not_be_read_is_refused_by_name() -> None:
    with pytest.raises(CodecError, match="Opaque can't be read from JSON"):
        JSON.decode("{}", Opaque)


def test_text_that_is_not_json_is_itself_the_value() -> None:
    assert JSON.decode("plain text") == "plain text"
    assert JSON.decode("plain text", str) == "plain text"
    assert JSON.decode("5") == 5


@given(st.timedeltas())
def test_a_duration_is_exact(value: timedelta) -> None:
    assert JSON.decode(json.dumps(iso_duration(value)), timedelta) == value


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
))  # fmt: skip
def test_plain_json_comes_back(value: Any) -> None:
    assert JSON.decode(JSON.encode(value)) == value


@given(st.sets(st.text(max_size=3)))
def test_a_set_has_one_text(value: set[str]) -> None:
    assert JSON.encode(value) == JSON.encode(frozenset(value)) == JSON.encode(value | set())


@dataclass
class Everything:
    """A field of each kind that has a text of its own."""

    moment: datetime
    day: date
    hour: time
    span: timedelta
    key: UUID
    price: Decimal
    data: bytes
    file: Path
    colour: Colour
    level: Level
    point: Point
    pair: tuple[int, str]
    many: tuple[Decimal, ...]
    chosen: set[Colour]
    spans: dict[str, timedelta]
    maybe: Optional[UUID]
    either: Union[int, str]
    word: Literal["a", 1, None]
    tree: Leaf


NUMBERS = st.decimals(allow_nan=False, allow_infinity=False)
ZONED = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7, minutes=-30))]))


@given(
    st.builds(
        Everything,
        moment=ZONED | st.datetimes(),
        price=NUMBERS,
        file=st.text("abc/.", min_size=1).map(Path),
        many=st.lists(NUMBERS, max_size=3).map(tuple),
    )
)
def test_a_typed_value_comes_back_and_has_one_text(value: Everything) -> None:
    text = JSON.encode(value)
    again = JSON.decode(text, Everything)
    assert again == value
    assert JSON.encode(again) == text
