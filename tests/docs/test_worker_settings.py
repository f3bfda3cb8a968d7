from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from pg_durable.settings import PREFIX, Settings

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "worker.md"


def table() -> str:
    rows = []
    for setting in fields(Settings):
        default = setting.default if setting.default != () else "none"
        shown = f"{default:g}" if isinstance(default, float) else default
        name = PREFIX + setting.name.upper()
        rows.append(f"| `{setting.name}` | `{name}` | {shown} | {setting.metadata['meaning']} |")
    return "\n".join(rows)


def test_the_table_of_settings_is_that_of_the_code() -> None:
    assert table() in PAGE.read_text(encoding="utf-8")
