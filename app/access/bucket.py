"""How much somebody may ask for, and what a process holds of that. Pure: clocks are handed in.

An allowance is a bucket of units: so many come back in a minute, and at most `burst` are in it. Each process takes a share at a
time out of the bucket that all of them have in the database, and spends that without asking.
"""

from __future__ import annotations

from typing import Final

import msgspec

SHARES: Final = 10  # of a bucket, one of which a process takes at a time


class Rate(msgspec.Struct, frozen=True):
    """Units that come back in a minute, and that can be spent at once where nothing was spent for long."""

    per_minute: int
    burst: int

    @property
    def share(self) -> int:
        """Units that a process asks for at a time, where it needs no more."""
        return max(1, self.burst // SHARES)

    @property
    def per_second(self) -> float:
        return self.per_minute / 60


class Purse:
    """What a process holds of one allowance, and until when the database had no more to give."""

    __slots__ = ("held", "missing", "until")

    def __init__(self) -> None:
        self.held = 0
        self.missing = 0  # units that were asked for in vain
        self.until = 0.0

    def take(self, units: int) -> bool:
        """Spends the units, if they are all there."""
        if units > self.held:
            return False
        self.held -= units
        return True

    def put(self, units: int) -> None:
        self.held += units

    def note_refusal(self, units: int, until: float) -> None:
        """The database would have to be asked in vain for what `units` lack, or more, before that instant."""
        self.missing, self.until = units - self.held, until

    def find_wait(self, units: int, now: float) -> float:
        """Seconds before it's worth asking for what is lacking; 0 where it is already."""
        return max(self.until - now, 0.0) if units - self.held >= self.missing else 0.0
