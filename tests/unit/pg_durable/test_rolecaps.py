"""How many steps of a kind and of a role run at once."""

from __future__ import annotations

import pytest

from pg_durable.rolecaps import tag_of
from pg_durable.settings import SettingError, Settings


def test_a_role_has_its_own_number_within_the_total_of_the_kind() -> None:
    caps = Settings.load(
        {"sql_concurrency": 5, "sql_concurrency_per_role": 3, "http_concurrency_per_role": 0},
        {"PG_DURABLE_ROLE_CONCURRENCY": "a/b%=1, eve=9"},
    ).role_caps
    assert caps("sql") == 5
    assert caps(tag_of("sql", "ann")) == 3
    assert caps(tag_of("sql", "a/b%")) == 1
    assert caps(tag_of("sql", "eve")) == 9
    assert caps("http") == 50
    assert caps(tag_of("http", "eve")) is None
    assert caps("other") is None


def test_a_role_is_one_level_of_a_tag_whatever_it_is_called() -> None:
    assert tag_of("sql", "a/b").count("/") == 1
    assert tag_of("sql", "a/b") != tag_of("sql", "a%2Fb")


@pytest.mark.parametrize("word", ["ann", "ann=", "=3", "ann=0", "ann=many"])
def test_a_number_of_a_role_that_can_not_be_read_is_refused(word: str) -> None:
    with pytest.raises(SettingError, match="role_concurrency: "):
        Settings.load({"role_concurrency": (word,)}, {})
