"""The rules of the storage contract on a SQLite connection, without any waiting.

The same methods as `MemoryStore`, called inside a transaction. Each looks at everything first and only
then writes; if a statement fails all the same, the caller rolls back.
"""

from __future__ import annotations

from duroxide.providers.sqlite_commits import SqliteCommits
from duroxide.providers.sqlite_leasing import SqliteLeasing
from duroxide.providers.sqlite_letters import SqliteLetters


class SqliteStore(SqliteLeasing, SqliteCommits, SqliteLetters):
    """What each call does to the tables.

    Args:
        connection: inside a transaction whenever a method is called.
        new_token: makes lease tokens; each call must give another one.
    """
