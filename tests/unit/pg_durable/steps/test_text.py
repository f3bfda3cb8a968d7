"""Which texts end the transaction that they run in."""

from __future__ import annotations

import pytest

from pg_durable.steps.text import transaction_end


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("commit", "COMMIT"),
        ("select 1; Commit", "COMMIT"),
        ("insert into t values (1) /* ; */ ;\n-- so\nEND;", "END"),
        ("rollback and chain", "ROLLBACK"),
        ("abort", "ABORT"),
        ("prepare  transaction 'x'", "PREPARE TRANSACTION"),
        ("savepoint a; rollback to a", None),
        ("rollback work to savepoint a", None),
        ("rollback transaction to a", None),
        ("commit prepared 'x'", None),
        ("select 'a; commit'", None),
        ("select $$; commit $$", None),
        ("-- commit\nselect 1 as commit", None),
        ('select 1 as "; commit"', None),
        ("select case when true then 1 end", None),
        ("create function f() returns int begin atomic; select 1; end", None),
        ("do $$ begin commit; end $$", None),
        ("", None),
    ],
)
def test_only_a_statement_of_its_own_ends_the_transaction(text: str, word: str | None) -> None:
    assert transaction_end(text) == word
