"""A process that owns a server: says how to reach it, and holds it until its standard input ends.

    python owner.py FOLDER

Standard library only, so that any Python of the machine can run it as any user.
"""

import json
import os
import signal
import sys

from pg_durable.embedded import embedded_server


def main(folder: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # tests send it to the whole group
    with embedded_server(folder) as server:
        if os.fork() == 0:
            sys.exit()  # leaves the block in a child, which must not matter to anybody
        os.wait()
        print(json.dumps({"dsn": server.superuser_dsn, "pid": server.pid}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
