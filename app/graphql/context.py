"""What a resolver may reach: the rooms below, and loaders that live as long as one operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeAlias

import msgspec
import strawberry
from strawberry.litestar import BaseContext

from app.access.allowance import Allowance
from app.access.entrance import Entrance
from app.access.locations import BoundWriter, MachineLocations
from app.access.principal import Principal
from app.access.visibility import VisibleDatabase
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
    """What `main` has wired together for the resolvers. `database` and `writer` are as whoever asks sees them; `whole` is the
    database for what is checked by other means: `visibility` has these. `declared` are the hypertables by table name, `max_page_rows` is
    how many rows a page, and groups an aggregate, may have. `queries` and `intake` are what everybody may ask for, None without end."""

    entrance: Entrance
    locations: MachineLocations
    whole: Database
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
    queries: Allowance | None = None
    intake: Allowance | None = None

    def see(self, principal: Principal | None) -> Rooms:
        """The same for somebody, who may be bound to locations."""
        if principal is None or principal.locations is None:
            return self
        return replace(
            self,
            database=VisibleDatabase(self.whole, principal.locations),
            writer=BoundWriter(self.writer, self.locations, principal.locations),
        )


class Context(BaseContext, kw_only=True):
    """One per request, or one per WebSocket connection; `begin_operation` makes one per operation of it.

    `now` is the same for all of an operation, so that parts of one answer agree. `principal` is whoever asks, None as long as
    that isn't known: nothing is executed then.
    `connection_params` are the WebSocket's: strawberry loses them where the field isn't declared.
    """

    rooms: Rooms
    now: datetime
    loaders: Loaders
    principal: Principal | None
    connection_params: dict[str, Any] | None = None

    @classmethod
    def make(cls, rooms: Rooms, principal: Principal | None) -> Context:
        seen = rooms.see(principal)
        return cls(rooms=seen, now=read_clock(), loaders=Loaders(seen.database, seen.series), principal=principal)

    async def admit(self, payload: Mapping[str, Any]) -> None:
        """Finds out who asks over a WebSocket, by its connection_init or by the headers that it began with. Raises as Entrance."""
        assert self.websocket is not None  # noqa: S101 - only a WebSocket says later who asks
        self.principal = await self.rooms.entrance.identify_opener(self.websocket.scope, payload)
        self.rooms = self.rooms.see(self.principal)

    @property
    def asker(self) -> Principal:
        """Whoever asks, in what is executed."""
        assert self.principal is not None  # noqa: S101 - nothing is executed for nobody
        return self.principal

    @property
    def actor(self) -> str:
        """Whoever asks, as transitions keep it."""
        return "nobody" if self.principal is None else self.principal.name

    @property
    def last_event_id(self) -> str | None:
        """The cursor that a browser was at when its event stream broke off, and which it sends by itself."""
        return None if self.request is None else self.request.headers.get("last-event-id")

    def begin_operation(self) -> Context:
        return msgspec.structs.replace(self, now=read_clock(), loaders=Loaders(self.rooms.database, self.rooms.series))


Info: TypeAlias = strawberry.Info[Context, None]
