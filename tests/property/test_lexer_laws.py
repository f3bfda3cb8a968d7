from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pg_durable.lexer import tokenize

PIECES = st.sampled_from(
    [
        "'",
        "''",
        '"',
        "E'",
        "U&'",
        "$",
        "$$",
        "$a$",
        "--",
        "/*",
        "*/",
        "\n",
        " ",
        "\\",
        "a",
        "é",
        "1",
        ";",
    ]
)
TEXTS = st.lists(PIECES | st.characters(codec="utf-8"), max_size=40).map("".join)


@given(TEXTS)
def test_the_tokens_of_a_text_are_the_text(text: str) -> None:
    tokens = list(tokenize(text))
    assert "".join(token.text for token in tokens) == text
    assert all(text.startswith(token.text, token.start) for token in tokens)
    assert all(token.text for token in tokens)


@given(TEXTS)
def test_two_neighbours_are_never_both_code(text: str) -> None:
    contexts = [token.context.name for token in tokenize(text)]
    assert ("CODE", "CODE") not in list(pairwise(contexts))
