"""Counts and traces each operation that goes through Strawberry; the short way does so with its own."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Any

from strawberry.extensions import SchemaExtension
from strawberry.types.execution import ExecutionContext

from app.tracing import CANCELLED

OK = "ok"
UNKNOWN = "unknown"
MOST_NAME = 100  # characters of an operation's own name in a trace


class MeasuredOperations(SchemaExtension):
    """Outside all other extensions, so that errors have their codes when it looks at them."""

    def on_operation(self) -> Iterator[None]:
        began = perf_counter()
        rooms = self.execution_context.context.rooms
        span = None if rooms.tracing is None else rooms.tracing.begin("graphql", {})
        outcome = CANCELLED
        try:
            yield
            outcome = _find_outcome(self.execution_context.result)
        except Exception:
            outcome = "BAD_REQUEST"  # without a document, or without an operation that may be executed here
            raise
        finally:
            context = self.execution_context
            kind, name = _describe(context)
            rooms.operations.observe(kind, name, outcome, perf_counter() - began)
            if span is not None:
                said = name_span(kind, None if kind == UNKNOWN else context.operation_name)
                span.end(
                    name=said, attributes={"graphql.operation.type": kind}, error=None if outcome == OK else outcome
                )


def _find_outcome(result: Any) -> str:
    errors = getattr(result, "errors", None)
    return str((errors[0].extensions or {}).get("code", OK)) if errors else OK


def _describe(context: ExecutionContext) -> tuple[str, str]:
    """Kind and listed name; UNKNOWN where the document can't be read or doesn't say which operation is meant."""
    document = context.graphql_document
    if document is None:
        return UNKNOWN, "other"
    text = "" if document.loc is None else document.loc.source.body
    name = context.schema.operations.name(text)  # type: ignore[attr-defined]  # of our Schema
    try:
        return context.operation_type.value, name
    except RuntimeError:
        return UNKNOWN, name


def name_span(kind: str, name: str | None) -> str:
    """What a trace calls an operation."""
    return f"{kind} {name[:MOST_NAME]}" if name else kind
