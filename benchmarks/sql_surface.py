"""What the SQL side of df costs, in a database of its own: `python -m benchmarks.sql_surface [DSN]`.

Without a DSN a private PostgreSQL is used. Prints the longest chain's building, df.start with and
without its commit beside a bare insert and commit, and pages of df.list_instances over many instances with
the plan of one. On a busy machine look at the CPU of the server rather than at the clock. The role must be a
superuser.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from pg_durable import install
from pg_durable.embedded import embedded_server

ROUNDS = 300
INSTANCES = 1_000_000
TEN_NODES = "@> ('A' ~> 'B' ~> 'C' ~> ('D' & 'E'))"


def timed(work: Callable[[], object], rounds: int) -> str:
    """Median and 95th percentile in milliseconds."""
    spent: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        spent.append((time.perf_counter() - began) * 1000)
    return f"p50 {statistics.median(spent):7.2f} ms   p95 {statistics.quantiles(spent, n=20)[18]:7.2f} ms"


def server_cpu_ms(pid: int) -> float | None:
    """What a process of this machine has used; None for one elsewhere."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def show_plan(
    connection: psycopg.Connection[tuple[object, ...]], page: str, cursor: object
) -> None:
    """Print how the server finds a page, from inside the function."""
    try:
        connection.execute("load 'auto_explain'")
    except psycopg.errors.UndefinedFile:
        print("no plan: this server has no auto_explain")
        return
    plans: list[str] = []
    connection.add_notice_handler(lambda said: plans.append(said.message_primary or ""))
    connection.execute(
        "set auto_explain.log_nested_statements = on; set auto_explain.log_analyze = on;"
        "set auto_explain.log_timing = off; set client_min_messages = log;"
        "set auto_explain.log_min_duration = 0"
    )
    connection.execute(page.encode(), (None, None, cursor))
    connection.execute("set auto_explain.log_min_duration = -1")
    for plan in plans:
        if " on instances " in plan and "Limit" in plan:
            print(plan[plan.index("Limit") :])


def measure(connection: psycopg.Connection[tuple[object, ...]], instances: int) -> None:
    connection.execute("create table bare (n integer)")
    print(
        "insert and commit, bare      ",
        timed(lambda: connection.execute("insert into bare values (1)"), ROUNDS),
    )
    start = f"select df.start({TEN_NODES})".encode()
    before = server_cpu_ms(connection.info.backend_pid)
    print("df.start of 10 nodes, commit ", timed(lambda: connection.execute(start), ROUNDS))
    after = server_cpu_ms(connection.info.backend_pid)
    if before is not None and after is not None:
        print(f"  of that CPU of the server   {(after - before) / ROUNDS:11.2f} ms")
    with connection.transaction(force_rollback=True):
        print("the same without the commit  ", timed(lambda: connection.execute(start), ROUNDS))
    chain = "do $$ declare v text := 'A'; begin for i in 1..256 loop v := df.seq(v, 'B'); end loop; end $$"
    print("a chain of 257 steps, built  ", timed(lambda: connection.execute(chain), 10))

    with connection.transaction():
        connection.execute("set local session_replication_role = replica")
        connection.execute(
            "insert into df.instances (id, root_node, submitted_by, status, label, created_at)"
            " select lpad(to_hex(n), 8, '0'), '00000000', quote_ident(current_user)::regrole, 'completed',"
            " 'job ' || n % 1000, now() - n * interval '1 s'"
            f" from generate_series(1, {instances}) as n on conflict do nothing"
        )
    connection.execute("vacuum analyze df.instances")
    deep = connection.execute(
        "select df._cursor_of(created_at, id) from df.instances order by created_at desc, id offset %s limit 1",
        [instances // 2],
    ).fetchone()
    assert deep is not None
    page = "select * from df.list_instances(%s, 100, %s, %s)"
    for what, arguments in {
        f"first page of {instances:,}": (None, None, None),
        "a page from the middle": (None, None, deep[0]),
        "by status, from the middle": ("completed", None, deep[0]),
        "by label": (None, "job 7", None),
    }.items():
        print(f"{what:29}", timed(lambda: connection.execute(page, arguments), 50))  # noqa: B023
    print("how a page from the middle is found:")
    show_plan(connection, page, deep[0])


def main(arguments: list[str]) -> None:
    if arguments:
        run(arguments[0])
        return
    with embedded_server(throwaway=True) as server:
        run(server.superuser_dsn)  # to fill a table without its triggers


def run(dsn: str) -> None:
    install.install(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "insert into df._settings values ('enable_superuser_instances', 'on') on conflict do nothing"
        )
        measure(connection, INSTANCES)


if __name__ == "__main__":
    main(sys.argv[1:])
