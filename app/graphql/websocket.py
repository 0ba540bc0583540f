"""What happens to an operation over a WebSocket that Strawberry's handler doesn't do."""

from __future__ import annotations

from itertools import count
from typing import Any

from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import BaseGraphQLTransportWSHandler, Operation
from strawberry.subscriptions.protocols.graphql_transport_ws.types import SubscribeMessage

from app.correlation import begin_part
from app.graphql.context import Context
from app.graphql.operations import SentDocument, carry_document_id


class WebSocketHandler(BaseGraphQLTransportWSHandler[Context, None]):
    """graphql-transport-ws with documents by their names, and with an id for each operation.

    A connection is one request, and may last for days.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._numbers = count(1)

    async def handle_subscribe(self, message: SubscribeMessage) -> None:
        payload: Any = message["payload"]
        if not isinstance(payload, dict):
            await self.handle_invalid_message("The payload of subscribe must be an object")
            return
        sent = carry_document_id(payload)
        document: Any = SentDocument(sent.get("query"), sent.get("extensions"))
        await super().handle_subscribe({**message, "payload": {**payload, "query": document}})  # type: ignore[typeddict-item]  # Any

    async def run_operation(self, operation: Operation[Context, None]) -> None:
        begin_part(next(self._numbers))
        await super().run_operation(operation)
