"""Texts and graphs that nobody writes on purpose: the step or the workflow ends, and says what it has to."""

from __future__ import annotations

import pytest

from tests.fixtures.workflows import Workflows, eventually

DEPTH = 257  # the deepest graph that df.start takes


def raising(sqlstate: str) -> str:
    return f"$$do 'begin raise exception using message = ''boo'', errcode = ''{sqlstate}''; end'$$"


def nested(step: str, around: str) -> str:
    """`step` inside as many of `around` as a graph may have; `within` stands for what is inside."""
    return (
        f"(with recursive n (depth, within) as (select 1, {step} union all "
        f"select depth + 1, {around} from n where depth < {DEPTH}) "
        "select within from n order by depth desc limit 1)"
    )


@pytest.mark.parametrize("sqlstate", ["PD001", "PD002", "PD003"])
def test_an_error_that_looks_like_one_of_ours_fails_the_step(
    standing: Workflows, sqlstate: str
) -> None:
    """It was taken for a lost lease, and the step was repeated until it was poison."""
    error = standing.fail(f"df.sql({raising(sqlstate)})")
    assert error == "SQL execution failed: error returned from database: boo"


def test_values_that_came_in_another_encoding_are_refused(standing: Workflows) -> None:
    text = "set client_encoding to latin1; select ''{}'' as v"
    assert standing.finish(f"'{text.format('a')}'")["rows"] == [{"v": "a"}]
    assert "has set client_encoding to LATIN1" in standing.fail(f"'{text.format('ä')}'")
    assert standing.finish("'select ''ä'' as v'")["rows"] == [{"v": "ä"}]


def test_joins_and_races_may_be_as_deep_as_any_graph(standing: Workflows) -> None:
    joined = standing.finish(nested("'select 1 as n'", "df.join(within, df.sleep(0))"))
    for _ in range(DEPTH - 1):
        joined, slept = joined
        assert slept == {"slept": True, "seconds": 0}
    assert joined["rows"] == [{"n": 1}]
    raced = standing.finish(nested("'select 1 as n'", "df.race(within, df.sleep(3600))"))
    assert raced["rows"] == [{"n": 1}]


def test_the_deepest_race_can_be_lost_and_cancelled(standing: Workflows) -> None:
    deepest = nested("df.sleep(3600)", "df.join(within, df.sleep(3600))").replace("257", "256")
    lost = standing.finish(f"df.race({deepest}, df.sleep(0))")
    assert lost == {"slept": True, "seconds": 0}
    instance = standing.start(nested("df.sleep(3600)", "df.race(within, df.sleep(3600))"))
    eventually(lambda: standing.status(instance) == "running")
    standing.one("select df.cancel(%s)", instance)
    assert standing.wait(instance) == "cancelled"
    statuses = standing.all("select distinct inferred_status from df.instance_nodes(%s)", instance)
    assert {status for (status,) in statuses} <= {"cancelled", "skipped"}


HALF = r'{"a": ["\ud800 ü"]}'  # JSON, though no text has such a character


def test_a_signal_with_half_a_character_is_taken_and_passed_on(standing: Workflows) -> None:
    """The workflow that took it could not be committed, and hung."""
    instance = standing.start(
        "df.loop(df.wait_for_signal('go') |=> 's' ~> 'select $s.data::json as j' |=> 'r'"
        " ~> df.break('$r.j'))"
    )
    standing.one("select df.signal(%s, 'go', %s)", instance, HALF)
    assert standing.wait(instance) == "completed", standing.error(instance)
    # It has no jsonb, so it is shown as the text of the document.
    assert standing.one("select df.result(%s)::jsonb #>> '{}'", instance) == HALF.replace(" [", "[")


@pytest.mark.parametrize("place", ["select $r.j", "select ''$r.j''", "select * from $r.*"])
def test_half_a_character_is_refused_where_text_is_needed(standing: Workflows, place: str) -> None:
    error = standing.fail(f"$$select '\"\\udc00\"'::json as j$$ |=> 'r' ~> '{place}'")
    assert error == r"a value contains \udc00, half of a character, which text can't hold"


@pytest.mark.parametrize("name", ["", "\\u0000"])
def test_a_signal_that_nobody_could_send_is_not_waited_for(standing: Workflows, name: str) -> None:
    error = standing.fail(
        f"$$select '\"{name}\"'::json as j$$ |=> 'r' ~> df.wait_for_signal('$r.j')"
    )
    assert error.startswith("Signal name")
