"""What happens to an operation over a WebSocket that Strawberry's handler doesn't do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from itertools import count
from typing import Any

from graphql import GraphQLError
from strawberry.http.exceptions import WebSocketDisconnected
from strawberry.litestar.controller import LitestarWebSocketAdapter
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import BaseGraphQLTransportWSHandler, Operation
from strawberry.subscriptions.protocols.graphql_transport_ws.types import (
    ConnectionInitMessage,
    Message,
    SubscribeMessage,
)

from app.access.principal import Principal
from app.correlation import begin_part, read_correlation_id
from app.errors import Forbidden, RequestError, TooManyOperations, Unauthenticated
from app.graphql.context import Context
from app.graphql.operations import SentDocument, carry_document_id

# To clients of this protocol it says that another attempt, with other credentials, may be let in.
FORBIDDEN = 4403
TRY_AGAIN_LATER = 1013
LONGEST_REASON = 123  # bytes, that fit into the frame

logger = logging.getLogger(__name__)


class Socket(LitestarWebSocketAdapter):
    """Strawberry's, which is read no further once it is closed: a client may have sent more before it knew."""

    _closed = False

    async def iter_json(self, *, ignore_parsing_errors: bool = False) -> AsyncGenerator[object, None]:
        async for message in super().iter_json(ignore_parsing_errors=ignore_parsing_errors):
            if self._closed:
                return
            yield message

    async def send_json(self, message: Mapping[str, object]) -> None:
        try:
            await super().send_json(message)
        except OSError as error:  # as servers tell, by ASGI, that the client has gone
            raise WebSocketDisconnected from error

    async def close(self, code: int, reason: str) -> None:
        if not self._closed:
            self._closed = True
            await super().close(code, reason)


class WebSocketHandler(BaseGraphQLTransportWSHandler[Context, None]):
    """graphql-transport-ws with documents by their names, and with an id for each operation.

    A connection is one request, and may last for days: no longer than whoever has opened it may.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._numbers = count(1)
        self._watch: asyncio.Task[None] | None = None

    async def handle_connection_init(self, message: ConnectionInitMessage) -> None:
        payload: Any = message.get("payload") or {}
        if self.context.principal is None and isinstance(payload, dict) and not self.connection_init_received:
            try:
                await self.context.admit(payload)
            except RequestError as error:
                refused = isinstance(error, (Unauthenticated, Forbidden))
                await self._close(FORBIDDEN if refused else TRY_AGAIN_LATER, str(error))
                return
        await super().handle_connection_init(message)
        principal = self.context.principal
        if self._watch is None and principal is not None and principal.can_end:
            self._watch = asyncio.create_task(self._close_at_end(principal))

    async def handle_message(self, message: Message) -> None:
        # Operations are kept by their ids, and not every value of JSON can be a key.
        if not isinstance(message.get("id", ""), str):
            await self.handle_invalid_message("The id of a message must be a text")
            return
        await super().handle_message(message)

    async def shutdown(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        await super().shutdown()

    async def _close_at_end(self, principal: Principal) -> None:
        await self._close(FORBIDDEN, await self.context.rooms.entrance.wait_for_end(principal))

    async def _close(self, code: int, reason: str) -> None:
        with suppress(WebSocketDisconnected):  # the client was first
            await self.websocket.close(code, reason.encode()[:LONGEST_REASON].decode(errors="ignore"))

    async def handle_subscribe(self, message: SubscribeMessage) -> None:
        payload: Any = message["payload"]
        if not isinstance(payload, dict):
            await self.handle_invalid_message("The payload of subscribe must be an object")
            return
        if self._is_full and message["id"] not in self.operations:
            await self._refuse_one_more(message["id"])
            return
        sent = carry_document_id(payload)
        document: Any = SentDocument(sent.get("query"), sent.get("extensions"))
        await super().handle_subscribe({**message, "payload": {**payload, "query": document}})  # type: ignore[typeddict-item]  # Any

    @property
    def _is_full(self) -> bool:
        most = self.max_subscriptions_per_connection
        return most is not None and self.connection_acknowledged and len(self.operations) >= most

    async def _refuse_one_more(self, operation: str) -> None:
        error = TooManyOperations(
            f"This WebSocket has {self.max_subscriptions_per_connection} operations under way, as many as it may: end one, or open "
            "another WebSocket."
        )
        extensions = {**error.extensions, "correlationId": read_correlation_id()}
        refusal = GraphQLError(str(error), extensions=extensions)
        await self.send_message({"id": operation, "type": "error", "payload": [refusal.formatted]})

    async def handle_task_exception(self, error: Exception) -> None:
        # A client may go while it's being told something, and nothing is wrong then.
        if not isinstance(error, WebSocketDisconnected):
            logger.error("An operation over a WebSocket failed.", exc_info=error)

    async def run_operation(self, operation: Operation[Context, None]) -> None:
        begin_part(next(self._numbers))
        await super().run_operation(operation)
