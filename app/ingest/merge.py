"""What becomes of readings of one machine at one instant when some were there before. Pure.

Arrives: the metrics that are stored, if any, and the readings in the order in which they came. Leaves: the metrics to
store, and for each reading what it did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

import msgspec


class OnConflict(Enum):
    """Which value stays when a known metric arrives with another value."""

    KEEP = "KEEP"
    OVERWRITE = "OVERWRITE"


class Outcome(Enum):
    """ACCEPTED added something; DUPLICATE said what was known; CONFLICT disagreed with it, whichever value stayed."""

    ACCEPTED = "ACCEPTED"
    DUPLICATE = "DUPLICATE"
    CONFLICT = "CONFLICT"


class Merged(msgspec.Struct, frozen=True):
    """`metrics` as they are to be stored, and one outcome per reading."""

    metrics: dict[str, float]
    outcomes: list[Outcome]


def merge_metrics(
    stored: Mapping[str, float] | None, arriving: Iterable[Mapping[str, float]], on_conflict: OnConflict
) -> Merged:
    """Merges readings one after the other: new names come in, a known name keeps its value unless OVERWRITE."""
    metrics = dict(stored or {})
    outcomes: list[Outcome] = []
    for reading in arriving:
        new = {name: value for name, value in reading.items() if name not in metrics}
        changed = {name: value for name, value in reading.items() if metrics.get(name, value) != value}
        metrics.update(new)
        if changed:
            outcomes.append(Outcome.CONFLICT)
            if on_conflict is OnConflict.OVERWRITE:
                metrics.update(changed)
        else:
            outcomes.append(Outcome.ACCEPTED if new else Outcome.DUPLICATE)
    return Merged(metrics, outcomes)
