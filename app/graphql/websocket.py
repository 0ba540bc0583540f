"""What happens to an operation over a WebSocket that Strawberry's handler doesn't do."""

from __future__ import annotations

from itertools import count
from typing import Any

from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import BaseGraphQLTransportWSHandler, Operation

from app.correlation import begin_part
from app.graphql.context import Context


class WebSocketHandler(BaseGraphQLTransportWSHandler[Context, None]):
    """graphql-transport-ws, with an id for each operation: a connection is one request, and may last for days."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._numbers = count(1)

    async def run_operation(self, operation: Operation[Context, None]) -> None:
        begin_part(next(self._numbers))
        await super().run_operation(operation)
