"""Answers over Server-Sent Events, in the "distinct connections" mode of graphql-sse.

Strawberry writes `next`, `complete` and the comments that keep a connection open. What is added is the id of an event:
the cursor in it, which a browser sends back as Last-Event-ID when it connects again by itself.
"""

from __future__ import annotations

from collections.abc import Callable

from strawberry.http import GraphQLHTTPResponse
from strawberry.http.streaming import SSETransport

KEEP_ALIVE = 15.0  # seconds between comments; proxies give up on a connection that is silent for 30 and more


class EventStream(SSETransport):
    """Strawberry's, with ids."""

    def __init__(self) -> None:
        super().__init__(heartbeat_interval=KEEP_ALIVE)

    def encode_next(self, response: GraphQLHTTPResponse, encode_json: Callable[[object], str]) -> str:
        event = super().encode_next(response, encode_json)
        cursor = _find_cursor(response.get("data"))
        return event if cursor is None else f"id: {cursor}\r\n{event}"


def _find_cursor(data: object) -> str | None:
    """The `cursor` that was asked for of the one field of a subscription."""
    fields = list(data.values()) if isinstance(data, dict) else []
    cursor = fields[0].get("cursor") if len(fields) == 1 and isinstance(fields[0], dict) else None
    # An alias may have put anything in its place.
    return cursor if isinstance(cursor, str) and cursor.isdecimal() else None
