"""What people ask of a store that has become large costs what they ask for, not what is there."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from duroxide.providers.base import DeleteResult, InstanceFilter, InstanceQuery, PruneOptions
from duroxide_pg import admin, migrate
from duroxide_pg.provider import PostgresProvider
from tests.fixtures.postgres import Database
from tests.provider.test_postgres_plans import Explained, pages, require_auto_explain

DAY_MS = 86_400_000
BEGAN_MS = 1_700_000_000_000
INSTANCE = """
insert into duroxide.instances
       (instance_id, orchestration_name, parent_instance_id, status, started_at, created_at, updated_at, completed_at)
select %s, 'x', %s, %s, at, at, at, case when %s in ('Completed', 'Failed') then at + interval '1 hour' end
  from (select to_timestamp(%s / 1000.0) as at) as a
"""
MANY = """
insert into duroxide.instances
       (instance_id, orchestration_name, status, started_at, created_at, updated_at, completed_at)
select 'i' || i, 'x', case when i %% 10 = 0 then 'Failed' when i %% 2 = 0 then 'Completed' else 'Running' end,
       at, at, at, case when i %% 2 = 0 then at end
  from generate_series(1, %(n)s) as i, lateral (select timestamptz '2020-01-01' + i * interval '1 minute') as t (at);
insert into duroxide.history_log
select 'i' || i, 1, 1, 5, repeat('x', 300), now() from generate_series(1, %(n)s) as i;
insert into duroxide.orchestrator_queue (instance_id, kind, work_item, visible_at)
select 'i' || i, 4, 'x', now() + interval '1 day' from generate_series(1, %(n)s) as i;
"""


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg.Connection[Any]]:
    migrate.upgrade(database.dsn)
    with psycopg.connect(database.superuser_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def provider(
    database: Database, connection: psycopg.Connection[Any]
) -> AsyncIterator[PostgresProvider]:
    provider = PostgresProvider(database.superuser_dsn)
    yield provider
    await provider.close()


@pytest.fixture
async def explained(
    database: Database, connection: psycopg.Connection[Any]
) -> AsyncIterator[Explained]:
    require_auto_explain(database.superuser_dsn)
    provider = Explained(database.superuser_dsn)
    yield provider
    await provider.close()


def fill(connection: psycopg.Connection[Any], count: int) -> None:
    with psycopg.ClientCursor(connection) as cursor:
        cursor.execute(MANY, {"n": count})
    connection.execute("vacuum analyze")


def ids(connection: psycopg.Connection[Any]) -> set[str]:
    return {row[0] for row in connection.execute("select instance_id from duroxide.instances")}


class TestSlices:
    @pytest.mark.parametrize(
        ("size", "page", "events"),
        [(1, 1, 1), (2, 3, 3), (3, 2, 1), (7, 50, 2), (500, 5_000, 5), (500, 5_000, 50_000)],
    )
    async def test_however_a_deletion_is_sliced_it_deletes_the_same(
        self,
        connection: psycopg.Connection[Any],
        provider: PostgresProvider,
        monkeypatch: pytest.MonkeyPatch,
        size: int,
        page: int,
        events: int,
    ) -> None:
        monkeypatch.setattr(admin, "SLICE", size)
        monkeypatch.setattr(admin, "PAGE", page)
        monkeypatch.setattr(admin, "SLICE_EVENTS", events)
        chance = random.Random(size)
        cutoff_ms = BEGAN_MS + 20 * DAY_MS
        to_go: set[str] = set()
        for number in range(40):
            root = f"root{chance.random()}"
            at_ms = BEGAN_MS + (number // 3) * 3 * DAY_MS  # several at the same time
            own = chance.choice(["Completed", "Failed", "Running"])
            below = [chance.choice(["Completed", "Failed", "Running"]) for _ in range(number % 3)]
            family = [root, *(f"{root}/{place}" for place in range(len(below)))]
            for name, parent, status in zip(family, [None, *family], [own, *below], strict=False):
                connection.execute(INSTANCE, [name, parent, status, status, at_ms])
            if "Running" not in [own, *below] and at_ms < cutoff_ms:
                to_go |= set(family)
        everything = ids(connection)
        assert 5 < len(to_go) < len(everything)
        result = await provider.delete_instances_by_filter(
            InstanceFilter(completed_before_ms=cutoff_ms)
        )
        assert result.instances_deleted == len(to_go)
        assert ids(connection) == everything - to_go

    async def test_a_limit_ends_between_slices_and_the_oldest_go_first(
        self,
        connection: psycopg.Connection[Any],
        provider: PostgresProvider,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(admin, "SLICE", 4)
        fill(connection, 60)
        result = await provider.delete_instances_by_filter(InstanceFilter(limit=10))
        assert result.instances_deleted == 10
        ended = {f"i{number}" for number in range(2, 21, 2)}
        assert ids(connection) == {f"i{number}" for number in range(1, 61)} - ended

    async def test_pruning_goes_on_where_the_last_slice_ended(
        self,
        connection: psycopg.Connection[Any],
        provider: PostgresProvider,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(admin, "SLICE", 7)
        fill(connection, 30)
        connection.execute(
            "insert into duroxide.executions_done"
            " select 'i' || i, e, 'ContinuedAsNew', 'x', null, now(), now()"
            " from generate_series(1, 30) as i, generate_series(1, 4) as e"
        )
        everything = InstanceFilter(limit=100)
        result = await provider.prune_executions_by_filter(everything, PruneOptions(keep_last=2))
        assert (result.instances_processed, result.executions_deleted) == (30, 90)
        result = await provider.prune_executions_by_filter(everything, PruneOptions(keep_last=2))
        assert (result.instances_processed, result.executions_deleted) == (30, 0)


class Recording(PostgresProvider):
    """Keeps what each call of management returned; ends like a process that is killed after `stop_after` calls."""

    def __init__(self, dsn: str, stop_after: int | None = None) -> None:
        super().__init__(dsn)
        self.returned: list[tuple[Any, ...]] = []
        self._stop_after = stop_after

    async def _ask(self, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
        if len(self.returned) == self._stop_after:
            raise asyncio.CancelledError
        rows = await super()._ask(name, **parameters)
        self.returned += rows
        return rows


@dataclass
class Past:
    """An ended instance that continue-as-new has superseded many times: events of each execution, oldest first."""

    name: str
    executions: list[int]

    def write(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute(INSTANCE, [self.name, None, "Completed", "Completed", BEGAN_MS])
        current = len(self.executions)
        connection.execute(
            "update duroxide.instances set current_execution_id = %s, history_events = %s"
            " where instance_id = %s",
            [current, self.executions[-1], self.name],
        )
        for number, events in enumerate(self.executions, 1):
            if number < current:
                connection.execute(
                    "insert into duroxide.executions_done values"
                    " (%s, %s, 'ContinuedAsNew', 'x', null, now(), to_timestamp(%s))",
                    [self.name, number, number],
                )
            connection.execute(  # in turns of two events
                "insert into duroxide.history_log"
                " select %s, %s, e, least(e + 1, %s), '[]', now() from generate_series(1, %s, 2) as e",
                [self.name, number, events, events],
            )

    async def left(self, provider: PostgresProvider) -> list[tuple[int, int]]:
        """Executions that are there, and their events."""
        found = await provider.list_executions(self.name)
        return [(execution.execution_id, execution.event_count) for execution in found]


def pasts(chance: random.Random) -> list[Past]:
    return [
        Past(f"i{n}", [chance.randrange(1, 40) for _ in range(chance.randrange(1, 25))])
        for n in range(6)
    ]


class TestLongPasts:
    @pytest.mark.parametrize("events", [1, 30, 100, 50_000])
    @pytest.mark.parametrize(
        "options", [PruneOptions(), PruneOptions(keep_last=5, completed_before_ms=9_000)]
    )
    async def test_however_pruning_is_sliced_it_removes_the_same(
        self,
        database: Database,
        connection: psycopg.Connection[Any],
        monkeypatch: pytest.MonkeyPatch,
        events: int,
        options: PruneOptions,
    ) -> None:
        monkeypatch.setattr(admin, "SLICE_EVENTS", events)
        kept, gone = {}, []
        for past in (everything := pasts(random.Random(7))):
            past.write(connection)
            numbered = list(enumerate(past.executions, 1))
            newest = numbered[-(options.keep_last or 1) :]
            young = [
                (n, e) for n, e in numbered if n * 1000 >= (options.completed_before_ms or 1e9)
            ]
            kept[past.name] = [one for one in numbered if one in newest or one in young]
            gone += [e for n, e in numbered if (n, e) not in kept[past.name]]
        provider = Recording(database.superuser_dsn)
        result = await provider.prune_executions_by_filter(InstanceFilter(), options)
        slices = [row[2] for row in provider.returned]
        assert {past.name: await past.left(provider) for past in everything} == kept
        await provider.close()
        assert result.instances_processed == len(everything)
        assert (result.executions_deleted, result.events_deleted) == (len(gone), sum(gone))
        assert max(slices) < events + max(gone)
        assert len(slices) >= sum(gone) // (events + max(gone))

    async def test_deleting_one_with_a_long_past_takes_many_transactions(
        self,
        database: Database,
        connection: psycopg.Connection[Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(admin, "SLICE_EVENTS", 50)
        past, other = Past("i", [9, 10, 11] * 20 + [13]), Past("j", [8, 5])
        past.write(connection)
        other.write(connection)
        provider = Recording(database.superuser_dsn)
        result = await provider.delete_instances(["i"])
        assert (result.instances_deleted, result.executions_deleted) == (1, 61)
        assert result.events_deleted == 60 * 10 + 13
        assert len(provider.returned) > 10
        assert all(row[3] < 50 + 11 for row in provider.returned[:-1])
        assert await other.left(provider) == [(1, 8), (2, 5)]
        await provider.close()
        left = connection.execute("select instance_id from duroxide.history_log").fetchall()
        assert set(left) == {("j",)}

    @pytest.mark.parametrize("by_filter", [True, False])
    async def test_a_deletion_that_is_killed_leaves_whole_executions_and_can_be_repeated(
        self,
        database: Database,
        connection: psycopg.Connection[Any],
        monkeypatch: pytest.MonkeyPatch,
        by_filter: bool,
    ) -> None:
        monkeypatch.setattr(admin, "SLICE_EVENTS", 50)
        past = Past("i", [9, 10, 11] * 20 + [13])
        past.write(connection)

        async def delete(provider: PostgresProvider) -> DeleteResult:
            if by_filter:
                return await provider.delete_instances_by_filter(InstanceFilter())
            return await provider.delete_instances(["i"])

        killed = Recording(database.superuser_dsn, stop_after=3)
        with pytest.raises(asyncio.CancelledError):
            await delete(killed)
        await killed.close()
        provider = Recording(database.superuser_dsn)
        numbered = list(enumerate(past.executions, 1))
        left = await past.left(provider)
        assert 1 < len(left) < len(numbered)
        assert left == numbered[-len(left) :]
        result = await delete(provider)
        assert (result.instances_deleted, result.executions_deleted) == (1, len(left))
        assert ids(connection) == set()
        await provider.close()

    async def test_trees_with_much_in_them_go_one_by_one(
        self,
        database: Database,
        connection: psycopg.Connection[Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(admin, "SLICE_EVENTS", 50)
        for number in range(6):
            Past(f"i{number}", [30]).write(connection)
        provider = Recording(database.superuser_dsn)
        result = await provider.delete_instances_by_filter(InstanceFilter(limit=5))
        assert result.instances_deleted == 5
        assert [row[1] for row in provider.returned] == [1] * 5
        assert ids(connection) == {"i5"}
        await provider.close()


class TestCosts:
    async def test_deleting_what_is_old_does_not_look_at_what_is_new(
        self, connection: psycopg.Connection[Any], explained: Explained
    ) -> None:
        fill(connection, 20_000)
        old = InstanceFilter(completed_before_ms=1_577_836_800_000 + 100 * 60_000)
        result = await explained.delete_instances_by_filter(old)
        assert result.instances_deleted == 49
        assert pages(explained.plans)["delete_ended_trees_v1"] < 3_000

    async def test_a_page_of_a_listing_costs_the_same_wherever_it_is(
        self, connection: psycopg.Connection[Any], explained: Explained
    ) -> None:
        fill(connection, 20_000)
        cursor = None
        costs = []
        for _ in range(20):
            explained.plans.clear()
            page = await explained.list_page(InstanceQuery(), limit=50, cursor=cursor)
            cursor = page.next_cursor
            (plan,) = [
                p for p in explained.plans if "order by s.created_at desc" in p["Query Text"]
            ]
            costs.append(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])
        assert max(costs) <= 60

    async def test_metrics_of_a_large_store_are_estimates_from_a_sample(
        self,
        connection: psycopg.Connection[Any],
        explained: Explained,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        fill(connection, 20_000)
        exact = await explained.system_metrics()
        assert (exact.total_instances, exact.total_events) == (20_000, 100_000)
        assert (exact.running_instances, exact.completed_instances) == (10_000, 8_000)
        assert exact.failed_instances == 2_000
        assert exact.total_executions == 20_000
        monkeypatch.setattr(admin, "METRICS_PAGES", 50)
        explained.plans.clear()
        estimate = await explained.system_metrics()
        assert pages(explained.plans)["system_metrics_v1"] < 400  # the tables have 1,500
        assert estimate.total_instances == pytest.approx(20_000, rel=0.6)
        assert estimate.total_events == pytest.approx(100_000, rel=0.6)
        running = estimate.running_instances / estimate.total_instances
        assert running == pytest.approx(0.5, abs=0.05)

    async def test_a_long_queue_is_counted_up_to_a_limit(
        self,
        connection: psycopg.Connection[Any],
        explained: Explained,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        fill(connection, 20_000)
        assert (await explained.queue_depths()).timer_queue == 20_000
        monkeypatch.setattr(admin, "MOST_QUEUED", 100)
        explained.plans.clear()
        assert (await explained.queue_depths()).timer_queue == 100
        (plan,) = [p for p in explained.plans if "as timers" in p["Query Text"]]
        assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 200
