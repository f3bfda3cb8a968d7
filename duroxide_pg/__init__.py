"""The duroxide state provider on PostgreSQL."""

from __future__ import annotations

from duroxide_pg.entra import PostgresEntraOptions, RefreshedToken
from duroxide_pg.provider import PostgresProvider

__all__ = ["PostgresEntraOptions", "PostgresProvider", "RefreshedToken"]
