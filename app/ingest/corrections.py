"""What the record of changes keeps of readings whose values were replaced: one row for each request and transaction.

Readings that only add something leave no row: they are a record themselves, which is only ever added to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from app.access.audit import Change, Deed, Subject, record_changes
from app.database import Connection
from app.ingest.merging import Replaced
from app.instants import format_instant

MOST_TOLD = (
    1_000  # values before and after that are kept; the readings of each machine are counted however many they are
)


async def record_corrections(connection: Connection, deed: Deed, replaced: Sequence[Replaced]) -> None:
    """Writes down what one request has replaced; as `record_changes`, late in the transaction."""
    if not replaced:
        return
    counts = dict(sorted(Counter(each.key[0] for each in replaced).items()))
    before: dict[str, dict[str, object]] = {}
    after: dict[str, dict[str, object]] = {}
    told = 0
    for each in replaced:
        told += len(each.after)
        if told > MOST_TOLD:
            break
        machine_id, timestamp = each.key
        instant = format_instant(timestamp)
        # What the request found and what it left, where it names a reading twice.
        before.setdefault(machine_id, {}).setdefault(instant, each.before)
        after.setdefault(machine_id, {})[instant] = each.after
    name = next(iter(counts)) if len(counts) == 1 else f"{len(counts)} machines"
    change = Change(Subject.READINGS, name, {"values": before}, {"readings": counts, "values": after})
    await record_changes(connection, deed, [change])
