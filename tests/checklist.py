"""The conformance checklist of df-execution 12, clause by clause, and which tests name which clause.

A test names what it shows in its docstring:

    df-execution 12.6: nested twice, prefix once.

Clauses of other issues (the sandbox, the step log) are not in the list.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

CLAUSES: Mapping[int, tuple[str, ...]] = {
    # Graph walking
    1: ("runs in order", "failure skips the rest"),
    2: ("documented arm", "other arm skipped"),
    3: ("rows and no rows", "unknown name", "no SQL result"),
    4: ("2 branches", "3 branches", "50 branches", "nested arrays", "others complete", "lowest position"),
    5: ("faster wins", "failing branch wins", "loser cancelled", "names of the winner only"),
    6: (
        "at root", "after a prefix", "inside IF", "inside a branch", "nested twice", "prefix once",
        "iteration count", "break values", "condition false", "condition breaks",
    ),
    7: ("through THEN", "through IF", "through JOIN", "through RACE", "outside"),
    8: ("sleep 0", "due time across a restart", "strictly after now"),
    9: ("floor", "beyond 100000 iterations", "history bounded"),
    10: ("unknown type", "dangling child", "cycle", "shared child"),
    # Results and substitution
    11: (
        "types", "NULLs", "column order", "duplicate names", "zero columns", "RETURNING", "DDL",
        "arrays and composites",
    ),
    12: ("SQL mode", "raw mode", "prefix of another name", "dot at the end", "unknown names", "no names"),
    13: ("unknown", "system", "label NULL", "braces in a value", "reference in a value", "nested JSON"),
    14: (
        "quotes", "backslashes", "NUL", "newlines", "unicode", "dollar quotes", "negative numbers",
        "large integers", "long numerics",
    ),
    15: ("one row", "many rows", "empty", "10000 and 10001 rows", "mixed NULLs", "quoted columns"),
    16: ("scopes", "copies into branches", "merge order"),
    17: ("data_b64",),
    # Status
    18: ("pending running completed", "timestamps", "failed", "cancelled", "never overwritten"),
    19: (
        "untaken arm", "after failure", "race loser", "superseded iteration", "iteration in progress",
        "nested loops", "cancelled instance",
    ),
    20: ("JOIN", "RACE", "LOOP"),
    21: ("late write",),
    # SQL and identity
    22: ("current_user and session_user", "row security", "privileges of U only", "RESET ROLE"),
    23: ("dropped", "renamed", "NOLOGIN", "CONNECTION LIMIT 0", "superuser on and off", "odd names"),
    24: ("missing", "no CONNECT", "without companion schema"),
    25: (
        "VACUUM", "CREATE INDEX CONCURRENTLY", "CALL with COMMIT", "DO", "several statements",
        "empty text", "only a comment", "COPY", "LOCK", "SET", "COMMIT of the user",
    ),
    26: ("setters refused", "await refused", "nested start", "nested start is atomic"),
    27: ("each point", "mid-statement", "during cancel", "during retention", "HTTP", "two workers",
         "paused beyond the lease", "session ended", "clock skew", "lost connection", "during migration",
         "role dropped", "schema dropped", "server restart"),
    # HTTP
    28: ("classification", "204", "3xx", "404", "500", "preview of 511 512 513", "cut character"),
    29: ("refusals", "address ranges", "DNS", "embedded forms", "rebinding", "authority tricks"),
    30: ("revoked meanwhile",),
    31: ("limits", "CR and LF", "header types", "time-outs", "cancel in flight", "stable key"),
    # Signals
    32: (
        "before the wait", "during", "after time-out", "between iterations", "two waits one signal",
        "one wait two signals", "parallel waits", "race", "nested loop", "payload forms",
        "rollback of the sender", "wrong owner", "terminal instance",
    ),
    # Lifecycle
    33: (
        "worker before schema", "schema dropped and recreated", "newer schema", "two workers",
        "graceful stop", "retention by age", "retention by count", "children removed",
        "orphans removed", "pool exhaustion", "server restart",
    ),
}  # fmt: skip

_NAMED = re.compile(r"df-execution 12\.(\d+):\s*([^.]*)\.")


def named(tests: Path) -> Mapping[tuple[int, str], list[str]]:
    """The tests that name each clause, as `file::test`."""
    found: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
    for path in sorted(tests.rglob("test_*.py")):
        source = path.read_text(encoding="utf-8")
        if "df-execution 12." not in source:
            continue
        for test, docstring in _docstrings(ast.parse(source)):
            for line, clauses in _NAMED.findall(docstring):
                for clause in clauses.split(","):
                    key = (int(line), " ".join(clause.split()))
                    found[key].append(f"{path.relative_to(tests)}::{test}")
    return found


def _docstrings(module: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if node.name.startswith("test_") and text:
                yield node.name, text
