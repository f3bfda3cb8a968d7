"""`pg-durable health`: sizes and ages, then a sentence for each thing to look at."""

from __future__ import annotations

import asyncio

from rich.console import Console

from duroxide_pg.health import Health
from duroxide_pg.provider import PostgresProvider


def show_health(dsn: str, console: Console) -> bool:
    """Print a report; returns whether all is well."""
    report = asyncio.run(_ask(dsn))
    for name, value in _figures(report):
        console.print(f"{name:<24}{value}", markup=False, soft_wrap=True)
    for finding in report.findings:
        console.print(f"{finding.about}: {finding}", markup=False, soft_wrap=True)
    if report.is_good:
        console.print("nothing to worry about")
    return report.is_good


async def _ask(dsn: str) -> Health:
    provider = PostgresProvider(dsn, migrations="none")
    try:
        return await provider.health()
    finally:
        await provider.close()


def _figures(report: Health) -> list[tuple[str, str]]:
    oldest = max((holder.seconds or 0 for holder in report.holders), default=None)
    figures = [
        ("oldest message", _age(report.oldest_message_s)),
        ("oldest activity", _age(report.oldest_activity_s)),
        ("oldest transaction", _age(oldest)),
    ]
    for table in report.tables:
        size = f"{(table.bytes + table.index_bytes) / 2**20:,.1f} MB, about {table.rows:,} rows"
        dead = f", {table.dead_rows:,} removed" if table.dead_rows else ""
        figures.append((table.name, size + dead))
    return figures


def _age(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds:.1f} s"
