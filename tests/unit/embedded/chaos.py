"""Owns a server again and again, and now and then kills the server, its watchdog or itself.

python chaos.py FOLDER SEED
"""

from __future__ import annotations

import os
import random
import signal
import sys

import psycopg

from pg_durable.embedded import EmbeddedServer, embedded_server
from tests.unit.embedded.processes import parent_of

# What an owner may see when another one killed the server that they share.
LOST = (psycopg.OperationalError, FileNotFoundError, ProcessLookupError, ValueError)


def work(server: EmbeddedServer, random: random.Random) -> None:
    with psycopg.connect(server.superuser_dsn) as connection:
        connection.execute("INSERT INTO done VALUES (%s)", [os.getpid()])
    print("done", flush=True)  # committed, and so to be found at the end
    match random.choice(("myself", "watchdog", "server", *(None,) * 5)):
        case "myself":
            os.kill(os.getpid(), signal.SIGKILL)
        case "watchdog":
            os.kill(parent_of(server.pid), signal.SIGKILL)
        case "server":
            os.kill(server.pid, signal.SIGKILL)


def main(folder: str, seed: str) -> None:
    generator = random.Random(seed)
    while True:
        with embedded_server(folder, throwaway=True) as server:
            try:
                work(server, generator)
            except LOST:
                continue


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
