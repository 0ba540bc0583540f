"""What a resolver may reach: the rooms below, and loaders that live as long as one operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import msgspec
import strawberry
from strawberry.litestar import BaseContext

from app.access.principal import Principal
from app.database import Database
from app.events.fanout import Fanout
from app.graphql.loaders import Loaders
from app.graphql.sharing import Answers
from app.history.series import SeriesLimits
from app.ingest.message import Limits
from app.ingest.writer import Writer
from app.instants import read_clock
from app.liveness.pulse import LivenessLimits
from app.measures import OperationMeasures
from app.timescale.hypertable import Hypertable
from app.tracing import Tracing


@dataclass(frozen=True)
class Rooms:
    """What `main` has wired together for the resolvers; `declared` are the hypertables by table name, `max_page_rows` is
    how many rows a page, and groups an aggregate, may have."""

    database: Database
    writer: Writer
    limits: Limits
    fanout: Fanout
    answers: Answers
    operations: OperationMeasures
    liveness: LivenessLimits
    series: SeriesLimits
    declared: Mapping[str, Hypertable]
    max_page_rows: int
    tracing: Tracing | None = None


class Context(BaseContext, kw_only=True):
    """One per request, or one per WebSocket connection; `begin_operation` makes one per operation of it.

    `now` is the same for all of an operation, so that parts of one answer agree. `principal` is whoever asks.
    `connection_params` are the WebSocket's: strawberry loses them where the field isn't declared.
    """

    rooms: Rooms
    now: datetime
    loaders: Loaders
    principal: Principal
    connection_params: dict[str, Any] | None = None

    @classmethod
    def make(cls, rooms: Rooms, principal: Principal) -> Context:
        loaders = Loaders(rooms.database, rooms.series)
        return cls(rooms=rooms, now=read_clock(), loaders=loaders, principal=principal)

    @property
    def actor(self) -> str:
        """Whoever asks, as transitions keep it."""
        return self.principal.name

    @property
    def last_event_id(self) -> str | None:
        """The cursor that a browser was at when its event stream broke off, and which it sends by itself."""
        return None if self.request is None else self.request.headers.get("last-event-id")

    def begin_operation(self) -> Context:
        return msgspec.structs.replace(self, now=read_clock(), loaders=Loaders(self.rooms.database, self.rooms.series))


Info: TypeAlias = strawberry.Info[Context, None]
