"""Placeholders in templates: `{name}` for variables, `$name` for results that `|=>` has bound.

Two passes: variables go in verbatim, then references are replaced by what their lexical context needs.
Inserted results are never scanned again, so a value can't bring in another reference. The rules, with
their numbers, are in docs/reference/substitution.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pg_durable.lexer import Context, Token, dollar_delimiter, tokenize
from pg_durable.quoting import quote_identifier, quote_literal
from pg_durable.references import Reference, SubstitutionError, finder, resolve
from pg_durable.renderings import as_array, as_json, as_literal, as_text
from pg_durable.results import JsonValue, json_string, json_value, parse

MAX_QUERY_BYTES = 8 * 1024 * 1024

_VARIABLE = re.compile(
    r"\{\{([A-Za-z_][A-Za-z0-9_]*)\}\}|\{([A-Za-z_][A-Za-z0-9_]*)(?::(literal|ident|json))?\}"
)
_ARRAY_ARGUMENT = re.compile(r"(?<![\w$])(?:any|some|all)\s*\(\s*$", re.IGNORECASE)
_ARGUMENT_END = re.compile(r"\s*\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bindings:
    """What placeholders can refer to at one point of a workflow."""

    variables: Mapping[str, str] = field(default_factory=dict)  # system variables included
    results: Mapping[str, str] = field(default_factory=dict)  # name -> result document


def substitute_sql(template: str, bindings: Bindings, *, max_bytes: int = MAX_QUERY_BYTES) -> str:
    """The SQL text that a node sends.

    Raises:
        SubstitutionError: a reference can't be resolved or has no meaning where it stands.
    """
    text = insert_variables(template, bindings.variables)
    if bindings.results:
        text = _SqlPass(bindings.results).apply(text)
    return _checked_size(text, max_bytes)


def substitute_raw(template: str, bindings: Bindings, *, max_bytes: int = MAX_QUERY_BYTES) -> str:
    """The text of a URL, a body, a header or a setting; `\\$name` stays as `$name`."""
    text = insert_variables(template, bindings.variables)
    if bindings.results:
        find = finder(bindings.results, escapes=True)

        def insert(match: re.Match[str]) -> str:
            if match[0].startswith("\\"):
                return match[0][1:]
            reference = Reference.of(match)
            return as_text(resolve(reference, bindings.results))

        text = find.sub(insert, text)
    return _checked_size(text, max_bytes)


def substitute_json(template: str, bindings: Bindings) -> str:
    """A value as JSON text: of the one reference that the template is, else of its text.

    Text that is JSON is that value, other text a string.
    """
    text = insert_variables(template, bindings.variables)
    if bindings.results:
        match = finder(bindings.results).fullmatch(text.strip())
        if match is not None:
            return as_json(resolve(Reference.of(match), bindings.results))
    return json_value(substitute_raw(template, bindings))


def substitute_value(template: str, bindings: Bindings) -> JsonValue:
    """A value of JSON: of the one reference that the template is, else its text as a string."""
    text = insert_variables(template, bindings.variables)
    if bindings.results:
        match = finder(bindings.results).fullmatch(text.strip())
        if match is not None:
            return parse(as_json(resolve(Reference.of(match), bindings.results)))
    return substitute_raw(template, bindings)


def insert_variables(template: str, variables: Mapping[str, str]) -> str:
    """The first pass. Unknown names stay; `{{name}}` is `{name}` where `name` is known."""
    if not variables:
        return template

    def insert(match: re.Match[str]) -> str:
        escaped, name, modifier = match.groups()
        if (escaped or name) not in variables:
            return match[0]
        if escaped:
            return "{" + escaped + "}"
        value = variables[name]
        match modifier:
            case "literal":
                return _quote(quote_literal, value)
            case "ident":
                return _quote(quote_identifier, value)
            case "json":
                return json_string(value)
            case _:
                return value

    return _VARIABLE.sub(insert, template)


def _quote(quote: Callable[[str], str], value: str) -> str:
    try:
        return quote(value)
    except ValueError as error:
        raise SubstitutionError(str(error)) from error


def _checked_size(text: str, max_bytes: int) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise SubstitutionError(f"the text can't be sent: {error.reason}") from error
    if size > max_bytes:
        raise SubstitutionError(
            f"the text is {size} bytes after substitution, "
            f"more than the limit of {max_bytes} (max_query_bytes)"
        )
    return text


class _SqlPass:
    """The second pass over SQL text: each reference as its lexical context needs it."""

    def __init__(self, results: Mapping[str, str]) -> None:
        self.results = results
        self.find = finder(results)

    def apply(self, text: str) -> str:
        if "$" not in text:
            return text
        tokens = list(tokenize(text))
        code = _Code(tokens)
        return "".join(self._token(token, code) for token in tokens)

    def _token(self, token: Token, code: _Code) -> str:
        match token.context:
            case Context.COMMENT:
                return token.text
            case Context.CODE:
                return self.find.sub(lambda match: self._in_code(match, token, code), token.text)
            case Context.DOLLAR:
                return self._in_dollar_quotes(token)
            case Context.STRING:
                return self._replace(token, lambda text: text.replace("'", "''"))
            case Context.ESCAPE_STRING:
                return self._replace(
                    token, lambda text: text.replace("\\", "\\\\").replace("'", "''")
                )
            case Context.IDENTIFIER:
                return self._replace(token, lambda text: text.replace('"', '""'))
            case Context.UNICODE_STRING | Context.UNICODE_IDENTIFIER:
                return self.find.sub(lambda match: _refuse(match, token), token.text)

    def _in_code(self, match: re.Match[str], token: Token, code: _Code) -> str:
        reference = Reference.of(match)
        if reference.tail != ".*" and code.is_array_argument(token.start, match):
            return as_array(reference, self.results)
        return as_literal(resolve(reference, self.results))

    def _in_dollar_quotes(self, token: Token) -> str:
        delimiter = dollar_delimiter(token)
        closed = len(token.text) >= 2 * len(delimiter) and token.text.endswith(delimiter)
        end = len(token.text) - (len(delimiter) if closed else 0)
        body = self.apply(token.text[len(delimiter) : end])
        if closed and (body + delimiter).find(delimiter) != len(body):
            raise SubstitutionError(
                f"a value that goes into a {delimiter} string contains {delimiter}; "
                "choose another tag for the dollar quotes"
            )
        return delimiter + body + (delimiter if closed else "")

    def _replace(self, token: Token, escape: Callable[[str], str]) -> str:
        def insert(match: re.Match[str]) -> str:
            return escape(_without_nul(as_text(resolve(Reference.of(match), self.results))))

        return self.find.sub(insert, token.text)


class _Code:
    """The code of a text with everything else blanked out, to look around a reference."""

    def __init__(self, tokens: list[Token]) -> None:
        self.text = "".join(
            token.text
            if token.context is Context.CODE
            else (" " if token.context is Context.COMMENT else "'") * len(token.text)
            for token in tokens
        )

    def is_array_argument(self, offset: int, match: re.Match[str]) -> bool:
        """Whether the reference is all that stands in the parentheses of ANY, SOME or ALL."""
        if _ARGUMENT_END.match(self.text, offset + match.end()) is None:
            return False
        before = self.text[: offset + match.start()].rstrip()
        return before.endswith("(") and _ARRAY_ARGUMENT.search(before[-100:]) is not None


def _refuse(match: re.Match[str], token: Token) -> str:
    raise SubstitutionError(
        f"{match[0]} stands inside {token.context.value}, where values can't be inserted; "
        "use a plain literal and concatenation",
        reference=match[0],
    )


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise SubstitutionError("a value contains a NUL character, which SQL text can't hold")
    return text
