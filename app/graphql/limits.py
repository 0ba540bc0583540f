"""How much a document and its variables may be, measured before anything is validated or executed.

Arrives: a request's body, the text of its document, the document once parsed, the variables. Fails: QueryTooComplex, which names the setting,
what it allows and what was sent. Each measure is linear in what it looks at, and each is taken before the next step would
cost more: bytes before tokens, tokens before parsing, fields with their fragments put in before validation, some of whose rules
compare every field with every other of its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
)

from app.errors import QueryTooComplex

# Names, numbers, texts, comments and punctuators; what is none of them is left to the parser to refuse. A text ends at the
# latest where the document does, and nothing of it is given back (`*+`): to look for an end that isn't there, from each of
# thirty thousand quotes, took 15 seconds.
_TOKEN: Final = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*+(?:""")?|"(?:[^"\\\n\r]|\\.)*+"?|#[^\n\r]*|[A-Za-z_0-9.+-]+|[^\s,\ufeff]', re.DOTALL
)


@dataclass(frozen=True, kw_only=True)
class DocumentLimits:
    """The most of each, all counts; `depth` is of fields within fields, and of variables' values within values.

    `aliases` are fields under another name, and fields that one place of the answer is asked for again: fragments count
    where they are spread.
    """

    bytes: int
    tokens: int
    depth: int
    aliases: int
    root_fields: int
    directives: int
    values: int


@dataclass
class _Extent:
    """What an operation is with its fragments put in; `fields` also counts the fragments."""

    fields: int = 0
    depth: int = 0
    aliases: int = 0
    root_fields: int = 0


def check_text(text: str, limits: DocumentLimits) -> int:
    """The number of tokens, comments among them. Raises QueryTooComplex."""
    size = len(text.encode(errors="surrogatepass"))
    _compare("bytes", size, "GRAPHQL_MAX_BYTES", limits.bytes)
    tokens = _TOKEN.findall(text)
    _compare("tokens", len(tokens), "GRAPHQL_MAX_TOKENS", limits.tokens)
    _compare("directives", tokens.count("@"), "GRAPHQL_MAX_DIRECTIVES", limits.directives)
    return len(tokens)


def check_document(document: DocumentNode, limits: DocumentLimits) -> None:
    """Measures every operation and every fragment. Raises QueryTooComplex."""
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
    spent = 0
    for node in document.definitions:
        if isinstance(node, OperationDefinitionNode):
            extent = _measure(node.selection_set, fragments, limits.tokens - spent)
            spent += extent.fields
            if spent > limits.tokens:
                raise QueryTooComplex(
                    f"With its fragments put in, the document has more than {limits.tokens:,} fields, "
                    "and AURUM_GRAPHQL_MAX_TOKENS allows no more: spread fewer fragments."
                )
            _check_extent(extent, limits)
            _compare("root fields", extent.root_fields, "GRAPHQL_MAX_ROOT_FIELDS", limits.root_fields)
        elif isinstance(node, FragmentDefinitionNode):
            # Where it is spread it was measured; one that no operation spreads is validated all the same.
            _check_extent(_measure(node.selection_set, {}, limits.tokens), limits)


def check_body(body: str | bytes, limits: DocumentLimits) -> None:
    """Measures a request before it is decoded. Raises QueryTooComplex.

    What is counted is what stands between and around values, the document's and that of texts as well: a bound that nothing within
    the other limits comes near, unless its texts are punctuation.
    """
    most = 2 * limits.values + limits.bytes
    comma, bracket, brace = (",", "[", "{") if isinstance(body, str) else (b",", b"[", b"{")
    if body.count(comma) + body.count(bracket) + body.count(brace) > most:  # type: ignore[arg-type]  # of its own kind
        raise QueryTooComplex(
            f"The request has more than {most:,} commas and opening brackets, so the variables have more than the "
            f"{limits.values:,} values that AURUM_GRAPHQL_MAX_VALUES allows: send less at a time."
        )


def check_variables(variables: Mapping[str, Any], limits: DocumentLimits) -> None:
    """Measures variables as they came from JSON: every item of a list and every entry of an object is a value.

    Raises QueryTooComplex.
    """
    count = depth = 0
    level: list[Any] = [variables]
    while level:
        below: list[Any] = []
        for container in level:
            count += len(container)
            if count > limits.values:
                raise QueryTooComplex(
                    f"The variables have more than {limits.values:,} values, and AURUM_GRAPHQL_MAX_VALUES allows no "
                    "more: send less at a time."
                )
            values = container.values() if isinstance(container, dict) else container
            below.extend(value for value in values if isinstance(value, (dict, list)))
        level = below
        depth += bool(level)
    if depth > limits.depth:
        raise QueryTooComplex(
            f"The variables have values {depth:,} deep within values; AURUM_GRAPHQL_MAX_DEPTH allows {limits.depth:,}."
        )


def _check_extent(extent: _Extent, limits: DocumentLimits) -> None:
    if extent.depth > limits.depth:
        raise QueryTooComplex(
            f"The document has fields {extent.depth:,} deep within fields; "
            f"AURUM_GRAPHQL_MAX_DEPTH allows {limits.depth:,}."
        )
    _compare("aliases and repeated fields", extent.aliases, "GRAPHQL_MAX_ALIASES", limits.aliases)


def _compare(what: str, count: int, setting: str, limit: int) -> None:
    if count > limit:
        raise QueryTooComplex(f"The document has {count:,} {what}; AURUM_{setting} allows {limit:,}.")


def _measure(root: SelectionSetNode, fragments: Mapping[str, FragmentDefinitionNode], budget: int) -> _Extent:
    """Goes through the answer's places level by level, as execution would, until `budget` is overspent."""
    extent = _Extent()
    level = [[root]]
    while level:
        below: list[list[SelectionSetNode]] = []
        names = 0
        for selections in level:
            asked = _collect(selections, fragments, extent, budget)
            if extent.fields > budget:
                return extent
            names += len(asked)
            below.extend(sets for sets in asked.values() if sets)
        extent.depth += 1
        extent.root_fields = extent.root_fields or names
        level = below
    return extent


def _collect(
    pending: list[SelectionSetNode], fragments: Mapping[str, FragmentDefinitionNode], extent: _Extent, budget: int
) -> dict[str, list[SelectionSetNode]]:
    """The names under which one place of the answer has fields, each with what is selected below it."""
    asked: dict[str, list[SelectionSetNode]] = {}
    spread: set[str] = set()
    while pending:
        for node in pending.pop().selections:
            extent.fields += 1
            if extent.fields > budget:
                return asked
            if isinstance(node, FieldNode):
                name = (node.alias or node.name).value
                extent.aliases += (node.alias is not None) + (name in asked)
                below = asked.setdefault(name, [])
                if node.selection_set is not None:
                    below.append(node.selection_set)
            elif isinstance(node, InlineFragmentNode):
                pending.append(node.selection_set)
            elif (name := node.name.value) in fragments and name not in spread:  # type: ignore[attr-defined]  # a spread
                spread.add(name)
                pending.append(fragments[name].selection_set)
    return asked
