"""`/graphql`: POST, WebSocket (graphql-transport-ws) and Server-Sent Events, through Strawberry's controller for Litestar.

No page is served for browsers: Strawberry's GraphiQL loads its scripts from a CDN, which a plant's network may not reach.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from cross_web import HTTPException
from litestar import Controller, Request, Response
from litestar.background_tasks import BackgroundTasks
from litestar.di import Provide
from strawberry.litestar import make_graphql_controller
from strawberry.subscriptions import GRAPHQL_SSE_PROTOCOL, GRAPHQL_TRANSPORT_WS_PROTOCOL

from app.graphql.context import Context, Rooms
from app.graphql.protection import Protection
from app.graphql.schema import make_served_schema
from app.graphql.sse import EventStream
from app.graphql.websocket import WebSocketHandler


def make_controller(rooms: Rooms, protection: Protection) -> type[Controller]:
    """A Litestar controller that serves the schema over these rooms, within these bounds."""

    async def get_context() -> Context:
        return Context.make(rooms)

    base = make_graphql_controller(
        make_served_schema(protection),
        path="/graphql",
        graphql_ide=None,
        allow_queries_via_get=False,
        context_getter=get_context,
        subscription_protocols=(GRAPHQL_TRANSPORT_WS_PROTOCOL, GRAPHQL_SSE_PROTOCOL),
    )

    class GraphQLController(base):  # type: ignore[misc, valid-type]  # made by a function, as Strawberry offers it
        # Strawberry would make the empty response in a thread of its own.
        dependencies = {**base.dependencies, "response": Provide(_make_response, sync_to_thread=False)}  # noqa: RUF012 - Litestar's way
        stream_transport_classes_by_protocol = {GRAPHQL_SSE_PROTOCOL: EventStream}  # noqa: RUF012 - Strawberry's way

        graphql_transport_ws_handler_class = WebSocketHandler

        def encode_json(self, data: object) -> bytes:
            return msgspec.json.encode(data)

        def decode_json(self, data: str | bytes) -> object:
            try:
                return msgspec.json.decode(data, type=dict[str, Any])
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                # What Strawberry answers with 400.
                raise json.JSONDecodeError(str(error), "", 0) from error

        async def execute_request(
            self, request: Request[Any, Any, Any], context: Any, root_value: Any
        ) -> Response[Any]:
            try:
                response: Response[Any] = await self.run(request, context=context, root_value=root_value)
            except HTTPException as error:
                answer = {"errors": [{"message": error.reason, "extensions": {"code": "BAD_REQUEST"}}]}
                return Response(answer, status_code=error.status_code)
            return response

    return GraphQLController


def _make_response() -> Response[dict[str, object]]:
    return Response({}, background=BackgroundTasks([]))
