"""Requests to /graphql that are meant to keep a service busy, each with the code that refuses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

TYPE = "ofType {" * 8 + "name" + "}" * 8


def _ask(query: str, **variables: Any) -> Callable[[], bytes]:
    return lambda: msgspec.json.encode({"query": query, "variables": variables})


def _vary(text: bytes, times: int) -> Callable[[], bytes]:
    """Variables whose one value is a list of the same text over and over, as no encoder has to make it."""
    query = b'"query ($where: MachineWhere) { machines(where: $where) { nodes { machineId } } }"'
    return lambda: b'{"query":' + query + b',"variables":{"where":[' + b",".join([text] * times) + b"]}}"


def _deepen(opening: str, closing: str, times: int) -> str:
    return opening * times + closing * times


def _number(count: int, text: str) -> str:
    return " ".join(text.replace("#", str(n)) for n in range(count))


MB = 1_000_000
FLEET = "{ fleet { live } }"
# Fields and fragments that all have to be compared with each other before anyone knows that they don't conflict.
ENTWINED = (
    "{ machine(machineId: 1) { "
    + _number(40, "...F#")
    + " } } "
    + _number(40, "fragment F# on Machine { a#: machineId ...G }")
)

# What is sent, and the code of the refusal.
ATTACKS: dict[str, tuple[Callable[[], bytes], str]] = {
    "fields 100 deep": (_ask("{ machine(machineId: 1) {" + _deepen("latest { machine {", "} }", 50).replace("{}", "{ machineId }") + "} }"), "QUERY_TOO_COMPLEX"),
    "10,000 aliases": (_ask("{ " + _number(10_000, "a#:__typename") + " }"), "QUERY_TOO_COMPLEX"),
    "1,900 fields that repeat": (_ask("{ " + "fleet { live } " * 450 + " }"), "QUERY_TOO_COMPLEX"),
    "a fragment within itself": (_ask("{ ...A } fragment A on Query { fleet { live } ...A }"), "GRAPHQL_VALIDATION_FAILED"),
    "200 fragments in a circle": (_ask("{ ...F0 } " + "".join(f"fragment F{n} on Query {{ ...F{(n + 1) % 200} }} " for n in range(200))), "GRAPHQL_VALIDATION_FAILED"),
    "fragments that double 30 times": (_ask("{ ...F0 } fragment F30 on Query { fleet { live } } " + "".join(f"fragment F{n} on Query {{ a: machine(machineId: 1) {{ machineId }} ...F{n + 1} b: machine(machineId: 1) {{ machineId }} ...F{n + 1} }} " for n in range(30))), "QUERY_TOO_COMPLEX"),
    "fragments that all spread each other": (_ask(ENTWINED + " fragment G on Machine { " + _number(40, "a#: machineType") + " }"), "QUERY_TOO_COMPLEX"),
    "a document of 10 MB": (_ask(FLEET + " " * 10 * MB), "QUERY_TOO_COMPLEX"),
    "a document of 10 MB of fields": (_ask("{" + "a " * 5 * MB + "}"), "QUERY_TOO_COMPLEX"),
    "1 MB of comments": (_ask("# nothing\n" * (MB // 10) + FLEET), "QUERY_TOO_COMPLEX"),
    "60 kB of comments": (_ask("#\n" * 30_000 + FLEET), "QUERY_TOO_COMPLEX"),
    "1,000 directives": (_ask("{ fleet { live " + "@include(if: true) " * 1_000 + "} }"), "QUERY_TOO_COMPLEX"),
    "1,000 directives that nobody knows": (_ask("{ fleet { live " + "@a " * 1_000 + "} }"), "QUERY_TOO_COMPLEX"),
    "1,000 operations": (_ask(_number(1_000, "query Q# { x }")), "QUERY_TOO_COMPLEX"),
    "380 operations": (_ask(_number(380, "query Q# { x }")), "GRAPHQL_VALIDATION_FAILED"),
    "600 unknown fields": (_ask("{ " + _number(600, "machinez#") + " }"), "QUERY_TOO_COMPLEX"),
    "45 unknown fields": (_ask("{ " + _number(45, "machinez#") + " }"), "GRAPHQL_VALIDATION_FAILED"),
    "450 variables": (_ask("query (" + _number(450, "$v#: Int") + ") " + FLEET), "GRAPHQL_VALIDATION_FAILED"),
    "a text of 60 kB": (_ask('{ machine(machineId: "' + "a" * 60_000 + '") { nothing } }'), "GRAPHQL_VALIDATION_FAILED"),
    "a block text of 60 kB of lines": (_ask('{ machine(machineId: """' + "\n " * 30_000 + '""") { nothing } }'), "GRAPHQL_VALIDATION_FAILED"),
    "10,000 unicode escapes": (_ask('{ machine(machineId: "' + "\\u{1F600}" * 7_000 + '") { nothing } }'), "GRAPHQL_VALIDATION_FAILED"),
    "unicode escapes of halves of characters": (_ask('{ machine(machineId: "' + "\\uD83D" * 10_000 + '") { live } }'), "GRAPHQL_PARSE_FAILED"),
    "a text without an end": (_ask('{ machine(machineId: "' + '\\"' * 30_000), "GRAPHQL_PARSE_FAILED"),
    "a block text without an end": (_ask('{ machine(machineId: """' + '\\"""' * 15_000), "GRAPHQL_PARSE_FAILED"),
    "lists 900 deep in an argument": (_ask("{ machines(where: " + _deepen("[", "]", 900) + ") { totalCount } }"), "GRAPHQL_PARSE_FAILED"),
    "lists 150 deep in an argument": (_ask("{ machines(where: " + _deepen("[", "]", 150) + ") { totalCount } }"), "GRAPHQL_VALIDATION_FAILED"),
    "objects 400 deep in an argument": (_ask("{ machines(where: " + _deepen("{not:", "}", 400) + ") { totalCount } }"), "GRAPHQL_PARSE_FAILED"),
    "a type of lists 900 deep": (_ask("query ($a: " + "[" * 900 + "Int" + "]" * 900 + ") " + FLEET), "GRAPHQL_PARSE_FAILED"),
    "inline fragments 600 deep": (_ask("{" + "... {" * 600 + "fleet { live }" + "}" * 600 + "}"), "GRAPHQL_PARSE_FAILED"),
    "introspection deeper than may be": (_ask("{ __schema { types { fields { type { " + "fields { type { " * 10 + "name" + " } }" * 10 + " } } } } }"), "QUERY_TOO_COMPLEX"),
    "introspection that multiplies": (_ask("{ __schema { types { fields { type { " + "fields { type { " * 7 + "name" + " } }" * 7 + " } } } } }"), "GRAPHQL_VALIDATION_FAILED"),
    "introspection 45 times": (_ask("{ " + _number(45, "a#: __schema { types { fields { args { name } } } }") + " }"), "QUERY_TOO_EXPENSIVE"),
    "introspection in a batch of 1,000": (lambda: msgspec.json.encode([{"query": "{ __schema { types { fields { name } } } }"}] * 1_000), "BAD_REQUEST"),
    "10 MB of variables, one text": (_vary(b'"' + b"a" * 10 * MB + b'"', 1), "GRAPHQL_VALIDATION_FAILED"),
    "10 MB of variables, numbers": (_vary(b"0", 5 * MB), "QUERY_TOO_COMPLEX"),
    "10 MB of variables, empty objects": (_vary(b"{}", 3 * MB), "QUERY_TOO_COMPLEX"),
    "10 MB of variables, texts": (_vary(b'"a"', 2 * MB), "QUERY_TOO_COMPLEX"),
    "10 MB of variables, objects": (_vary(b'{"a":0}', 1 * MB), "QUERY_TOO_COMPLEX"),
    "as many values as are decoded, in objects": (_vary(b'{"a":0}', 120_000), "QUERY_TOO_COMPLEX"),
    "as many values as are decoded, in lists": (_vary(b"[]", 130_000), "QUERY_TOO_COMPLEX"),
    "as many values as are decoded, numbers": (_vary(b"0.1234567890123", 260_000), "QUERY_TOO_COMPLEX"),
    "10 MB of variables, a text with escapes": (_vary(b'"' + b"\\u00e9" * (MB * 10 // 6) + b'"', 1), "GRAPHQL_VALIDATION_FAILED"),
    "100,000 values 20 deep": (_vary(b"[" * 17 + b"]" * 17, 5_800), "GRAPHQL_VALIDATION_FAILED"),
    "variables 1,000,000 deep": (_vary(b"[" * MB, 1), "QUERY_TOO_COMPLEX"),
    "variables 200,000 deep": (_vary(b"[" * 200_000, 1), "BAD_REQUEST"),
    "a number of 1 MB": (_vary(b"1" * MB, 1), "BAD_REQUEST"),
}  # fmt: skip
