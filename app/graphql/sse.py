"""Answers over Server-Sent Events, in the "distinct connections" mode of graphql-sse.

Strawberry writes `next`, `complete` and the comments that keep a connection open. What is added is the id of an event:
the cursor in it, which a browser sends back as Last-Event-ID when it connects again by itself.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
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


class _Cursored(msgspec.Struct):
    cursor: str | None = None


def _find_cursor(data: object) -> str | None:
    """The `cursor` that was asked for of the one field of a subscription, in data that may be JSON already."""
    try:
        if isinstance(data, msgspec.Raw):
            fields = msgspec.json.decode(data, type=dict[str, _Cursored])
        else:
            fields = msgspec.convert(data, dict[str, _Cursored])
    except msgspec.ValidationError:
        return None
    cursors = [field.cursor for field in fields.values()]
    # An alias may have put anything in its place.
    return cursors[0] if len(cursors) == 1 and cursors[0] is not None and cursors[0].isdecimal() else None
