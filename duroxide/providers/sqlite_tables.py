"""The steps that everything done to the tables of the SQLite store consists of."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from duroxide.ids import ActivityToken, InstanceId, TurnToken
from duroxide.providers.base import Message
from duroxide.providers.sqlite_rows import SQL


class SqliteTables:
    """A connection with the tables, inside a transaction of the caller's."""

    def __init__(self, connection: sqlite3.Connection, new_token: Callable[[], str]) -> None:
        self.connection = connection
        self._new_token = new_token

    def _run(self, name: str, parameters: Sequence[Any] | Mapping[str, Any]) -> sqlite3.Cursor:
        return self.connection.execute(SQL[name], parameters)

    def _holds(self, instance_id: InstanceId, token: TurnToken, now_ms: int) -> bool:
        lease = self._run("lease_of", (instance_id,)).fetchone()
        return lease is not None and lease[0] == token and now_ms < int(lease[1])

    def _leased_activity(
        self, token: ActivityToken, now_ms: int
    ) -> tuple[int, InstanceId, str | None] | None:
        row: tuple[int, InstanceId, str | None] | None
        row = self._run("leased_activity", (token, now_ms)).fetchone()
        return row

    def _touch_session(self, session_id: str | None, now_ms: int) -> None:
        if session_id is not None:
            self._run("touch_session", {"session_id": session_id, "now": now_ms})

    def _enqueue(self, messages: Iterable[Message], now_ms: int) -> None:
        rows = [
            (
                message.instance_id,
                int(message.kind),
                message.body,
                now_ms if message.visible_at_ms is None else message.visible_at_ms,
                *(message.timer or (None, None)),
            )
            for message in messages
        ]
        if rows:
            self.connection.executemany(SQL["enqueue"], rows)
