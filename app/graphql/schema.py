"""The schema, and what happens around each operation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any

import strawberry
from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    OperationDefinitionNode,
    get_operation_ast,
)
from graphql import ExecutionResult as CoreResult
from strawberry.exceptions import MissingQueryError
from strawberry.extensions import SchemaExtension
from strawberry.extensions.runner import SchemaExtensionsRunner
from strawberry.schema.config import StrawberryConfig
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.types import ExecutionResult
from strawberry.types.execution import ExecutionContext, PreExecutionError
from strawberry.types.graphql import OperationType

from app.cache import BoundedCache
from app.errors import InvalidInput, QueryTooExpensive, RateLimited, RequestError
from app.graphql.coding import CodedErrors, describe_late
from app.graphql.context import Context, Rooms
from app.graphql.cost import Cost, CostModel
from app.graphql.deadline import stop_when_gone
from app.graphql.documents import KEPT_BYTES, KEPT_DOCUMENTS, DocumentRefused, Documents
from app.graphql.ending import end_with_access
from app.graphql.execution import PlanningExecutor
from app.graphql.limits import check_variables
from app.graphql.measured import MeasuredOperations
from app.graphql.mutations import Mutation
from app.graphql.operations import Operations, SentDocument
from app.graphql.permissions import Need, find_needs, require_allowed
from app.graphql.protection import Protection
from app.graphql.queries import Query
from app.graphql.scalars import SCALARS
from app.graphql.sharing import SharedResultsRunner
from app.graphql.subscriptions import Subscription

logger = logging.getLogger(__name__)


class OperationContext(SchemaExtension):
    """Gives each operation a context of its own: a WebSocket has one context and many operations."""

    def on_operation(self) -> Iterator[None]:
        self.execution_context.context = self.execution_context.context.begin_operation()
        yield


_ROOTS: dict[str, Any] = {
    "query": Query,
    "mutation": Mutation,
    "subscription": Subscription,
    "config": StrawberryConfig(scalar_map=SCALARS),
}


class Schema(strawberry.Schema):
    """Strawberry's, with documents that are measured before anything else and made ready once.

    It also does without Strawberry's logging of every error with a stack trace: CodedErrors logs those that matter.
    """

    def __init__(self, protection: Protection, **options: Any) -> None:
        super().__init__(**options)
        self._protection = protection
        self.documents = Documents(self._schema, protection.limits, introspection=protection.introspection)
        self.operations = Operations(protection.allowed)
        self._needs: BoundedCache[tuple[str, str | None], tuple[Need, ...]] = BoundedCache(
            entries=KEPT_DOCUMENTS, size=KEPT_BYTES
        )
        for name, text in protection.allowed.documents.items():
            try:
                self.documents.prepare(text)
            except (DocumentRefused, RequestError) as refusal:
                logger.warning("The listed GraphQL operation %s will be refused: %s", name, refusal)
        self._costs = CostModel(self._schema, protection.max_cost)

    def create_extensions_runner(
        self, execution_context: ExecutionContext, extensions: list[SchemaExtension]
    ) -> SchemaExtensionsRunner:
        return SharedResultsRunner(execution_context=execution_context, extensions=extensions)

    async def execute(self, *arguments: Any, **options: Any) -> ExecutionResult:
        """Runs a query or a mutation; a subscription has answers without end and goes through `stream`."""
        allowed = options.get("allowed_operation_types") or (OperationType.QUERY, OperationType.MUTATION)
        options["allowed_operation_types"] = set(allowed) - {OperationType.SUBSCRIPTION}
        return await super().execute(*arguments, **options)

    async def stream(self, *arguments: Any, **options: Any) -> Any:
        """A WebSocket is closed as a whole when whoever has opened it is to be let out; other streams end."""
        source = await super().stream(*arguments, **options)
        context = options["context_value"]
        principal = context.principal
        if context.websocket is not None or principal is None or not principal.can_end:
            return source
        return end_with_access(source, context.rooms.entrance, principal)

    async def _prepare_operation_async(
        self,
        context: ExecutionContext,
        extensions_runner: SchemaExtensionsRunner,  # noqa: ARG002 - no extension of ours takes part in this
    ) -> PreExecutionError | None:
        """In place of Strawberry's, which parses and validates before anything of ours could refuse a document."""
        try:
            await self._admit(context)
        except DocumentRefused as refusal:
            return PreExecutionError(data=None, errors=refusal.errors)
        except (MissingQueryError, CannotGetOperationTypeError, InvalidOperationTypeError):
            raise  # Strawberry has a way to answer these
        except Exception as error:  # noqa: BLE001 - Strawberry would show what it says; CodedErrors hides it where it's a bug
            if isinstance(error, QueryTooExpensive):
                context.extensions_results["cost"] = error.cost
            return PreExecutionError(data=None, errors=[GraphQLError(str(error), original_error=error)])
        return None

    async def _admit(self, context: ExecutionContext) -> None:
        """Finds and measures the document, and charges for it. Raises what speaks against executing it."""
        query, sent_extensions = _unpack(context)
        text = self.operations.find(query, sent_extensions)
        if text is None:
            raise MissingQueryError
        context.graphql_document = self.documents.prepare(text)
        self.operations.keep(text, sent_extensions)
        _require_choice(context, context.graphql_document)
        self._require_allowed(context, context.graphql_document, text)
        check_variables(_require_object(context.variables), self._protection.limits)
        try:
            operation_type = context.operation_type
        except RuntimeError as error:
            raise CannotGetOperationTypeError(context.operation_name) from error
        if operation_type not in context.allowed_operations:
            raise InvalidOperationTypeError(operation_type)
        cost = self._estimate(context, context.graphql_document)
        if cost is not None:
            await self._charge(context.context, cost)

    async def _charge(self, asker: Context, cost: Cost) -> None:
        allowance = asker.rooms.queries
        if allowance is None:
            return
        try:
            await allowance.spend(asker.asker, cost.estimated)
        except RateLimited as error:
            if asker.websocket is None and asker.response is not None:
                # For whoever looks at HTTP alone: proxies, and clients' own ways to try again.
                asker.response.status_code = error.http_status
                asker.response.headers.update(error.http_headers)
            raise

    def _require_allowed(self, context: ExecutionContext, document: DocumentNode, text: str) -> None:
        operation = get_operation_ast(document, context.operation_name)
        needs = () if operation is None else self.find_needs(document, operation, text)
        require_allowed(needs, context.context.principal)

    def find_needs(self, document: DocumentNode, operation: OperationDefinitionNode, text: str) -> tuple[Need, ...]:
        """What one must be allowed to execute an operation of the document that was made of this text."""
        key = (text, None if operation.name is None else operation.name.value)
        needs = self._needs.get(key)
        if needs is None:
            needs = find_needs(self._schema, document, operation)
            self._needs.put(key, needs, len(text))
        return needs

    def _estimate(self, context: ExecutionContext, document: DocumentNode) -> Cost | None:
        operation = get_operation_ast(document, context.operation_name)
        if operation is None:
            return None  # execution says that several are there and none was named
        asker = context.context
        cost = self.estimate(document, operation, context.variables or {}, asker.rooms, asker.now)
        # A subscription is estimated by one event; told once would be too little, with each event too much.
        if context.operation_type is not OperationType.SUBSCRIPTION:
            context.extensions_results["cost"] = asdict(cost)
        return cost

    def estimate(
        self,
        document: DocumentNode,
        operation: OperationDefinitionNode,
        variables: dict[str, Any],
        rooms: Rooms,
        now: datetime,
    ) -> Cost:
        """What an operation costs. Raises QueryTooExpensive where that is more than it may."""
        hypertables = rooms.declared if rooms.database.edition.has_hypertables else {}
        return self._costs.check(document, operation, variables, hypertables, now)

    def find_prepared(self, query: str) -> DocumentNode | None:
        """A document that was prepared before, if clients may send it as a text. Raises RequestError where they may not."""
        text = self.operations.find(query, None)
        return None if text is None else self.documents.kept.get(text)

    def check_variables(self, variables: dict[str, Any]) -> None:
        """Raises QueryTooComplex where they are over a limit."""
        check_variables(variables, self._protection.limits)

    @property
    def core(self) -> GraphQLSchema:
        """graphql-core's schema."""
        return self._schema

    @property
    def patience(self) -> float:
        """Seconds that an operation may take."""
        return self._protection.timeout.total_seconds()

    async def _execute_operation(
        self,
        execution_context: ExecutionContext,
        *arguments: Any,
    ) -> Any:
        """Strawberry's, within the time that an operation may take, and no longer than someone waits for a query."""
        try:
            async with asyncio.timeout(self.patience) as deadline:
                if execution_context.operation_type is OperationType.QUERY:
                    request = execution_context.context.request
                    with stop_when_gone(None if request is None else request.receive, deadline):
                        return await super()._execute_operation(execution_context, *arguments)
                return await super()._execute_operation(execution_context, *arguments)
        except TimeoutError:
            return CoreResult(data=None, errors=[describe_late()])

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        """Called by Strawberry with errors that are logged elsewhere."""


def _unpack(context: ExecutionContext) -> tuple[object, object]:
    """The query and the extensions, as they were sent."""
    sent: object = context.query
    return (sent.query, sent.extensions) if isinstance(sent, SentDocument) else (sent, context.operation_extensions)


def _require_choice(context: ExecutionContext, document: DocumentNode) -> None:
    # Strawberry would take the first.
    if context._provided_operation_name is None:  # noqa: SLF001 - its own gives the first one's name
        operations = sum(isinstance(each, OperationDefinitionNode) for each in document.definitions)
        if operations > 1:
            raise InvalidInput("The document has several operations: name one of them.", field="operationName")


def _require_object(variables: object) -> dict[str, Any]:
    if variables is None:
        return {}
    if not isinstance(variables, dict):
        raise InvalidInput("The variables must be an object.", field="variables")
    return variables


def make_schema() -> strawberry.Schema:
    """What can be asked, as schema.graphql shows it."""
    return strawberry.Schema(**_ROOTS)


def make_served_schema(protection: Protection) -> Schema:
    """The same, with what happens around each operation that a client sends."""
    return Schema(
        protection,
        **_ROOTS,
        extensions=[MeasuredOperations, OperationContext, CodedErrors],
        execution_context_class=PlanningExecutor,
    )
