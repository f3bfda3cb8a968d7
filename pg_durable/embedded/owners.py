"""Owning a server: a connection to its watchdog, which the kernel ends when we do.

Source: docs/reference/embedded.md, rules 16-20.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

from .errors import ServerDidNotStart
from .folders import DataFolder, Running

OWNER_SOCKET = "owners"  # in the socket folder, beside PostgreSQL's
STOP_TIMEOUT_S = 30.0  # the watchdog kills a server that takes longer than 15


@dataclass(frozen=True, slots=True)
class Ownership:
    """One owner. Used with `with`, the server may stop at the end."""

    connection: socket.socket
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

    def wait_until_ready(self, folder: DataFolder, running: Running, timeout: float) -> None:
        """Wait for the watchdog's word.

        Raises:
            ServerDidNotStart: it was not `ready`, or took more than `timeout` seconds.
        """
        remedy = f"The whole log is {folder.log}."
        self.connection.settimeout(timeout)
        try:
            if self.connection.recv(64) == b"ready\n":
                return
            what = "did not start"
        except TimeoutError:
            what = f"was not ready after {timeout:g} seconds"
            remedy += " It may need more time: start_timeout."
        except OSError as error:
            what = f"was lost while it started ({error})"
        raise ServerDidNotStart(
            f"PostgreSQL {running.version} on {folder.path} {what}", folder.log_tail(), remedy
        )


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
