"""Models of pydantic, attrs and msgspec in payloads: the real libraries, each only if it is there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest

from duroxide.errors import CodecError
from duroxide.payload import JSON


class Colour(Enum):
    RED = "red"


MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


# At module level, because annotations are looked up there. None where a library is missing.
try:
    import attrs
except ModuleNotFoundError:
    attrs = None  # type: ignore[assignment]
else:

    @attrs.define
    class Part:
        name: str
        _price: Decimal = Decimal("1.50")
        tags: set[str] = attrs.field(factory=set)
        label: str = attrs.field(default="NOTHING")
        size: int = attrs.field(init=False, default=0)

    @attrs.frozen(kw_only=True)
    class Machine:
        parts: list[Part]
        built: datetime


try:
    import msgspec
except ModuleNotFoundError:
    msgspec = None  # type: ignore[assignment]
else:

    class Leg(msgspec.Struct, frozen=True):
        start: str
        takes: timedelta = timedelta(0)

    class Trip(msgspec.Struct, kw_only=True, rename="camel"):
        short_note: str = ""
        legs: list[Leg]
        colour: Colour = Colour.RED


try:
    import pydantic
except ModuleNotFoundError:
    pydantic = None  # type: ignore[assignment]
else:

    class Line(pydantic.BaseModel):
        sku: str = pydantic.Field(alias="stockKeepingUnit")
        amount: int = pydantic.Field(gt=0)
        words: set[str] = pydantic.Field(default_factory=set)

    class Invoice(pydantic.BaseModel):
        lines: list[Line]
        due: datetime
        total: Decimal
        raw: bytes = b""


MAKERS: dict[str, Callable[[], Any]] = {
    "attrs": lambda: Machine(parts=[Part("bolt", Decimal("2"), {"b", "a"})], built=MOMENT),
    "msgspec": lambda: Trip(legs=[Leg("Rome"), Leg("Venice", timedelta(hours=1))]),
    "pydantic": lambda: Invoice(
        lines=[Line(stockKeepingUnit="x", amount=2, words={"b", "a", "c"})],
        due=MOMENT,
        total=Decimal("9.90"),
        raw=b"abc",
    ),
}

TEXTS = {
    "attrs": '{"parts":[{"name":"bolt","_price":"2","tags":["a","b"],"label":"NOTHING","size":0}],'
    '"built":"2026-01-02T03:04:05+00:00"}',
    "msgspec": '{"short_note":"","legs":[{"start":"Rome","takes":"PT0S"},'
    '{"start":"Venice","takes":"PT3600S"}],"colour":"red"}',
    "pydantic": '{"lines":[{"stockKeepingUnit":"x","amount":2,"words":["a","b","c"]}],'
    '"due":"2026-01-02T03:04:05Z","total":"9.90","raw":"abc"}',
}


@pytest.mark.parametrize("library", MAKERS)
def test_a_model_has_one_text_and_comes_back(library: str) -> None:
    pytest.importorskip(library)
    value = MAKERS[library]()
    text = JSON.encode({"inside": [value]})
    assert text == f'{{"inside":[{TEXTS[library]}]}}'
    again = JSON.decode(text, dict[str, list[type(value)]])  # type: ignore[misc]
    assert again == {"inside": [value]}
    assert JSON.encode(again) == text


@pytest.mark.parametrize(
    ("library", "name", "text", "complaint"),
    [
        ("attrs", "Part", "{}", "needs the field 'name'"),
        ("attrs", "Part", '{"name":"x","_price":true}', r"\$\._price: a decimal number"),
        ("msgspec", "Trip", "{}", "needs the field 'legs'"),
        ("msgspec", "Trip", '{"legs":[{"start":1}]}', r"\$\.legs\[0\]\.start: a string"),
        ("pydantic", "Line", '{"stockKeepingUnit":"x","amount":0}', r"\$: not a Line: "),
    ],
)
def test_what_is_no_such_model_is_refused_with_its_place(
    library: str, name: str, text: str, complaint: str
) -> None:
    pytest.importorskip(library)
    with pytest.raises(CodecError, match=complaint):
        JSON.decode(text, globals()[name])


PRINT_SET = """
from tests.unit.duroxide.test_payload_libraries import JSON, Line
print(JSON.encode(Line(stockKeepingUnit="x", amount=1, words=set("abcdefgh"))))
"""


def test_a_set_in_a_model_has_one_text_in_every_process() -> None:
    pytest.importorskip("pydantic")
    texts = {
        subprocess.run(
            [sys.executable, "-c", PRINT_SET],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(texts) == 1


def test_none_of_them_is_imported_by_the_library() -> None:
    program = (
        "import sys, duroxide, duroxide.client, duroxide.payload, duroxide.schema, duroxide.runtime.runtime\n"
        "print(sorted({'pydantic', 'attr', 'attrs', 'msgspec'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert found.stdout.decode().strip() == "[]"
