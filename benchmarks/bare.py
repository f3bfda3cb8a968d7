"""The physical limit: the same rows by psycopg alone, one commit for each thing that is recorded."""

from __future__ import annotations

import os
import time

import psycopg
from psycopg import sql

from benchmarks.workloads import Workload

EVENT = "x" * 300  # what an event takes as JSON


SAMPLE = 1_000


def per_second(workload: Workload, dsn: str) -> float:
    """Orchestrations a second, if each record were one insert and one commit, on one connection."""
    table = sql.Identifier(f"bare_{os.getpid()}")
    insert = sql.SQL("insert into {} (event) values (%s)").format(table)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create table {} (id bigserial primary key, event text)").format(table)
        )
        began = time.perf_counter()
        for _ in range(SAMPLE):
            connection.execute(insert, [EVENT])
        seconds = time.perf_counter() - began
        connection.execute(sql.SQL("drop table {}").format(table))
    return SAMPLE / seconds / workload.records
