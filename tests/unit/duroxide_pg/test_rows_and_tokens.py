"""Text forms that must come back as they went in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duroxide.ids import ActivityToken, TurnToken
from duroxide_pg.rows import UnreadableHistory, join_events, split_events
from duroxide_pg.tokens import (
    activity_token,
    nonces,
    process_name,
    split_activity_token,
    split_turn_token,
    turn_token,
)

events = st.dictionaries(st.text(), st.text() | st.integers() | st.none()).map(
    lambda content: json.dumps(content, ensure_ascii=False)
)


@given(st.lists(events, min_size=1))
def test_a_turns_row_is_json_and_splits_into_its_events(texts: list[str]) -> None:
    row = join_events(texts)
    assert split_events(row) == texts
    assert json.loads(row) == [json.loads(text) for text in texts]


@pytest.mark.parametrize("text", ["", "[]", "not json", "[{", '{"a": 1}'])
def test_a_row_that_no_turn_wrote_is_unreadable(text: str) -> None:
    with pytest.raises(UnreadableHistory):
        split_events(text)


@given(st.text(min_size=1), st.integers(1, 10**18 - 1))
def test_tokens_name_their_row_whatever_the_instance_is_called(instance: str, number: int) -> None:
    nonce = nonces(process_name())()
    assert split_turn_token(turn_token(nonce, instance)) == (nonce, instance)
    assert split_activity_token(activity_token(nonce, number, instance)) == (
        nonce,
        number,
        instance,
    )


@given(st.text())
def test_any_text_can_be_split_and_names_no_row_if_it_is_not_ours(text: str) -> None:
    split_turn_token(TurnToken(text))
    _, number, _ = split_activity_token(ActivityToken(f"nonce/x{text}"))
    assert number == 0


def test_the_names_of_processes_have_no_slash_and_never_repeat() -> None:
    names = {process_name() for _ in range(1_000)}
    assert len(names) == 1_000
    assert {len(name) for name in names} == {12}
    assert not any("/" in name for name in names)
