"""The calls of people and their tools in the comparison of stores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any, cast

from hypothesis import strategies as st
from hypothesis.stateful import rule

from duroxide.providers.base import (
    InstanceFilter,
    InstanceQuery,
    Provider,
    ProviderAdmin,
    PruneOptions,
)
from duroxide.testing.provider_suite.comparison import requeued
from duroxide.testing.provider_suite.drawing import INSTANCES, KEEPS, QUERIES
from duroxide.testing.provider_suite.pairs import Pairs


class PeopleAgree(Pairs):
    """Management and reading."""

    # What people do.

    def manage(self, ask: Callable[[ProviderAdmin], Coroutine[Any, Any, Any]]) -> None:
        """Ask both managements; a store that has none is not asked."""
        if hasattr(self.pair[1], "delete_instances"):
            expected, answer = self.both(lambda provider, _: ask(cast("ProviderAdmin", provider)))
            assert answer == expected, f"{answer} is not {expected}"

    # Few rules for what is asked seldom: the others shall come often enough to build on each other.

    @rule(
        how=st.sampled_from(["some", "ended", "executions"]),
        instances=st.lists(INSTANCES, min_size=1, max_size=3, unique=True),
        force=st.booleans(),
        keep=KEEPS,
        limit=st.sampled_from([None, 1]),
        ago_ms=st.sampled_from([None, 500]),
    )
    def delete(
        self,
        how: str,
        instances: list[str],
        force: bool,
        keep: int | None,
        limit: int | None,
        ago_ms: int | None,
    ) -> None:
        before = None if ago_ms is None else self.clock.now_ms() - ago_ms
        if how == "some":
            self.manage(lambda admin: admin.delete_instances(instances, force=force))
        elif how == "ended":
            which = InstanceFilter(completed_before_ms=before, limit=limit)
            self.manage(lambda admin: admin.delete_instances_by_filter(which))
        else:
            options = PruneOptions(keep_last=keep, completed_before_ms=before)
            self.manage(lambda admin: admin.prune_executions(instances[0], options))

    @rule(how=st.sampled_from(["suspend", "resume", "resume", "requeue"]), instance=INSTANCES)
    def steer(self, how: str, instance: str) -> None:
        match how:
            case "suspend":
                self.manage(lambda admin: admin.suspend_instances([instance]))
            case "resume":
                self.manage(lambda admin: admin.resume_instances([instance]))
            case _ if self.can("dead_letters"):
                expected, answer = self.both(lambda provider, _: requeued(provider, instance))
                assert answer == expected, f"{answer} is not {expected}"

    @rule(instance=INSTANCES, which=QUERIES, limit=st.integers(1, 3), sweeps=st.booleans())
    def inspect(self, instance: str, which: InstanceQuery, limit: int, sweeps: bool) -> None:
        async def pages(admin: ProviderAdmin) -> list[Any]:
            found, cursor = [], None
            while True:
                page = await admin.list_page(which, limit=limit, cursor=cursor)
                found.append(page.instances)
                cursor = page.next_cursor
                if cursor is None:
                    return found

        async def everything(admin: ProviderAdmin) -> Any:
            stats = await admin.instance_stats(instance)
            return (
                await pages(admin),
                tuple(await admin.list_executions(instance)),
                sorted(await admin.list_children(instance)),
                sorted(await admin.instance_tree(instance)),
                await admin.system_metrics(),
                await admin.queue_depths(),
                stats and dataclasses.replace(stats, history_size_bytes=0),  # each counts its own
                await admin.cleanup_sessions(idle_ms=0) if sweeps else None,
            )

        self.manage(everything)

    # Looking.

    @rule(instance=INSTANCES)
    def look(self, instance: str) -> None:
        async def ask(provider: Provider, _: int) -> Any:
            return (
                await provider.read_status([instance]),
                [tuple(await provider.read_history(instance, n)) for n in (None, 1, 2)],
                await provider.read_key_values(instance),
            )

        (state, history, values), (state2, history2, values2) = self.both(ask)
        assert dict(state2) == dict(state)
        assert history2 == history
        assert {k: v.value for k, v in values2.items()} == {k: v.value for k, v in values.items()}
