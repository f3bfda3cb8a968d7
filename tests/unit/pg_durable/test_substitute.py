from __future__ import annotations

import json
from typing import Any

import pytest

from pg_durable.references import SubstitutionError
from pg_durable.substitute import Bindings, insert_variables, substitute_raw, substitute_sql


def rows(*items: dict[str, Any], **types: str) -> str:
    document: dict[str, Any] = {"rows": list(items), "row_count": len(items)}
    if types:
        document["columns"] = [{"name": name, "type": kind} for name, kind in types.items()]
    return json.dumps(document, ensure_ascii=False)


RESULTS = {
    "n": rows({"id": 7, "who": "Ann", "none": None}),
    "neg": rows({"v": -3}),
    "text": rows({"v": 'O\'Hara \\ "x"'}),
    "batch": rows({"id": 1}, {"id": 2}, id="bigint"),
    "batch_size": rows({"v": 100}),
    "empty": rows(id="bigint", tag="text"),
    "obj": '{"status": 200, "data": {"k": [1, 2]}, "nothing": null}',
    "plain": "done",
    "null": rows({"v": None}),
    "items": rows({"id": 1, "tag": "x"}, {"id": 2, "tag": None}),
    "arr": rows({"v": [1, None, 3]}, v="integer[]"),
    "names": rows({"v": 'a"b'}, {"v": "c\\d"}, {"v": None}, v="text"),
    "flags": rows({"v": True}, v="boolean"),
    "list": "[1, 2, 3]",
    "docs": rows({"v": [1, 2]}, {"v": {"a": 1}}, v="jsonb"),
}


def sql(template: str, **variables: str) -> str:
    return substitute_sql(template, Bindings(variables=variables, results=RESULTS))


def raw(template: str, **variables: str) -> str:
    return substitute_raw(template, Bindings(variables=variables, results=RESULTS))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("select $n", "select 7"),
        ("select $n.who", "select 'Ann'"),
        ("select $n.none?", "select NULL"),
        ("select $null?", "select NULL"),
        ("select $n.gone?", "select NULL"),
        ("select 10-$neg", "select 10-(-3)"),
        ("select $text", "select  E'O''Hara \\\\ \"x\"'"),
        ("select $batch_size, $batch", "select 100, 1"),
        ("select $obj", 'select \'{"status": 200, "data": {"k": [1, 2]}, "nothing": null}\''),
        ("select $obj.status + $obj.data", "select 200 + '{\"k\":[1,2]}'"),
        ("select $plain", "select 'done'"),
        ("select $plain?", "select 'done'"),
        ("select $flags", "select true"),
        ("see $n.", "see 7."),
        ("$unknown $1 $$ x", "$unknown $1 $$ x"),
        ("$batches", "$batches"),
        ("t$n", "t7"),
        # Lexical context.
        ("select 'Dear $n.who'", "select 'Dear Ann'"),
        ("select '$text'", "select 'O''Hara \\ \"x\"'"),
        ("select E'$text'", "select E'O''Hara \\\\ \"x\"'"),
        ('select "$text"', 'select "O\'Hara \\ ""x"""'),
        ("select 1 -- $empty\n+ $n", "select 1 -- $empty\n+ 7"),
        ("/* $empty */ $n", "/* $empty */ 7"),
        ("$n$ literal $n$", "$n$ literal $n$"),
        (
            "do $do$ x := $n.who; y := 'a $n'; -- $empty\n$do$",
            "do $do$ x := 'Ann'; y := 'a 7'; -- $empty\n$do$",
        ),
        ("do $n$ x $batch $n$", "do $n$ x 1 $n$"),
        # Row sets.
        ("from $items.*", 'from (VALUES (1, \'x\'::text), (2, NULL)) AS "items"("id", "tag")'),
        (
            "from $empty.*",
            'from (SELECT NULL::bigint AS "id", NULL::text AS "tag" WHERE false) AS "empty"',
        ),
        # Arrays.
        ("id = ANY($batch)", 'id = ANY(\'{"1","2"}\'::bigint[])'),
        ("id = any ( /* all */ $batch? )", 'id = any ( /* all */ \'{"1","2"}\'::bigint[] )'),
        ("id = SOME($batch.id)", 'id = SOME(\'{"1","2"}\'::bigint[])'),
        ("id = ANY($batch.none?)", "id = ANY('{NULL,NULL}')"),
        ("id <> ALL($empty)", "id <> ALL('{}'::bigint[])"),
        ("id = ANY($items)", 'id = ANY(\'{"1","2"}\')'),
        ("id = ANY($arr)", 'id = ANY(\'{"1",NULL,"3"}\'::integer[])'),
        ("v = ANY($names)", 'v = ANY( E\'{"a\\\\"b","c\\\\\\\\d",NULL}\'::text[])'),
        ("v = ANY($flags)", "v = ANY('{\"true\"}'::boolean[])"),
        ("v = ANY($list)", 'v = ANY(\'{"1","2","3"}\')'),
        ("v = ANY($obj.status)", "v = ANY(200)"),
        ("v = ANY($docs)", 'v = ANY( E\'{"[1,2]","{\\\\"a\\\\":1}"}\'::jsonb[])'),
        ("v = ANY($batch || x)", "v = ANY(1 || x)"),
        ("many($batch)", "many(1)"),
        ("'ANY($batch)'", "'ANY(1)'"),
        ("do $$ x = any($batch) $$", 'do $$ x = any(\'{"1","2"}\'::bigint[]) $$'),
    ],
)
def test_a_reference_in_sql(template: str, expected: str) -> None:
    """df-execution 12.12: SQL mode, prefix of another name, dot at the end, unknown names."""
    assert sql(template) == expected


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("select $empty", "$empty has no rows — query returned zero results"),
        ("select $null", "$null is NULL — first column of first row is NULL"),
        ("select $n.none", "$n.none is NULL"),
        ("select $n.gone", "$n.gone: result has no field 'gone' (available: id, none, who)"),
        ("select $plain.x?", "$plain.x: result is not valid JSON"),
        ("select $list.x", "$list.x: result is neither a row set nor a JSON object"),
        ("select $obj.*", "$obj.* — invalid result format"),
        ("select $plain.*", "$plain.* — invalid result JSON"),
        ("select U&'$n'", "$n stands inside U&'...'"),
        ("do $x$ $dollar $x$", "contains $x$"),
        ("select $nul", "NUL"),
        ("select '$nul'", "NUL"),
        ("a = ANY($n.gone)", "$n.gone: result has no field 'gone'"),
    ],
)
def test_a_reference_that_can_not_be_resolved(template: str, complaint: str) -> None:
    results = {**RESULTS, "dollar": rows({"v": "a $x$ b"}), "nul": rows({"v": "a\0b"})}
    with pytest.raises(SubstitutionError) as caught:
        substitute_sql(template, Bindings(results=results))
    assert complaint in str(caught.value)


def test_an_error_says_which_reference_and_what_is_bound() -> None:
    with pytest.raises(SubstitutionError) as caught:
        sql("select $empty")
    assert caught.value.reference == "$empty"
    assert set(caught.value.bound) == set(RESULTS)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("https://$n.who.example.org/", "https://Ann.example.org/"),
        ("$n.none?", "NULL"),
        ("$items.*", '[{"id":1,"tag":"x"},{"id":2,"tag":null}]'),
        ("$empty.*", "[]"),
        ("\\$n costs $n", "$n costs 7"),
        ("$obj.data", '{"k":[1,2]}'),
        ("-- $n", "-- 7"),
    ],
)
def test_a_reference_in_raw_text(template: str, expected: str) -> None:
    """df-execution 12.12: raw mode."""
    assert raw(template) == expected


def test_too_many_rows_are_not_expanded() -> None:
    """df-execution 12.15: 10000 and 10001 rows."""
    results = {"big": rows(*({"i": i} for i in range(10_001)))}
    with pytest.raises(SubstitutionError, match=r"result has 10001 rows, exceeding the maximum"):
        substitute_sql("from $big.*", Bindings(results=results))
    results = {"big": rows(*({"i": i} for i in range(10_000)))}
    assert substitute_sql("from $big.*", Bindings(results=results)).count("(") == 10_002


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{uid}", "42"),
        ('{"user": "{uid}", "n": "{cnt}"}', '{"user": "42", "n": "7"}'),
        ("{unknown} {} {1x} { uid }", "{unknown} {} {1x} { uid }"),
        ("{{uid}} {{unknown}}", "{uid} {{unknown}}"),
        ("{name:literal} {name:ident} {name:json}", "'O''x' \"O'x\" \"O'x\""),
        ("{nested}", "{uid}"),
    ],
)
def test_variables_go_in_verbatim_once(template: str, expected: str) -> None:
    variables = {"uid": "42", "cnt": "7", "name": "O'x", "nested": "{uid}"}
    assert insert_variables(template, variables) == expected


def test_a_variable_may_bring_in_a_reference_but_a_result_may_not() -> None:
    """df-execution 12.13: braces in a value, reference in a value."""
    assert sql("select {v}", v="$n") == "select 7"
    results = {"a": rows({"v": "$b {c}"}), "b": rows({"v": "no"})}
    bindings = Bindings(variables={"c": "no"}, results=results)
    assert substitute_sql("select $a", bindings) == "select '$b {c}'"


def test_without_results_every_dollar_is_text() -> None:
    """df-execution 12.12: no names."""
    assert substitute_sql("select $n, $x.y?", Bindings()) == "select $n, $x.y?"


def test_a_text_above_the_limit_is_refused() -> None:
    with pytest.raises(SubstitutionError, match="max_query_bytes"):
        substitute_sql("select '{v}'", Bindings(variables={"v": "x" * 100}), max_bytes=50)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("select ${obj.data.k[1]}", "select 2"),
        ("select ${obj.data.k}", "select '[1,2]'"),
        ("select ${n.who}", "select 'Ann'"),
        ("select ${batch[1].id}, ${batch.id}", "select 2, 1"),
        ("select ${docs[1].v.a}, ${docs.v[0]}", "select 1, 1"),
        ("select ${list[2]}", "select 3"),
        ("select ${obj.data.gone?}, ${list[3]?}, ${obj.nothing.x?}", "select NULL, NULL, NULL"),
        ("select '${obj.data.k[0]}', \"${n.who}\"", "select '1', \"Ann\""),
        ("where id = any(${obj.data.k})", 'where id = any(\'{"1","2"}\')'),
        ("select ${n}, ${unknown.x}, ${n.}", "select ${n}, ${unknown.x}, ${n.}"),
        ("-- ${obj.gone}", "-- ${obj.gone}"),
    ],
)
def test_a_path_in_braces_leads_into_a_document(template: str, expected: str) -> None:
    assert sql(template) == expected


def test_braces_with_a_variable_after_a_dollar_sign_stay_what_they_were() -> None:
    assert raw("${price} ${obj.data.k[0]}", price="9") == "$9 1"


@pytest.mark.parametrize(
    ("reference", "complaint"),
    [
        ("${obj.data.gone}", "${obj.data.gone}: there is no field 'gone' (available: k)"),
        ("${list[3]}", "${list[3]}: there is no [3], the array has 3 elements"),
        ("${obj.nothing.x}", "${obj.nothing.x}: there is NULL before .x"),
        ("${obj.nothing}", "${obj.nothing} is NULL"),
        ("${obj.status.x}", "${obj.status.x}: .x needs a JSON object before it"),
        ("${obj[0]?}", "${obj[0]}: [0] needs a JSON array before it"),
        ("${empty.id}", "${empty.id} has no rows — query returned zero results"),
        ("${batch[2].id}", "${batch[2].id}: there is no [2], the array has 2 elements"),
        ("${plain.x}", "${plain.x}: result is not valid JSON"),
    ],
)
def test_a_path_that_leads_nowhere_says_where_it_ended(reference: str, complaint: str) -> None:
    with pytest.raises(SubstitutionError) as refused:
        sql(f"select {reference}")
    assert str(refused.value) == complaint
    assert refused.value.reference == reference
