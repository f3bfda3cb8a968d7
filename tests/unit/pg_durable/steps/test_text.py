"""Which texts end the transaction that they run in."""

from __future__ import annotations

import pytest

from pg_durable.steps.failures import ServerError
from pg_durable.steps.text import transaction_end, unbound_hint


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


@pytest.mark.parametrize(
    ("text", "sqlstate", "words"),
    [
        ("select $total", "42601", "no result is bound to total here; bind one with |=> 'total'"),
        ("select {sum:literal}", "42601", "there was no variable sum when"),
        ("select $total", "42703", None),
        ("select '$total {sum}' from", "42601", None),
        ("select 1 -- {sum}\n from from", "42601", None),
        ("select $$ {sum} $$ frm x y", "42601", None),
        ("select $1 from from", "42601", None),
    ],
)
def test_a_placeholder_that_stands_for_nothing_is_named(
    text: str, sqlstate: str, words: str | None
) -> None:
    hint = unbound_hint(text, ServerError(message="", fields={"sqlstate": sqlstate}))
    assert (hint is None) if words is None else (hint is not None and words in hint)
