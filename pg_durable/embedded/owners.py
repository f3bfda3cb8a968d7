"""Owning a server: a connection to its watchdog, which the kernel ends when we do.

Source: docs/reference/embedded.md, rules 16-20.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .folders import Running

OWNER_SOCKET = "owners"  # in the socket folder, beside PostgreSQL's
Word = Literal["ready", "failed", "late", "gone"]
STOP_TIMEOUT_S = 30.0  # the watchdog kills a server that takes longer than 15


@dataclass(frozen=True, slots=True)
class Ownership:
    """One owner. Used with `with`, the server may stop at the end."""

    connection: socket.socket
    joined: bool  # somebody else started the server
    pid: int = field(default_factory=os.getpid)

    def __enter__(self) -> Ownership:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave, and if we were the last owner, wait until the server has stopped."""
        with self.connection:
            if os.getpid() != self.pid:
                return  # a forked child, which leaves our block only for itself
            try:
                self.connection.shutdown(socket.SHUT_WR)
                self.connection.settimeout(STOP_TIMEOUT_S)
                while self.connection.recv(64):
                    pass
            except OSError:
                return  # the watchdog is gone, and its server with it

    def word(self, timeout: float) -> Word:
        """Wait at most `timeout` seconds for what the watchdog says about its server.

        `late` is for nothing in that time. `gone` is for a watchdog that vanished: one that we joined may
        have been about to, and then a new start is in order.
        """
        self.connection.settimeout(timeout)
        try:
            said = self.connection.recv(64)
        except TimeoutError:
            return "late"
        except ConnectionError:
            return "gone"
        if not said:
            return "gone"
        return "ready" if said.startswith(b"ready\n") else "failed"


def join(running: Running) -> socket.socket | None:
    """Connect to the watchdog of a server; None if it is gone."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(Path(running.socket_dir, OWNER_SOCKET)))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    return connection
