"""A DSN that can't be read is explained without repeating anything of it."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from duroxide_pg.errors import CannotConnect
from pg_durable.commands.dsn import check_dsn, with_database

SECRET = "kiwi7"

UNREADABLE = {
    f"postgres//ann:{SECRET}@host/db": "neither a URL nor a list",
    f"host=localhost {SECRET}": "neither a URL nor a list",
    SECRET: "neither a URL nor a list",
    f"host=localhost pasword={SECRET}": "name that PostgreSQL doesn't know",
    f"postgresql://ann@host/db?pasword={SECRET}": "after its '\\?' has a name",
    f"postgresql://ann:%zz{SECRET}@host/db": "followed by two hexadecimal digits",
    f"postgresql://ann:{SECRET}%00@host/db": "holds a %00",
    f"host=localhost password='{SECRET}": "quote in it is not closed",
    f"postgresql://ann:{SECRET}@[::1/db": "'\\[' in it is not closed",
    f"postgresql://ann:{SECRET}@[::1]x/db": "has another form",
    f"postgresql://ann:{SECRET}/more@host:5432/db": "port is not a number",
    f"postgresql://ann:more@{SECRET}@host/db": "host has an '@'",
}


@pytest.mark.parametrize("dsn", UNREADABLE, ids=UNREADABLE.values())
def test_an_unreadable_dsn_is_explained_without_its_secret(dsn: str) -> None:
    with pytest.raises(CannotConnect, match=f"DSN in --dsn.*{UNREADABLE[dsn]}") as caught:
        check_dsn(dsn, "--dsn")
    assert SECRET not in str(caught.value)
    assert "postgresql://user:password@host" in caught.value.remedy


@pytest.mark.parametrize(
    "dsn",
    [
        "",
        "dbname=db",
        "postgresql://",
        "postgresql://ann:p%40ss@one:5432,two:5433/db?sslmode=require",
        "postgresql://ann@/db?host=/run/postgresql",
        "host=@abstract port=5432",
    ],
)
def test_a_readable_dsn_passes_whether_or_not_anything_answers(dsn: str) -> None:
    check_dsn(dsn, "--dsn")


def test_another_database_keeps_the_rest() -> None:
    dsn = with_database(f"postgresql://ann:{SECRET}@host/db", 'it\'s "odd"')
    assert conninfo_to_dict(dsn) == {
        "user": "ann",
        "password": SECRET,
        "host": "host",
        "dbname": 'it\'s "odd"',
    }
