"""Documents, made ready once: measured, parsed and validated, and kept for whoever sends the same text again.

Arrives: a document's text and a request's variables. Leaves: a document that may be executed. Fails: QueryTooComplex
where it is over a limit, DocumentRefused with what the parser or the validation says against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    NoFragmentCyclesRule,
    NoSchemaIntrospectionCustomRule,
    parse,
    specified_rules,
    validate,
)
from strawberry.schema.validation_rules.maybe_null import MaybeNullValidationRule
from strawberry.schema.validation_rules.one_of import OneOfInputValidationRule

from app.cache import BoundedCache
from app.errors import QueryTooComplex
from app.graphql.limits import DocumentLimits, check_document, check_text

KEPT_DOCUMENTS = 1_000
KEPT_BYTES = 32 * 1024 * 1024
TOKEN_BYTES = 400  # that a token and its part of the document take in memory, by measurement about 310
MOST_ERRORS = 20  # that are told of one document

# One tuple for good: rules that are made anew for each request would have to be part of the cache's key.
_RULES: Final = (*specified_rules, MaybeNullValidationRule, OneOfInputValidationRule)


class DocumentRefused(Exception):
    """What the parser or the validation says; `errors` go to the client as they are."""

    def __init__(self, errors: Sequence[GraphQLError]) -> None:
        super().__init__(errors[0].message)
        self.errors = list(errors)


class Documents:
    """The documents of one schema under one set of limits."""

    def __init__(self, schema: GraphQLSchema, limits: DocumentLimits, *, introspection: bool) -> None:
        self._schema = schema
        self._limits = limits
        self._rules = _RULES if introspection else (*_RULES, NoSchemaIntrospectionCustomRule)
        # "Did you mean ...?" tells the schema's names one by one.
        self._suggests = introspection
        self.kept: BoundedCache[str, DocumentNode] = BoundedCache(entries=KEPT_DOCUMENTS, size=KEPT_BYTES)

    def prepare(self, text: str) -> DocumentNode:
        """The document, ready to be executed. Raises QueryTooComplex or DocumentRefused."""
        if (known := self.kept.get(text)) is not None:
            return known
        tokens = check_text(text, self._limits)
        try:
            document = parse(text)
        except GraphQLError as error:
            raise DocumentRefused([error]) from error
        try:
            check_document(document, self._limits)
        except QueryTooComplex:
            # A fragment within itself is without end, and that is what its author wants to be told.
            self._validate(document, (NoFragmentCyclesRule,))
            raise
        self._validate(document, self._rules)
        self.kept.put(text, document, tokens * TOKEN_BYTES + len(text))
        return document

    def _validate(self, document: DocumentNode, rules: Sequence[type]) -> None:
        errors = validate(self._schema, document, rules, max_errors=MOST_ERRORS, hide_suggestions=not self._suggests)
        if errors:
            raise DocumentRefused(errors)
