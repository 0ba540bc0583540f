"""The short way of a query that PostgreSQL answers alone: from the request's bytes to the answer's, past all that other
operations need.

Arrives: ASGI messages of `/graphql`. Leaves: an answer, where the document is known to be good (it has been sent before)
and every root field of its operation is planned; for anything else, errors in the request included, the messages go on
to Strawberry as they came. Fails: as the operation does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from time import perf_counter
from typing import Any

import msgspec
from graphql import (
    DirectiveNode,
    DocumentNode,
    FieldNode,
    GraphQLError,
    GraphQLNonNull,
    NamedTypeNode,
    Node,
    NonNullTypeNode,
    OperationDefinitionNode,
    OperationType,
    TypeNode,
    VariableNode,
    Visitor,
    get_operation_ast,
    located_error,
    visit,
)
from graphql.execution.values import VariableValues, get_variable_values
from litestar.types import ASGIApp, Receive, Scope, Send

from app.access.guard import read_principal
from app.access.principal import Principal
from app.cache import BoundedCache
from app.errors import QueryTimeout
from app.graphql.coding import code_error, describe_late
from app.graphql.context import Rooms
from app.graphql.cost import Cost
from app.graphql.deadline import stop_when_gone
from app.graphql.execution import PlanningExecutor
from app.graphql.measured import OK, name_span
from app.graphql.permissions import Need, require_allowed
from app.graphql.planner import Fetch, Selections, plan_field, select_all
from app.graphql.prepared import Prepared, prepare
from app.graphql.schema import Schema
from app.instants import read_clock
from app.tracing import CANCELLED

LONGEST = 64 * 1024  # bytes of a request that is short enough
KEPT = 2_000
TREE_BYTES = 2_000  # about what a tree of selections takes
COST_HOLDS = timedelta(minutes=1)  # a range up to now grows by a chunk now and then

_JSON = b"application/json"


class Asked(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A request as it mostly is. Whatever else it holds is for the long way."""

    query: str
    variables: dict[str, Any] | None = None
    operation_name: str | None = None


class _Operation(msgspec.Struct):
    """What is known of an operation before its variables are. `name` is that of the list of allowed operations; `plain` says
    that each of them is one id or one text, which changes what is found and never how much is read; `deciding` are those
    that @skip and @include go by; `prepared` is the plan, where no variable changes it."""

    document: DocumentNode
    node: OperationDefinitionNode
    name: str
    plain: bool
    deciding: frozenset[str]
    needs: tuple[Need, ...]
    selections: dict[tuple[object, ...], Selections]
    prepared: Prepared | None = None
    fetches: dict[str, Fetch] | None = None  # where no variable changes them
    cost: Cost | None = None  # the latest, and when it was estimated
    costed_at: datetime | None = None


class Shortcut:
    """Before everything else that serves the schema: `wrap` gives the ASGI application that tries the short way first."""

    def __init__(self, schema: Schema, rooms: Rooms) -> None:
        self._schema = schema
        self._rooms = rooms
        self._decoder = msgspec.json.Decoder(Asked)
        self._operations: BoundedCache[tuple[str, str | None], _Operation] = BoundedCache(
            entries=KEPT, size=KEPT * TREE_BYTES
        )

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """What takes the short way where it can, and goes on to `app` where it can't."""

        async def run(scope: Scope, receive: Receive, send: Send) -> None:
            if not _is_short(scope):
                await app(scope, receive, send)
                return
            first = await receive()
            answer = None
            if first["type"] == "http.request" and not first["more_body"]:
                answer = await self._answer(first["body"], receive, read_principal(scope))
            if answer is None:
                await app(scope, _replay(first, receive), send)
                return
            headers = [(b"content-type", _JSON), (b"content-length", b"%d" % len(answer))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": answer, "more_body": False})

        return run

    async def _answer(self, body: bytes, receive: Any, principal: Principal | None) -> bytes | None:
        try:
            asked = self._decoder.decode(body)
            operation = self._find_operation(asked)
            if operation is None:
                return None
            require_allowed(operation.needs, principal)
            fetches = self._find_fetches(operation, asked)
            if fetches is None:
                return None
            cost = self._estimate(operation, asked)
            queries = self._rooms.queries
            if queries is not None and principal is not None:
                await queries.spend(principal, cost.estimated)
        except Exception:  # noqa: BLE001 - the long way will meet it again, and says and logs what it is
            return None
        answer = await self._execute(operation, fetches, cost, receive, self._rooms.see(principal))
        if answer is None and queries is not None and principal is not None:
            queries.give_back(principal, cost.estimated)  # the long way counts it anew
        return answer

    async def _execute(
        self, operation: _Operation, fetches: Mapping[str, Fetch], cost: Cost, receive: Any, rooms: Rooms
    ) -> bytes | None:
        tracing = self._rooms.tracing
        if tracing is None:
            return await self._fetch(operation, fetches, cost, receive, rooms)
        name = None if operation.node.name is None else operation.node.name.value
        span = tracing.begin(name_span("query", name), {"graphql.operation.type": "query"})
        error: str | None = CANCELLED
        try:
            answer = await self._fetch(operation, fetches, cost, receive, rooms)
            refused = answer is not None and answer.startswith(b'{"data":null')
            error = QueryTimeout.code if refused else None
        finally:
            span.end(error=error)
        return answer

    def _find_operation(self, asked: Asked) -> _Operation | None:
        key = (asked.query, asked.operation_name)
        known = self._operations.get(key)
        if known is not None:
            return known
        document = self._schema.find_prepared(asked.query)
        node = None if document is None else _choose_operation(document, asked.operation_name)
        if document is None or node is None:
            return None
        finder = _DirectiveVariables()
        visit(document, finder)
        plain = all(_is_plain(definition.type) for definition in node.variable_definitions or ())
        name = self._schema.operations.name(asked.query)
        needs = self._schema.find_needs(document, node, asked.query)
        operation = _Operation(document, node, name, plain, frozenset(finder.names), needs, {})
        self._operations.put(key, operation, TREE_BYTES)
        return operation

    def _find_fetches(self, operation: _Operation, asked: Asked) -> dict[str, Fetch] | None:
        """None where not every root field is planned, or where something is wrong with the variables."""
        self._schema.check_variables(asked.variables or {})
        if operation.prepared is not None and (filled := operation.prepared.fill(asked.variables or {})) is not None:
            return filled
        variables = self._read_variables(operation, asked)
        return None if variables is None else self._plan(operation, asked, variables)

    def _read_variables(self, operation: _Operation, asked: Asked) -> VariableValues | None:
        """The variables as graphql-core coerces them; None where it has something against them."""
        definitions = operation.node.variable_definitions or ()
        read = get_variable_values(self._schema.core, definitions, asked.variables or {})
        return None if isinstance(read, list) else read

    def _plan(self, operation: _Operation, asked: Asked, variables: VariableValues) -> dict[str, Fetch] | None:
        if operation.fetches is not None:
            return operation.fetches
        deciding = tuple(variables.coerced.get(name) for name in operation.deciding)
        selections = operation.selections.get(deciding)
        if selections is None:
            executor = PlanningExecutor.build(
                self._schema.core,
                operation.document,
                raw_variable_values=asked.variables,
                operation_name=asked.operation_name,
            )
            if isinstance(executor, list) or len(operation.selections) > KEPT:
                return None
            selections = operation.selections[deciding] = select_all(executor)
            if operation.plain:
                most = self._rooms.max_page_rows
                operation.prepared = prepare(operation.node, selections, self._schema, variables, most)
        fetches: dict[str, Fetch] = {}
        for key, selected in selections.items():
            fetch = plan_field(selected, self._schema, variables, self._rooms.max_page_rows)
            if fetch is None:
                return None
            fetches[key] = fetch
        if not operation.node.variable_definitions:
            operation.fetches = fetches
        return fetches

    def _estimate(self, operation: _Operation, asked: Asked) -> Cost:
        now = read_clock()
        if operation.cost is not None and operation.costed_at is not None and now - operation.costed_at < COST_HOLDS:
            return operation.cost
        cost = self._schema.estimate(operation.document, operation.node, asked.variables or {}, self._rooms, now)
        if operation.plain:
            operation.cost, operation.costed_at = cost, now
        return cost

    async def _fetch(
        self, operation: _Operation, fetches: Mapping[str, Fetch], cost: Cost, receive: Any, rooms: Rooms
    ) -> bytes | None:
        data: dict[str, msgspec.Raw] = {}
        began = perf_counter()
        try:
            async with asyncio.timeout(self._schema.patience) as deadline:
                with stop_when_gone(receive, deadline):
                    for key, fetch in fetches.items():
                        text = await fetch(rooms)
                        if text is None:
                            return None
                        data[key] = msgspec.Raw(text)
        except TimeoutError:
            return self._refuse(describe_late(), operation, cost, began)
        except QueryTimeout as error:
            nodes = [node for node in operation.node.selection_set.selections if _get_key(node) == key]
            if not nodes or not self._can_never_be_null(nodes[0]):
                return None
            # Not to be tried again the long way: the answer is null as a whole.
            located = located_error(error, nodes, [key])
            return self._refuse(located, operation, cost, began)
        except Exception:  # noqa: BLE001 - as above
            return None
        self._rooms.operations.observe("query", operation.name, OK, perf_counter() - began)
        return msgspec.json.encode({"data": data, "extensions": {"cost": cost}})

    def _can_never_be_null(self, node: Node) -> bool:
        query = self._schema.core.query_type
        assert query is not None and isinstance(node, FieldNode)  # noqa: S101, PT018 - it has a key
        return isinstance(query.fields[node.name.value].type, GraphQLNonNull)

    def _refuse(self, error: GraphQLError, operation: _Operation, cost: Cost, began: float) -> bytes:
        self._rooms.operations.observe("query", operation.name, QueryTimeout.code, perf_counter() - began)
        return msgspec.json.encode(
            {"data": None, "errors": [code_error(error).formatted], "extensions": {"cost": cost}}
        )


def _choose_operation(document: DocumentNode, name: str | None) -> OperationDefinitionNode | None:
    """The query that is meant; None where it's another operation, or not clear which."""
    node = get_operation_ast(document, name)
    return node if node is not None and node.operation is OperationType.QUERY else None


def _get_key(node: Node) -> str | None:
    """What the answer of a field goes under; None of a fragment."""
    return (node.alias or node.name).value if isinstance(node, FieldNode) else None


class _DirectiveVariables(Visitor):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def enter_directive(self, node: DirectiveNode, *_: Any) -> None:
        self.names.update(
            argument.value.name.value for argument in node.arguments or () if isinstance(argument.value, VariableNode)
        )


def _is_plain(kind: TypeNode) -> bool:
    inner = kind.type if isinstance(kind, NonNullTypeNode) else kind
    return isinstance(inner, NamedTypeNode) and inner.name.value in {"ID", "String"}


def _is_short(scope: Any) -> bool:
    if scope["type"] != "http" or scope["method"] != "POST":
        return False
    fields = dict(scope["headers"])
    if fields.get(b"content-type", b"").partition(b";")[0].strip().lower() != _JSON:
        return False
    if b"text/event-stream" in fields.get(b"accept", b"") or b"multipart" in fields.get(b"accept", b""):
        return False
    length = fields.get(b"content-length", b"")
    return length.isdigit() and int(length) <= LONGEST


def _replay(first: Any, receive: Receive) -> Receive:
    """`receive` with a message before all others."""
    pending = [first]

    async def replay() -> Any:
        return pending.pop() if pending else await receive()

    return replay
