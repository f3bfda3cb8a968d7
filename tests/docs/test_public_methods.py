"""What authors of orchestrations and activities are handed is typed, explained and in the documents."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from duroxide import DurableFuture, OrchestrationContext, Queue
from duroxide.activity_context import ActivityContext
from duroxide.engine.scopes import Scope, Timeout
from tests.docs.test_sdk_names import names_of_the_table

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
PLUMBING = {"attached", "journal", "retrying"}  # for the engine and the driver
FUTURE = ("done", "result", "exception", "cancel", "cancelled")


def public(cls: type[Any]) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in dir(cls):
        if name.startswith("_") or name in PLUMBING:
            continue
        if cls is DurableFuture and name not in FUTURE:
            continue
        member = inspect.getattr_static(cls, name)
        found = member.fget if isinstance(member, property) else member
        if inspect.isfunction(found):
            yield f"{cls.__name__}.{name}", found


METHODS = dict(
    method
    for cls in (OrchestrationContext, ActivityContext, Queue, DurableFuture, Scope, Timeout)
    for method in public(cls)
)


@pytest.mark.parametrize("name", METHODS)
def test_a_public_method_is_typed_and_explained(name: str) -> None:
    method = METHODS[name]
    assert inspect.getdoc(method), f"{name} has no docstring"
    parameters = list(inspect.signature(method).parameters.values())[1:]
    untyped = [p.name for p in parameters if p.annotation is inspect.Parameter.empty]
    assert untyped == []
    assert "return" in method.__annotations__


def test_every_method_of_the_contexts_is_in_the_documents() -> None:
    text = "".join(
        (REFERENCE / f"{page}.md").read_text(encoding="utf-8")
        for page in ("orchestrations", "runtime")
    )
    known = names_of_the_table() | set(re.findall(r"\w+", text))
    methods = [m for m in METHODS if m.startswith(("OrchestrationContext", "ActivityContext"))]
    assert len(methods) > 60
    assert [m for m in methods if m.partition(".")[2] not in known] == []
