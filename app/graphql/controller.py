"""`/graphql`: POST, GET for queries, WebSocket (graphql-transport-ws) and Server-Sent Events, by Strawberry's controller.

A browser that is shown `/graphql` gets GraphiQL from our own files: Strawberry's loads its scripts from a CDN, which a plant's
network may not reach.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from cross_web import HTTPException
from litestar import Controller, Request, Response
from litestar.background_tasks import BackgroundTasks
from litestar.di import Provide
from litestar.exceptions import InternalServerException
from litestar.types import Scope
from strawberry.litestar import make_graphql_controller
from strawberry.subscriptions import GRAPHQL_SSE_PROTOCOL, GRAPHQL_TRANSPORT_WS_PROTOCOL

from app.access.guard import ask_who, read_principal
from app.drain import Drain
from app.errors import InvalidInput, QueryTooComplex, RequestError, UnsupportedMediaType
from app.graphql.context import Context, Rooms
from app.graphql.forgery import refuse_unasked
from app.graphql.graphiql.page import render_page
from app.graphql.limits import DocumentLimits, check_body
from app.graphql.operations import carry_document_id
from app.graphql.protection import Protection
from app.graphql.schema import Schema
from app.graphql.sse import EventStream
from app.graphql.websocket import Socket, WebSocketHandler


def make_controller(schema: Schema, rooms: Rooms, protection: Protection, drain: Drain) -> type[Controller]:
    """A Litestar controller that serves the schema over these rooms, within these bounds, until it is to stop."""

    async def get_context(scope: Scope) -> Context:
        return Context.make(rooms, read_principal(scope))

    base = make_graphql_controller(
        schema,
        path="/graphql",
        graphql_ide="graphiql" if protection.graphiql else None,
        context_getter=get_context,
        subscription_protocols=(GRAPHQL_TRANSPORT_WS_PROTOCOL, GRAPHQL_SSE_PROTOCOL),
        allowed_origins=["*"],  # whoever comes here has passed the entrance, which knows the origins that may
    )

    class GraphQLController(base):  # type: ignore[misc, valid-type]  # made by a function, as Strawberry offers it
        # Strawberry would make the empty response in a thread of its own.
        dependencies = {**base.dependencies, "response": Provide(_make_response, sync_to_thread=False)}  # noqa: RUF012 - Litestar's way
        stream_transport_classes_by_protocol = {GRAPHQL_SSE_PROTOCOL: EventStream}  # noqa: RUF012 - Strawberry's way

        graphql_transport_ws_handler_class = WebSocketHandler
        websocket_adapter_class = Socket
        exception_handlers = {RequestError: answer_refusal}  # noqa: RUF012 - as above

        def should_render_graphql_ide(self, request: Any) -> bool:
            # Strawberry takes any GET without `query` for a browser's, and so one that names its document.
            return (
                request.method == "GET"
                and not request.query_params
                and "text/html" in request.headers.get("accept", "")
            )

        async def render_graphql_ide(self, request: Request[Any, Any, Any]) -> Response[bytes]:  # noqa: ARG002 - alike for all
            return render_page()

        def parse_query_params(self, params: Mapping[str, Any]) -> dict[str, Any]:
            return carry_document_id(super().parse_query_params(params))

        async def parse_http_body(self, request: Any) -> Any:
            _refuse_coding(request)
            try:
                _require_known(request)
                await refuse_unasked(request)
                return await super().parse_http_body(request)
            except InternalServerException as error:  # Litestar's, of a client that hung up
                raise InvalidInput("The body broke off before its end: send it again.") from error

        encode_json = staticmethod(msgspec.json.encode)

        def decode_json(self, data: str | bytes) -> object:
            return _decode_request(data, protection.limits)

        async def create_streaming_response(
            self, request: Request[Any, Any, Any], stream: Any, sub_response: Response[Any], headers: Mapping[str, str]
        ) -> Response[Any]:
            # A stream that went on would hold up the server; its client resumes elsewhere, by the cursor.
            response: Response[Any] = await super().create_streaming_response(
                request, partial(drain.stream, stream), sub_response, headers
            )
            return response

        async def execute_request(
            self, request: Request[Any, Any, Any], context: Any, root_value: Any
        ) -> Response[Any]:
            try:
                response: Response[Any] = await self.run(request, context=context, root_value=root_value)
            except HTTPException as error:
                return _answer_error(error.reason, {"code": "BAD_REQUEST"}, error.status_code)
            return response

    return GraphQLController


def _decode_request(data: str | bytes, limits: DocumentLimits) -> dict[str, Any]:
    try:
        check_body(data, limits)
        return carry_document_id(msgspec.json.decode(data, type=dict[str, Any]))
    except QueryTooComplex as error:
        if isinstance(data, bytes):
            raise
        # A message of a WebSocket, which nobody has looked for an id in to answer.
        raise json.JSONDecodeError(str(error), "", 0) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        # What Strawberry answers with 400, and over a WebSocket by closing it.
        raise json.JSONDecodeError(str(error), "", 0) from error


def answer_refusal(_: Request[Any, Any, Any], error: RequestError) -> Response[dict[str, object]]:
    """An error of the request as a whole, in the form of GraphQL's."""
    return _answer_error(str(error), error.extensions, error.http_status, error.http_headers)


def _answer_error(
    message: str, extensions: dict[str, object], status: int, headers: dict[str, str] | None = None
) -> Response[dict[str, object]]:
    return Response(
        {"errors": [{"message": message, "extensions": extensions}]}, status_code=status, headers=headers or {}
    )


def _refuse_coding(request: Any) -> None:
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise UnsupportedMediaType(
            f"/graphql takes bodies as they are, not in {coding[:80]}.", field="Content-Encoding"
        )


def _require_known(request: Any) -> None:
    """Of an operation, before any of its body is waited for; the page that it is typed into is for anybody."""
    if read_principal(request.request.scope) is None:
        ask_who(request.request.scope)


def _make_response() -> Response[dict[str, object]]:
    return Response({}, background=BackgroundTasks([]))
