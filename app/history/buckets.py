"""Buckets of time in any time zone, in SQL that every edition answers alike. Pure.

Whole days are the zone's own: a bucket of one begins at local midnight, and lasts 23 or 25 hours where the clocks change.
Anything else is absolute: every bucket lasts as long, whatever the clocks do. Both are counted from midnight of Monday,
2000-01-03 in the zone, so that weeks begin on Mondays, and hours where the zone has them on that day.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from zoneinfo import available_timezones

from app.errors import InvalidInput
from app.history.clauses import Clause

ORIGIN = "TIMESTAMP '2000-01-03 00:00:00'"
NARROWEST = timedelta(milliseconds=1)
WIDEST = timedelta(days=36_500)
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Bucket:
    """Buckets of `width` over a field of instants, in a time zone by its IANA name."""

    column: str
    width: timedelta
    time_zone: str = "UTC"

    @property
    def is_local(self) -> bool:
        return not self.width % _DAY

    def check(self, path: str) -> None:
        """Raises InvalidInput for a width or a time zone that can't be; `path` is where the bucket came from."""
        if not NARROWEST <= self.width <= WIDEST:
            raise InvalidInput(
                f"{path}.width must be from a millisecond to {WIDEST.days:,} days, such as PT1H or P1D.",
                field=f"{path}.width",
            )
        if self.time_zone not in _list_time_zones():
            raise InvalidInput(
                f"{path}.timeZone is not the name of a time zone: it is one of IANA's, such as Europe/Berlin.",
                field=f"{path}.timeZone",
            )

    def write_group(self, instant: str) -> Clause:
        """What rows are grouped by: of days a local time, else an instant."""
        if self.is_local:
            return Clause(
                f"date_bin($$::interval, {instant} AT TIME ZONE $$::text, {ORIGIN})", (self.width, self.time_zone)
            )
        return Clause(
            f"date_bin($$::interval, {instant}, {ORIGIN} AT TIME ZONE $$::text)",
            (self.width, self.time_zone),
        )

    def write_start(self, group: str) -> Clause:
        """The instant at which a bucket begins, of what `write_group` has made."""
        if not self.is_local:
            return Clause(group)
        zone = self.time_zone
        # Where clocks go back over midnight it comes twice, and PostgreSQL takes the later one.
        return Clause(
            f"CASE WHEN ({group} AT TIME ZONE $$::text - interval '1 hour') AT TIME ZONE $$::text = {group} "
            f"THEN {group} AT TIME ZONE $$::text - interval '1 hour' ELSE {group} AT TIME ZONE $$::text END",
            (zone, zone, zone, zone),
        )


@cache
def _list_time_zones() -> frozenset[str]:
    return frozenset(available_timezones())
