"""What decorated functions look like to a type checker, by the number of their arguments.

`ParamSpec` checks every argument but leaves no room for options beside them; a shape leaves room, for
up to three positional arguments. `Shape1[A, T]` is met by anything decorated that can be called with
one `A`, optional parameters after it included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from duroxide.activity_context import ActivityContext
    from duroxide.context import OrchestrationContext
    from duroxide.definitions import Style

A = TypeVar("A", contravariant=True)
B = TypeVar("B", contravariant=True)
C = TypeVar("C", contravariant=True)
R = TypeVar("R", covariant=True)


class Activity(Protocol):
    """What tells a decorated activity from a plain function."""

    @property
    def takes_context(self) -> bool: ...


class Activity0(Activity, Protocol[R]):
    def __call__(self) -> R: ...


class Activity1(Activity, Protocol[A, R]):
    def __call__(self, a: A, /) -> R: ...


class Activity2(Activity, Protocol[A, B, R]):
    def __call__(self, a: A, b: B, /) -> R: ...


class Activity3(Activity, Protocol[A, B, C, R]):
    def __call__(self, a: A, b: B, c: C, /) -> R: ...


class ContextActivity0(Activity, Protocol[R]):
    def __call__(self, ctx: ActivityContext, /) -> R: ...


class ContextActivity1(Activity, Protocol[A, R]):
    def __call__(self, ctx: ActivityContext, a: A, /) -> R: ...


class ContextActivity2(Activity, Protocol[A, B, R]):
    def __call__(self, ctx: ActivityContext, a: A, b: B, /) -> R: ...


class ContextActivity3(Activity, Protocol[A, B, C, R]):
    def __call__(self, ctx: ActivityContext, a: A, b: B, c: C, /) -> R: ...


class Orchestration(Protocol):
    """What tells a decorated orchestration from a plain function."""

    @property
    def style(self) -> Style: ...


class Orchestration0(Orchestration, Protocol[R]):
    def __call__(self, ctx: OrchestrationContext, /) -> R: ...


class Orchestration1(Orchestration, Protocol[A, R]):
    def __call__(self, ctx: OrchestrationContext, a: A, /) -> R: ...


class Orchestration2(Orchestration, Protocol[A, B, R]):
    def __call__(self, ctx: OrchestrationContext, a: A, b: B, /) -> R: ...


class Orchestration3(Orchestration, Protocol[A, B, C, R]):
    def __call__(self, ctx: OrchestrationContext, a: A, b: B, c: C, /) -> R: ...
