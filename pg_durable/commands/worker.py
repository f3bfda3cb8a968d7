"""`pg-durable worker`: the service, with a log on standard error."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
from collections.abc import Sequence

from pg_durable.settings import Settings
from pg_durable.worker import Worker

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
ORPHAN_GRACE_S = 5.0  # whoever started us is gone, and maybe the server with it
COLLECT_AFTER = (10_000, 20, 50)
"""Thresholds of the garbage collector: the default ones cost a tenth of a busy worker's CPU time."""


def run_worker(dsns: Sequence[str], settings: Settings, *, until_eof: bool, log_level: str) -> None:
    """Run until a signal asks to stop, or until standard input ends if `until_eof`.

    Raises:
        SetupError: the database can't be worked for; with the remedy.
    """
    logging.basicConfig(level=log_level, format=LOG_FORMAT)
    if until_eof:
        threading.Thread(target=_stop_at_eof, name="until-eof", daemon=True).start()
    gc.freeze()  # what is imported stays
    gc.set_threshold(*COLLECT_AFTER)
    asyncio.run(Worker(dsns, settings).run_until_signalled())


def _stop_at_eof() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(ORPHAN_GRACE_S)
    os._exit(1)  # a server that does not answer must not keep us
