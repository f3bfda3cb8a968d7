"""The data of a part is one whole reference, or none."""

from __future__ import annotations

import pytest

from pg_durable.httptemplate import fill_request
from pg_durable.outcomes import NodeFailed
from pg_durable.substitute import Bindings

BINDINGS = Bindings(
    variables={"file": "YWJj"},
    results={"r": '{"rows": [{"data": "eHl6", "gone": null}], "row_count": 1}'},
)


def data_of(text: str) -> str:
    filled = fill_request({"parts": [{"name": "p", "data_b64": text}]}, BINDINGS)
    return str(filled["parts"][0]["data_b64"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("aGVsbG8=", "aGVsbG8="),
        ("$r", "eHl6"),
        ("$r?", "eHl6"),
        ("$r.data", "eHl6"),
        (" $r.data? ", "eHl6"),
        ("{file}", "YWJj"),
    ],
)
def test_data_is_as_it_stands_or_one_reference(text: str, expected: str) -> None:
    """df-execution 12.17: data_b64."""
    assert data_of(text) == expected


@pytest.mark.parametrize("text", ["x$r", "$r$r", "{file}=", "data: $r.data", "$r.*"])
def test_data_that_mixes_a_reference_with_other_text_is_refused(text: str) -> None:
    """df-execution 12.17: data_b64."""
    with pytest.raises(NodeFailed, match="Only a whole-value reference is supported"):
        data_of(text)
