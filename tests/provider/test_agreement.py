"""Every store answers like the reference, whatever is asked in whatever order."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from duroxide.providers.base import Provider
from duroxide.providers.memory import MemoryProvider
from duroxide.providers.sqlite import SqliteProvider
from duroxide.testing.clocks import ManualClock
from duroxide.testing.provider_suite.agreement import ProvidersAgree
from duroxide_pg.provider import PostgresProvider
from tests.fixtures.budget import portions
from tests.provider.postgres_store import empty, installed_dsn
from tests.provider.test_kit import BROKEN

__all__ = ["installed_dsn"]

FEW = settings(max_examples=60, stateful_step_count=40, deadline=None)
MANY = settings(max_examples=1_500, stateful_step_count=60, deadline=None)
PORTION = 10
# A server takes too long to make a failure smaller; the longer one says as much.
AS_FOUND = (Phase.explicit, Phase.reuse, Phase.generate)


class MemoryAgrees(ProvidersAgree):
    async def new_provider(self, clock: ManualClock) -> Provider:
        return MemoryProvider(clock)


class SqliteInMemoryAgrees(ProvidersAgree):
    async def new_provider(self, clock: ManualClock) -> Provider:
        provider = SqliteProvider(None, clock=clock)
        await provider.start()
        return provider


class SqliteFileAgrees(ProvidersAgree):
    def __init__(self) -> None:
        self.folder = TemporaryDirectory()
        super().__init__()

    async def new_provider(self, clock: ManualClock) -> Provider:
        provider = SqliteProvider(Path(self.folder.name) / "store.db", clock=clock)
        await provider.start()
        return provider

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


class PostgresAgrees(ProvidersAgree):
    redelivers_in_order = False
    dsn: str

    async def new_provider(self, clock: ManualClock) -> Provider:
        empty(self.dsn)
        provider = PostgresProvider(self.dsn, clock=clock)
        await provider.start()
        return provider


class _NeedsServer:
    @pytest.fixture(autouse=True)
    def _dsn(self, installed_dsn: str) -> None:
        PostgresAgrees.dsn = installed_dsn


def agreement(machine: type[ProvidersAgree], how_often: settings, *mixins: type) -> Any:
    """A test case of its own, so that one machine can be run more and less often."""
    case: Any = type(f"Test{machine.__name__}", (*mixins, machine.TestCase), {})
    case.settings = how_often
    return case


TestMemory = agreement(MemoryAgrees, settings(FEW, max_examples=5))
TestSqliteInMemory = agreement(SqliteInMemoryAgrees, settings(FEW, max_examples=40))
TestSqliteFile = agreement(SqliteFileAgrees, settings(FEW, max_examples=10))
TestPostgres = agreement(
    PostgresAgrees, settings(FEW, max_examples=10, phases=AS_FOUND), _NeedsServer
)


def agree_often(machine: type[ProvidersAgree], how_often: settings) -> None:
    """The same in portions, between which it can end."""
    portion = settings(how_often, max_examples=PORTION)
    for _ in portions(how_often.max_examples // PORTION, minutes=20):
        run_state_machine_as_test(machine, settings=portion)


@pytest.mark.long
@pytest.mark.timeout(3600)
class TestSqliteOften:
    def test_it_answers_like_the_reference(self) -> None:
        agree_often(SqliteInMemoryAgrees, MANY)


@pytest.mark.long
@pytest.mark.timeout(3600)
class TestPostgresOften(_NeedsServer):
    def test_it_answers_like_the_reference(self) -> None:
        agree_often(PostgresAgrees, settings(MANY, max_examples=300, phases=AS_FOUND))


FOUND_SOON = ["Cancellation", "Creation", "Deletion", "KeyValue", "Locking", "Tag"]


@pytest.mark.parametrize("name", FOUND_SOON)
def test_a_store_that_answers_otherwise_is_found(name: str) -> None:
    class Disagrees(ProvidersAgree):
        async def new_provider(self, clock: ManualClock) -> Provider:
            return BROKEN[f"{name}Suite"](clock)

    how_often = settings(FEW, max_examples=400, phases=AS_FOUND, derandomize=True, database=None)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Disagrees, settings=how_often)
