from __future__ import annotations

import pytest

from pg_durable.lexer import Context, tokenize

C = Context


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("select 1", [(C.CODE, "select 1")]),
        ("a 'it''s' b", [(C.CODE, "a "), (C.STRING, "'it''s'"), (C.CODE, " b")]),
        (r"'a\' b", [(C.STRING, r"'a\'"), (C.CODE, " b")]),
        (r"E'a\' b' c", [(C.ESCAPE_STRING, r"E'a\' b'"), (C.CODE, " c")]),
        ("e'a'\n  'b\\'c'", [(C.ESCAPE_STRING, "e'a'\n  'b\\'c'")]),
        ("'a' -- one\n 'b'", [(C.STRING, "'a' -- one\n 'b'")]),
        ("'a' 'b'", [(C.STRING, "'a'"), (C.CODE, " "), (C.STRING, "'b'")]),
        ("typee'x'", [(C.CODE, "typee"), (C.STRING, "'x'")]),
        ("U&'d\\0061t'", [(C.UNICODE_STRING, "U&'d\\0061t'")]),
        (
            'u&"x" "a""b"',
            [(C.UNICODE_IDENTIFIER, 'u&"x"'), (C.CODE, " "), (C.IDENTIFIER, '"a""b"')],
        ),
        ("$$a'b$$ c", [(C.DOLLAR, "$$a'b$$"), (C.CODE, " c")]),
        ("$a$ $b$ x $b$ $a$", [(C.DOLLAR, "$a$ $b$ x $b$ $a$")]),
        ("x$a$ y", [(C.CODE, "x$a$ y")]),
        ("$1 + $2", [(C.CODE, "$1 + $2")]),
        ("a--b'c\nd", [(C.CODE, "a"), (C.COMMENT, "--b'c"), (C.CODE, "\nd")]),
        ("/* a /* b */ c */d", [(C.COMMENT, "/* a /* b */ c */"), (C.CODE, "d")]),
        ("a*/*x*/b", [(C.CODE, "a*"), (C.COMMENT, "/*x*/"), (C.CODE, "b")]),
        ("a - b / c", [(C.CODE, "a - b / c")]),
        ("'open", [(C.STRING, "'open")]),
        ("E'open\\", [(C.ESCAPE_STRING, "E'open\\")]),
        ("$t$ open", [(C.DOLLAR, "$t$ open")]),
        ("/* open", [(C.COMMENT, "/* open")]),
    ],
)
def test_each_context_is_told_apart(text: str, expected: list[tuple[Context, str]]) -> None:
    assert [(token.context, token.text) for token in tokenize(text)] == expected


def test_many_comments_after_a_literal_take_linear_time() -> None:
    text = "'a' " + "-- " * 50_000
    assert len(list(tokenize(text))) == 3
