"""Where machines are, for what can't be narrowed by a statement: readings on their way in, and events on their way out.

It is looked up as seldom as can be: a machine that is moved is still where it was for whoever is bound to locations, for
HOLDS seconds.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from app.access.principal import Principal
from app.cache import BoundedCache
from app.database import Database
from app.ingest.merge import OnConflict
from app.ingest.message import Submission
from app.ingest.refusal import Refusals, describe_unknown_machine
from app.ingest.writer import IngestResult, Writer

HOLDS = 5.0  # seconds that what was found holds
KEPT = 100_000  # machines


class MachineLocations:
    """The locations of machines, as this process knows them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: BoundedCache[str, tuple[str, float]] = BoundedCache(entries=KEPT, size=KEPT)

    async def find_visible(self, machine_ids: Collection[str], locations: frozenset[str]) -> frozenset[str]:
        """Those of the machines that are at one of these locations. Raises DatabaseUnavailable."""
        now = time.monotonic()
        visible: set[str] = set()
        asked: list[str] = []
        for machine_id in machine_ids:
            known = self._known.get(machine_id)
            if known is None or known[1] <= now:
                asked.append(machine_id)
            elif known[0] in locations:
                visible.add(machine_id)
        if asked:
            for machine_id, location in await self._look_up(asked):
                self._known.put(machine_id, (location, now + HOLDS), 1)
                if location in locations:
                    visible.add(machine_id)
        return frozenset(visible)

    async def _look_up(self, machine_ids: list[str]) -> list[tuple[str, str]]:
        async with self._database.reading() as connection:
            rows = await connection.fetch(
                "SELECT machine_id, location FROM machines WHERE machine_id = ANY($1::text[])", machine_ids
            )
        return [(row["machine_id"], row["location"]) for row in rows]


class BoundWriter(Writer):
    """Another writer, for somebody who is bound to these locations: any other machine is one that isn't registered."""

    def __init__(self, writer: Writer, machines: MachineLocations, locations: frozenset[str]) -> None:
        self._writer = writer
        self._machines = machines
        self._locations = locations
        self.patience = writer.patience

    async def commit(self, submission: Submission, on_conflict: OnConflict, by: Principal) -> IngestResult:
        """Stores what is about machines at these locations, as the writer does, and refuses the rest."""
        named = {row[0] for row in submission.rows}
        visible = await self._machines.find_visible(named, self._locations)
        if not named <= visible:
            submission = _leave_out(submission, visible)
        return await self._writer.commit(submission, on_conflict, by)


def _leave_out(submission: Submission, visible: frozenset[str]) -> Submission:
    refusals = Refusals()
    rows, places = [], []
    for row, place in zip(submission.rows, submission.places, strict=True):
        if row[0] in visible:
            rows.append(row)
            places.append(place)
        else:
            refusals.add(place, describe_unknown_machine(row[0]))
    refusals.merge([submission.refusals])
    return Submission(rows, places, refusals)
