"""What a name stands for: registration, versions, and arguments as payloads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Literal

import pytest

from duroxide import OrchestrationContext, RegistrationError, activity, orchestration
from duroxide.definitions import Style, define_activity, define_orchestration
from duroxide.errors import CodecError
from duroxide.registry import Registry


async def native(ctx: OrchestrationContext, x: int) -> int:
    return x


def generator(ctx: OrchestrationContext, x: int) -> Generator[Any, Any, int]:
    yield
    return x


def plain(ctx: OrchestrationContext, x: int) -> int:
    return x


class CallMe:
    async def __call__(self, ctx: OrchestrationContext, x: int) -> int:
        return x


async def not_this(ctx: OrchestrationContext) -> AsyncIterator[int]:
    yield 1


def test_styles_are_recognised_also_under_partials_and_objects() -> None:
    styles = [
        define_orchestration(fn, name="o").style
        for fn in (native, generator, plain, partial(native, x=1), CallMe())
    ]
    expected = [Style.NATIVE, Style.GENERATOR, Style.PLAIN, Style.NATIVE, Style.NATIVE]
    assert styles == expected


@pytest.mark.parametrize(
    ("define", "complaint"),
    [
        (lambda: define_orchestration(not_this), "async generator"),
        (lambda: define_activity(generator), "generator; only orchestrations"),
        (lambda: define_orchestration(native, version="1.0"), "not of the form 1.2.3"),
        (lambda: define_orchestration(native, version="1.02.0"), "not of the form 1.2.3"),
        (lambda: define_orchestration(lambda: 1, name="o"), "must take the context"),
        (lambda: define_activity(lambda *args: 1, name="a"), "name the parameters"),
        (lambda: define_activity(plain, max_concurrency=0), "max_concurrency is 0"),
    ],
)
def test_what_can_not_work_is_refused_when_it_is_defined(define: Any, complaint: str) -> None:
    with pytest.raises(RegistrationError, match=complaint):
        define()


def test_the_latest_version_is_meant_unless_another_is_pinned() -> None:
    versions = [define_orchestration(native, name="o", version=v) for v in ("1.10.0", "1.9.0")]
    registry = Registry().add(*versions)
    assert registry.orchestration("o") is versions[0]
    assert registry.orchestration("o", "1.9.0") is versions[1]
    assert registry.orchestration("o", "3.0.0") is None
    assert registry.orchestration("o", "nonsense") is None
    assert registry.orchestration("other") is None
    registry.set_version_policy("o", "1.9.0")
    assert registry.orchestration("o") is versions[1]
    registry.set_version_policy("o", None)
    assert registry.orchestration("o") is versions[0]
    with pytest.raises(RegistrationError, match=r"o@3\.0\.0 is not registered"):
        registry.set_version_policy("o", "3.0.0")


def test_a_name_stands_for_one_code_only() -> None:
    registry = Registry()
    first = define_orchestration(native, name="o")
    registry.add(first, first)
    with pytest.raises(RegistrationError, match=r"duplicate orchestration registration: o@1\.0\.0"):
        registry.add(define_orchestration(plain, name="o"))
    registry.add(define_activity(plain, name="a"))
    with pytest.raises(RegistrationError, match="duplicate activity registration: a"):
        registry.add(define_activity(native, name="a"))
    with pytest.raises(RegistrationError, match="reserved prefix"):
        registry.add(define_activity(plain, name="__duroxide_syscall:x"))
    with pytest.raises(RegistrationError, match="decorate it"):
        registry.add(plain)  # type: ignore[arg-type]


def test_registries_are_merged_with_the_same_care() -> None:
    one = Registry().add(define_orchestration(native, name="o"))
    two = Registry().add(define_orchestration(plain, name="p"), define_activity(plain, name="a"))
    one.merge(two)
    assert [d.name for d in one.orchestrations()] == ["o", "p"]
    assert [d.name for d in one.activities()] == ["a"]
    with pytest.raises(RegistrationError, match="duplicate"):
        one.merge(Registry().add(define_orchestration(plain, name="o")))


@dataclass
class Order:
    sku: str


@activity
def nothing() -> None: ...


@activity
def one(order: Order) -> None: ...


@activity
def optional(order: Order | None = None) -> None: ...


@activity
def several(order: Order, count: int = 1) -> None: ...


@pytest.mark.parametrize(
    ("definition", "args", "text"),
    [
        (nothing, (), "null"),
        (one, (Order("x"),), '{"sku":"x"}'),
        (optional, (), "null"),
        (several, (Order("x"),), '{"order":{"sku":"x"}}'),
        (several, (Order("x"), 2), '{"order":{"sku":"x"},"count":2}'),
    ],
)
def test_arguments_become_a_payload_and_come_back(
    definition: Any, args: tuple[Any, ...], text: str
) -> None:
    assert definition.encode_arguments(args, {}) == text
    positional, named = definition.decode_arguments(text)
    assert (*positional, *named.values()) == args


def test_callers_that_know_only_the_name_reach_functions_of_several_parameters() -> None:
    assert several.decode_arguments('[{"sku":"x"},3]')[1] == {"order": Order("x"), "count": 3}
    assert several.decode_arguments('{"sku":"x"}')[1] == {"order": Order("x")}
    with pytest.raises(CodecError, match="lacks the argument 'order'"):
        several.decode_arguments("null")


@pytest.mark.parametrize(
    ("args", "kwargs", "complaint"),
    [
        ((1, 2, 3), {}, "'several' takes 2 arguments but 3 were given"),
        ((), {}, "missing the argument 'order'"),
        ((1,), {"order": 2}, "more than one value for 'order'"),
        ((1,), {"other": 2}, "unknown argument 'other'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(
    args: tuple[Any, ...], kwargs: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(TypeError, match=complaint):
        several.encode_arguments(args, kwargs)


def test_raw_payloads_are_exact_texts() -> None:
    raw = define_activity(plain, name="raw", raw=True)
    assert raw.encode_arguments(("not json",), {}) == "not json"
    assert raw.decode_arguments("not json") == (("not json",), {})
    assert raw.encode_result("text") == raw.decode_result("text") == "text"
    with pytest.raises(TypeError, match="'raw' is raw"):
        raw.encode_result(5)
    with pytest.raises(TypeError, match="takes one text"):
        raw.encode_arguments(("a", "b"), {})
    code = define_orchestration(native, name="o", raw=True)
    assert (
        code.encode_output("x") == code.decode_output("x") == code.encode_input(("x",), {}) == "x"
    )
    assert code.decode_input("x") == (("x",), {})


def test_a_decorated_function_can_still_be_called() -> None:
    @activity(name="other")
    def double(n: int) -> int:
        return n * 2

    @orchestration
    def triple(ctx: OrchestrationContext, n: int) -> int:
        return n * 3

    assert double(4) == 8
    assert double.name == "other"
    assert triple.name == "triple"
    assert triple(OrchestrationContext({}), 2) == 6


@dataclass
class Node:
    name: str
    colour: Literal["red", "blue"] = "red"
    sizes: dict[str, int] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)
    due: datetime | None = None


@activity
def grow(node: Node, times: tuple[int, ...] = ()) -> set[str]:
    """Make it larger."""
    return set()


def test_a_registry_tells_what_it_has_with_schemas() -> None:
    registry = Registry().add(
        define_orchestration(native, name="o", version="2.0.0"), grow, nothing
    )
    code, first, second = registry.describe()
    assert code == {
        "kind": "orchestration",
        "name": "o",
        "version": "2.0.0",
        "doc": "",
        "parameters": ["x"],
        "input": {"type": "integer"},
        "output": {"type": "integer"},
    }
    assert (first["name"], first["doc"]) == ("grow", "Make it larger.")
    assert first["output"] == {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
    assert first["input"]["required"] == ["node"]
    node = first["input"]["properties"]["node"]
    assert node["required"] == ["name"]
    assert node["properties"] == {
        "name": {"type": "string"},
        "colour": {"enum": ["red", "blue"]},
        "sizes": {"type": "object", "additionalProperties": {"type": "integer"}},
        "children": {"type": "array", "items": {}},
        "due": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]},
    }
    assert second["input"] == {"type": "null"}
