"""How errors reach clients: each with a code, and nothing of what nobody foresaw."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from graphql import ExecutionResult as CoreResult
from graphql import GraphQLError, GraphQLSyntaxError
from strawberry.exceptions import MissingQueryError
from strawberry.extensions import SchemaExtension
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.types import ExecutionResult

from app.correlation import read_correlation_id
from app.errors import QueryTimeout, RequestError

LONGEST_MESSAGE = 2_000  # characters of an error

logger = logging.getLogger(__name__)


class CodedErrors(SchemaExtension):
    """Gives every error its `extensions.code`, and hides what no one foresaw behind an id that the log has too."""

    def on_operation(self) -> Iterator[None]:
        yield
        self._code(self.execution_context.result)

    def on_stream_result(self, result: Any) -> Iterator[None]:
        self._code(result)
        yield

    def _code(self, result: object) -> None:
        if isinstance(result, (ExecutionResult, CoreResult)) and result.errors:
            result.errors = [code_error(error) for error in result.errors]
            if self.execution_context.context.websocket is not None:
                # Over HTTP each answer has it in a header.
                for error in result.errors:
                    error.extensions = {**(error.extensions or {}), "correlationId": read_correlation_id()}


def code_error(error: GraphQLError) -> GraphQLError:
    """The error as it goes to a client."""
    original = error.original_error
    while isinstance(original, GraphQLError):
        original = original.original_error
    if (error.extensions or {}).get("code"):
        return error
    if isinstance(original, RequestError):
        extensions = original.extensions
        message = error.message
    elif original is None:
        # graphql-core's own: about the document, or about the variables that came with it.
        code = "GRAPHQL_PARSE_FAILED" if isinstance(error, GraphQLSyntaxError) else "GRAPHQL_VALIDATION_FAILED"
        extensions = {"code": code}
        message = error.message
    elif isinstance(original, (MissingQueryError, CannotGetOperationTypeError, InvalidOperationTypeError)):
        extensions = {"code": "BAD_REQUEST"}
        message = error.message
    else:
        correlation_id = read_correlation_id()
        logger.error("Unforeseen error %s at %s", correlation_id, error.path, exc_info=original)
        extensions = {"code": "INTERNAL", "correlationId": correlation_id}
        message = "Something went wrong inside the service; its log has it under the correlationId."
    return GraphQLError(
        # graphql-core quotes some of what it was given, such as names that are no choice, whatever their length.
        message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}...",
        nodes=error.nodes,
        source=error.source,
        positions=error.positions,
        path=error.path,
        extensions=extensions,
    )


def describe_late() -> GraphQLError:
    """What is said of an operation that took too long."""
    late = QueryTimeout(
        "The operation took longer than AURUM_GRAPHQL_TIMEOUT and was stopped: ask for less at a time. "
        "What a mutation had changed by then stays changed."
    )
    return GraphQLError(str(late), original_error=late)
