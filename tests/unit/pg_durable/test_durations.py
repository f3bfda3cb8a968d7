"""Seconds of a sleep or a time-out as somebody wrote them."""

from __future__ import annotations

import pytest

from pg_durable.leaves import MAX_SLEEP_SECONDS, whole_seconds
from pg_durable.outcomes import NodeFailed


@pytest.mark.parametrize("text", ["0", "000", " 7 ", str(MAX_SLEEP_SECONDS), "0" * 9000 + "7"])
def test_decimal_digits_are_a_duration(text: str) -> None:
    assert whole_seconds(text, "sleep duration") == int(text.strip().lstrip("0") or "0")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "+1",
        "1.5",
        "1_0",
        "\N{ARABIC-INDIC DIGIT ONE}",
        "x",
        str(MAX_SLEEP_SECONDS + 1),
        "9" * 9000,
    ],
)
def test_all_else_is_refused_with_the_text(text: str) -> None:
    with pytest.raises(NodeFailed, match="Invalid sleep duration: ") as caught:
        whole_seconds(text, "sleep duration")
    assert text[:40] in str(caught.value)
