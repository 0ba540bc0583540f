"""The object types that show what other rooms have made: columns, counts, answers."""

from __future__ import annotations

from datetime import datetime

import strawberry

from app.history.machines import FleetState
from app.ingest.merge import OnConflict
from app.ingest.refusal import Rejection as RefusedReading
from app.ingest.writer import IngestResult as WrittenResult
from app.liveness.pulse import Liveness

strawberry.enum(OnConflict, description=OnConflict.__doc__)


@strawberry.type(
    description="All machines at a glance. Each one is in exactly one of live, stale, silent and neverSeen."
)
class Fleet:
    machines: int
    operational: int
    live: int
    stale: int
    silent: int
    never_seen: int
    last_seen_at: datetime | None

    @classmethod
    def view(cls, state: FleetState) -> Fleet:
        return cls(
            machines=state.machines,
            operational=state.operational,
            live=state.liveness[Liveness.LIVE],
            stale=state.liveness[Liveness.STALE],
            silent=state.liveness[Liveness.SILENT],
            never_seen=state.liveness[Liveness.NEVER_SEEN],
            last_seen_at=state.last_seen_at,
        )


@strawberry.type(description="Why the reading at `index` of the batch was refused.")
class Rejection:
    index: int
    code: str
    message: str

    @classmethod
    def view(cls, refused: RefusedReading) -> Rejection:
        return cls(index=refused.index, code=refused.code.value, message=refused.message)


@strawberry.type(
    description="How many readings added something, said what was known, disagreed with it, and were refused; "
    "`rejected` names the first 1,000 of those."
)
class IngestResult:
    accepted: int
    duplicates: int
    conflicts: int
    rejected_count: int
    rejected: list[Rejection]

    @classmethod
    def view(cls, result: WrittenResult) -> IngestResult:
        return cls(
            accepted=result.accepted,
            duplicates=result.duplicates,
            conflicts=result.conflicts,
            rejected_count=result.rejected_count,
            rejected=[Rejection.view(refused) for refused in result.rejected],
        )
