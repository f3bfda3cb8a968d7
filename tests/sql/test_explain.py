"""df.explain: which kind of input it takes for what, and the drawing."""

from __future__ import annotations

import pytest

from tests.sql.sessions import Connection, notices, refusal, start, value


def drawing(connection: Connection, query: str, *parameters: object) -> str:
    """The answer without its padding, after a check of that."""
    text: str = value(connection, query, *parameters)
    lines = text.split("\n")
    width = max(len(line.rstrip()) for line in lines) + 4
    assert [len(line) for line in lines] == [width] * len(lines)
    return "\n".join(line.rstrip() for line in lines)


def explained(connection: Connection, given: str) -> str:
    return drawing(connection, "select df.explain(%s)", given)


SHOP = """\
SQL: SELECT qty FROM bins WHERE id = 9 |=> 'q'
→ IF
    ? condition:
      └─SQL: SELECT $q < 5
    ✓ then:
      └─SQL: CALL reorder(9)
      → SLEEP 30s
    ✗ else:
      └─SQL: SELECT 'enough stock here, nothing at all to do...
→ SQL: CALL close_bin(9)"""

JOINED = """\
JOIN (3)
    ║ branch 1:
      ├─SQL: SELECT 1
    ║ branch 2:
      ├─SQL: SELECT 2
      → SQL: SELECT 3
    ║ branch 3:
      └─SIGNAL 'ok' (60s) |=> 's'"""

LOOPED = """\
LOOP (while) |=> 'n'
    ↻ body:
      └─SQL: CALL step()
      → RACE
          ║ branch 1:
            ├─SIGNAL 'stop'
          ║ branch 2:
            └─SLEEP 5s
    ? while:
      └─SQL: SELECT count(*) > 0 FROM todo"""

DRAWINGS = {
    "'SELECT qty FROM bins WHERE id = 9' |=> 'q' ~> ('SELECT $q < 5' ?> ('CALL reorder(9)' ~> df.sleep(30))"
    " !> 'SELECT ''enough stock here, nothing at all to do today''') ~> 'CALL close_bin(9)'": SHOP,
    "df.join3('SELECT 1', 'SELECT 2' ~> 'SELECT 3', df.wait_for_signal('ok', 60) |=> 's')": JOINED,
    "df.loop('CALL step()' ~> (df.wait_for_signal('stop') | df.sleep(5)), 'SELECT count(*) > 0 FROM todo')"
    " |=> 'n'": LOOPED,
    "@> df.break()": "LOOP (infinite)\n    ↻ body:\n      └─BREAK",
    "@> df.break('a value longer than twenty')": "LOOP (infinite)\n    ↻ body:\n      └─BREAK 'a value longer th...'",
    "('A' | df.sleep(1)) |=> 'dropped' ~> 'B' |=> 'dropped_too'": (
        "RACE\n    ║ branch 1:\n      ├─SQL: A\n    ║ branch 2:\n      └─SLEEP 1s\n→ SQL: B"
    ),
    "df.if_rows('q', 'A', 'B') |=> 'n'": (
        "IF |=> 'n'\n    ✓ then:\n      └─SQL: A\n    ✗ else:\n      └─SQL: B"
    ),
    "df.sql('A') ~> ('B' ~> 'C')": "SQL: A\n→ SQL: B\n→ SQL: C",
    "df.sql('" + "ü" * 51 + "')": "SQL: " + "ü" * 47 + "...",
    "df.sql('" + "ü" * 50 + "')": "SQL: " + "ü" * 50,
}


@pytest.mark.parametrize("expression", DRAWINGS)
def test_a_workflow_is_drawn_as(alice: Connection, expression: str) -> None:
    assert explained(alice, expression) == DRAWINGS[expression]


@pytest.mark.parametrize("expression", DRAWINGS)
def test_node_text_is_drawn_like_the_expression_that_built_it(
    alice: Connection, expression: str
) -> None:
    assert drawing(alice, f"select df.explain({expression})") == DRAWINGS[expression]


NOTHING = (
    "Cannot explain input: not a valid Durofut JSON, instance ID, SQL statement, or DSL expression.\n"
    "Hint: DSL expressions use df.*() functions and operators like ~>, |=>, &, |."
)


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("  select 1\n", "SQL: select 1    "),
        ("with\nx as (select 1) select 2", "SQL: with\nx as (select 1) select 2    "),
        ("VACUUM x", NOTHING),
        ("'A' & 'B'", NOTHING),
        ("", NOTHING),
        ("{}", NOTHING),
        ("00000000", "Instance '00000000' not found"),
        ("NULL::text ~> 'x'", "Expression returned NULL"),
        (
            "df.version() || 'x' ~> NULL || 'df.'",
            "Expression returned NULL",
        ),
        (
            '{"node_type":"THEN","left_node":{"node_type":"Q"}}',
            "Invalid durable function graph: root.left: Unknown node_type 'Q'. Valid types: SQL, THEN, IF, JOIN,"
            " LOOP, BREAK, RACE, SLEEP, WAIT_SCHEDULE, HTTP, HTTP_MULTIPART, SIGNAL",
        ),
    ],
)
def test_other_input_is_answered_with(alice: Connection, given: str, answer: str) -> None:
    got = value(alice, "select df.explain(%s)", given)
    if answer.startswith("SQL: with"):  # the statement is drawn as it is, line break and all
        assert got.rstrip() == answer.rstrip()
    else:
        assert got == answer


def test_an_expression_that_gives_no_workflow_is_said_so(alice: Connection) -> None:
    assert value(alice, "select df.explain('df.version()')").startswith(
        "Failed to parse Durofut JSON:"
    )


def test_an_error_in_an_expression_is_the_servers_own(alice: Connection) -> None:
    assert refusal(alice, "select df.explain('df.nope()')").sqlstate == "42883"


def test_looking_at_a_start_starts_nothing(alice: Connection) -> None:
    before = value(alice, "select count(*) from df.instances")
    answer = value(alice, "select df.explain($$df.start('SELECT 1')$$)")
    assert answer.startswith("Failed to parse Durofut JSON:")
    assert value(alice, "select count(*) from df.instances") == before


def test_expressions_are_read_under_the_callers_own_search_path(alice: Connection) -> None:
    with alice.transaction(force_rollback=True):
        alice.execute(
            "create function pg_temp.mine() returns text language sql as $$ select df.sql('mine') $$"
        )
        assert explained(alice, "pg_temp.mine() ~> 'x'") == "SQL: mine\n→ SQL: x"
        alice.execute("set local search_path = df")
        assert explained(alice, "seq('x', 'y') ~> 'z'") == "SQL: x\n→ SQL: y\n→ SQL: z"


def test_null_is_not_explained(alice: Connection) -> None:
    assert value(alice, "select df.explain(NULL)") is None


def stamp(
    owner: Connection,
    instance_id: str,
    query: str,
    status: str,
    execution: str,
    result: str | None = None,
) -> None:
    owner.execute(
        "update df.nodes set status = %s, result = to_jsonb(%s::text),"
        " status_details = jsonb_build_object('execution_id', %s::text)"
        " where instance_id = %s and coalesce(query, node_type) = %s",
        [status, result, execution, instance_id, query],
    )


def test_a_failed_workflow_shows_where_and_why(alice: Connection, owner: Connection) -> None:
    instance_id = start(alice, "'SELECT 1/0' ~> 'SELECT 2'", label="stock-check")
    assert explained(alice, instance_id) == (
        f"Instance: {instance_id} (stock-check)\nStatus:   ○ pending\n\nSQL: SELECT 1/0 ○\n→ SQL: SELECT 2 ○"
    )
    stamp(owner, instance_id, "THEN", "failed", f"{instance_id}::1", "x")
    stamp(owner, instance_id, "SELECT 1/0", "failed", f"{instance_id}::1", "x")
    owner.execute(
        "update df.instances set status = 'failed', error = 'SQL execution failed: division by zero' where id = %s",
        [instance_id],
    )
    assert explained(alice, instance_id.upper()) == (
        f"Instance: {instance_id} (stock-check)\nStatus:   ✗ Failed\n"
        "Output:   SQL execution failed: division by zero\n\nSQL: SELECT 1/0 ✗\n→ SQL: SELECT 2 ⊘"
    )


def inferred(connection: Connection, instance_id: str) -> dict[str, tuple[str, str | None]]:
    """By query (or node type): the status shown, and the query (or type) of the ancestor behind it."""
    found = connection.execute(
        "select coalesce(n.query, n.node_type), n.inferred_status, coalesce(a.query, a.node_type)"
        " from df.instance_nodes(%s) as n left join df.nodes as a"
        " on a.instance_id = %s and a.id = n.inferred_status_from_ancestor_id",
        [instance_id, instance_id],
    ).fetchall()
    return {query: (status, ancestor) for query, status, ancestor in found}


def test_the_branch_not_taken_reads_skipped(alice: Connection, owner: Connection) -> None:
    instance_id = start(alice, "df.if_rows('r', 'YES', 'NO')")
    condition = '{"condition_type":"result_has_rows","result_name":"r"}'
    assert inferred(alice, instance_id)["NO"] == ("pending", None)
    stamp(owner, instance_id, "YES", "completed", f"{instance_id}::1")
    assert inferred(alice, instance_id)["NO"] == ("pending", None)
    stamp(owner, instance_id, condition, "completed", f"{instance_id}::1")
    assert inferred(alice, instance_id) == {
        condition: ("completed", None),
        "YES": ("completed", None),
        "NO": ("skipped", condition),
    }


def test_what_belongs_to_an_earlier_iteration_reads_pending(
    alice: Connection, owner: Connection
) -> None:
    instance_id = start(alice, "@> ('A' ~> 'B')")
    stamp(owner, instance_id, "LOOP", "running", f"{instance_id}::3")
    stamp(owner, instance_id, "THEN", "running", f"{instance_id}::3")
    stamp(owner, instance_id, "A", "completed", f"{instance_id}::3")
    stamp(owner, instance_id, "B", "completed", f"{instance_id}::2")
    assert inferred(alice, instance_id) == {
        "LOOP": ("running", None),
        "THEN": ("running", None),
        "A": ("completed", None),
        "B": ("pending", "LOOP"),
    }


def test_a_child_of_an_earlier_iteration_is_superseded_as_well(
    alice: Connection, owner: Connection
) -> None:
    instance_id = start(alice, "@> ('A' & 'B')")
    stamp(owner, instance_id, "LOOP", "running", f"{instance_id}::2")
    stamp(owner, instance_id, "JOIN", "running", f"{instance_id}::2")
    stamp(owner, instance_id, "A", "completed", f"{instance_id}::1::0000000a::1")
    stamp(owner, instance_id, "B", "completed", f"{instance_id}::2::0000000b::1")
    statuses = inferred(alice, instance_id)
    assert statuses["A"] == ("pending", "LOOP")
    assert statuses["B"] == ("completed", None)


def test_the_loser_of_a_race_reads_cancelled_and_what_it_never_began_skipped(
    alice: Connection, owner: Connection
) -> None:
    """df-execution 12.19: race loser."""
    instance_id = start(alice, "'FAST' | ('SLOW' ~> 'AFTER')")
    for query, status in (
        ("RACE", "completed"),
        ("FAST", "completed"),
        ("THEN", "running"),
        ("SLOW", "running"),
    ):
        stamp(owner, instance_id, query, status, f"{instance_id}::1")
    assert inferred(alice, instance_id) == {
        "RACE": ("completed", None),
        "FAST": ("completed", None),
        "THEN": ("skipped", "RACE"),
        "SLOW": ("cancelled", "RACE"),
        "AFTER": ("skipped", "RACE"),
    }


def test_a_cancelled_workflow_has_nothing_running(alice: Connection, owner: Connection) -> None:
    """df-execution 12.19: cancelled instance."""
    instance_id = start(alice, "'A' ~> 'B'")
    stamp(owner, instance_id, "THEN", "running", f"{instance_id}::1")
    stamp(owner, instance_id, "A", "running", f"{instance_id}::1")
    owner.execute("update df.instances set status = 'cancelled' where id = %s", [instance_id])
    assert {query: status for query, (status, _) in inferred(alice, instance_id).items()} == {
        "THEN": "cancelled",
        "A": "cancelled",
        "B": "skipped",
    }
    assert explained(alice, instance_id).endswith("SQL: A ⊘\n→ SQL: B ⊘")


@pytest.mark.parametrize(
    "malformed", ["", "x", "a::b", "::", "00000000::1::x", "00000000::99999999999999999999"]
)
def test_a_malformed_stamp_is_ignored(alice: Connection, owner: Connection, malformed: str) -> None:
    instance_id = start(alice, "'A' ~> 'B'")
    stamp(owner, instance_id, "A", "completed", malformed)
    stamp(owner, instance_id, "B", "running", f"{instance_id}::7")
    assert inferred(alice, instance_id)["A"] == ("completed", None)
    assert inferred(alice, instance_id)["B"] == ("running", None)


def test_the_form_for_older_clients_has_their_columns(alice: Connection) -> None:
    instance_id = start(alice, "'SELECT 1'")
    cursor = alice.execute("select * from df.instance_nodes(%s, 5)", [instance_id])
    assert [column.name for column in cursor.description or ()] == [
        "execution_id", "node_id", "node_type", "query", "result_name", "left_node", "right_node", "status",
        "result", "updated_at",
    ]  # fmt: skip
    (row,) = cursor.fetchall()
    assert (row[0], row[2:5], row[7]) == (1, ("SQL", "SELECT 1", None), "pending")


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("'a' ~> 'b' & 'c'", "a ~> b & c is (a ~> b) & c: the steps before & or | are a part of its first branch"),
        ("'a' & 'b' |=> 'x' ~> 'z'", "a & b |=> 'x' is (a & b) |=> 'x': it names the whole, not b"),
        ("'c' ?> 't' !> 'e' ~> 'f'", "c ?> t !> e ~> f is (c ?> t !> e) ~> f: f runs after either branch"),
        ("df.sql('a') & 'b' & 'c'", "a & b & c is (a & b) & c, with an array in an array; df.join(a, b, c) is flat"),
        ("'a' | 'b' & df.sql('c')", "a | b & c is (a | b) & c: the race is the first branch of the join"),
        (
            "'p' ?> 'x' !> 'q' ?> 'y' !> 'z'",
            "c ?> t !> d ?> u !> e is (c ?> t !> d) ?> u !> e: the first if is the condition of the second",
        ),
        ("@> ('a' ~> df.break()) & 'b'", "@> a & b is (@> a) & b: only a is repeated"),
        ("'a' ~> 'b' = 'x'", "a ~> b = 'x' is (a ~> b) = 'x': a comparison, not a workflow"),
        ("@> 'a' ~> 'b'", "the step at root.right can never run: the loop before it has neither a condition nor a df.break()"),
        (
            "'a' ~> @> 'b' ~> 'c'",
            "the step at root.right can never run: the loop before it has neither a condition nor a df.break()",
        ),
        (
            "@> 'c' ?> 't' !> 'e'",
            "the step at root.left can never run: the loop before it has neither a condition nor a df.break()",
        ),
        ("'a' ~> ('c' ?> 't')", "the step at root.right is half an if: a ?> without its !>"),
    ],
)  # fmt: skip
def test_a_line_that_groups_otherwise_than_it_looks_is_warned_of(
    alice: Connection, expression: str, words: str
) -> None:
    assert notices(alice, "select df.explain(%s)", expression) == [words]


@pytest.mark.parametrize(
    "expression",
    [
        "'a' ~> ('b' & 'c')", "'a' |=> 'x' ~> 'b' |=> 'y'", "'a ~> b & c' ~> 'x'", "$$a ~> b & c$$ ~> 'x'",
        "@> ('a' ~> df.break()) ~> 'b'", "df.seq('a' ~> 'b', 'c' & 'd')", "df.loop('a', 'c') ~> 'b'",
        "'a' & 'b' | 'c'", "'a' ~> 'c' ?> 't' !> 'e'", "df.join('a' & 'b', 'c')", "@> 'a' | df.wait_for_signal('stop')",
        "df.sql(query => 'a') ~> df.if('c', 't', 'e')", "'SELECT a = b' ~> 'b'",
    ],
)  # fmt: skip
def test_a_line_that_means_what_it_looks_like_is_not_warned_of(
    alice: Connection, expression: str
) -> None:
    assert notices(alice, "select df.explain(%s)", expression) == []


def test_starting_what_can_never_run_is_warned_of(alice: Connection) -> None:
    assert notices(alice, "select df.start('x' ~> (@> 'a') ~> 'b')") == [
        "the step at root.right can never run: the loop before it has neither a condition nor a df.break()"
    ]
    assert notices(alice, "select df.start('c' ?> 't')") == [
        "the step at root is half an if: a ?> without its !>"
    ]


FLOW = """\
flowchart TD
    n1["SQL: SELECT #quot;a#quot; |=#gt; 'q'"]
    n2["IF"]
    n3["SQL: C"]
    n4["SQL: T"]
    n5["SLEEP 3s"]
    n6["SQL: E"]
    n7["JOIN (2)"]
    n8["SQL: L"]
    n9["LOOP (while)"]
    n10["SQL: B"]
    n11["SQL: W"]
    n1 --> n2
    n2 -. condition .-> n3
    n2 -. then .-> n4
    n4 --> n5
    n2 -. else .-> n6
    n2 --> n7
    n7 -. branch 1 .-> n8
    n7 -. branch 2 .-> n9
    n9 -. body .-> n10
    n9 -. while .-> n11"""


def test_the_same_graph_as_mermaid(alice: Connection) -> None:
    expression = (
        "'SELECT \"a\"' |=> 'q' ~> df.if('C', 'T' ~> df.sleep(3), 'E') ~> ('L' & df.loop('B', 'W'))"
    )
    assert value(alice, "select df.explain_mermaid(%s)", expression) == FLOW
    assert value(alice, f"select df.explain_mermaid({expression})") == FLOW
    i = start(alice, "'A' ~> 'B'")
    assert value(alice, "select df.explain_mermaid(%s)", i) == (
        'flowchart TD\n    n1["SQL: A"]:::pending\n    n2["SQL: B"]:::pending\n    n1 --> n2\n'
        "    classDef pending stroke:#999"
    )
    assert (
        value(alice, "select df.explain_mermaid('select 1')")
        == 'flowchart TD\n    n1["SQL: select 1"]'
    )
    assert value(alice, "select df.explain_mermaid('nothing')") == NOTHING
    assert value(alice, "select df.explain_mermaid('00000000')") == "Instance '00000000' not found"
