"""What everybody may ask for in a time, counted in the database for all processes together, and mostly without asking it.

A bucket is one instant: when it will be full again, were nothing more taken. To take units moves it on by the time in which as
many come back, in one statement and by the database's clock. What a process holds and doesn't spend stays with it, so
beyond the burst at most a share of it for each process can be spent at once, and over time never more than the rate.

Fails: RateLimited; DatabaseUnavailable and its like, where a share is used up and the database is away.
"""

from __future__ import annotations

import asyncio
import math
import time
from enum import Enum

from app.access.bucket import Purse, Rate
from app.access.principal import Principal
from app.cache import BoundedCache
from app.database import Database
from app.errors import RateLimited

KEPT = 10_000  # purses; one that is forgotten takes less than a share with it

# $2: units that are needed, $3: that are wanted, $4: the burst, $5: units that come back in a second. Instants are kept to the
# microsecond, and what rounding takes of a unit mustn't count as one. Who has spent more than the burst has done so by a clock
# that was ahead, or before the burst was lowered: then the burst is what was spent, or it would take as long to come back.
_TAKE = """
    INSERT INTO allowances AS kept (holder, full_at, granted)
    SELECT $1, now() + make_interval(secs => least($3::float8, $4::float8) / $5::float8), least($3::float8, $4::float8)
    ON CONFLICT (holder) DO UPDATE SET (full_at, granted) = (
        SELECT CASE WHEN spent > $4 + 0.001 THEN now() + make_interval(secs => $4 / $5)
                    ELSE greatest(kept.full_at, now()) + make_interval(secs => given / $5) END,
               CASE WHEN spent > $4 + 0.001 THEN 0 ELSE given END
        FROM (SELECT spent, greatest($2::float8, least($3, floor($4 - spent + 0.001))) AS given
              FROM (SELECT greatest(extract(epoch FROM kept.full_at - now())::float8, 0) * $5 AS spent) AS counted) AS known
    )
    WHERE greatest(extract(epoch FROM kept.full_at - now())::float8, 0) * $5 NOT BETWEEN $4 + 0.001 - $2 AND $4 + 0.001
    RETURNING granted
"""
_WAIT = """
    SELECT greatest(extract(epoch FROM full_at - now())::float8 - ($3::float8 - $2::float8) / $4::float8, 0)
    FROM allowances WHERE holder = $1
"""


class Kind(Enum):
    """What there is an allowance of, and the unit that it's counted in."""

    QUERY = "cost"
    INGEST = "bytes"


class _Held:
    """A purse, and who asks the database for it just now."""

    __slots__ = ("lock", "purse")

    def __init__(self) -> None:
        self.purse = Purse()
        self.lock = asyncio.Lock()


class Allowance:
    """One for each kind and process."""

    def __init__(self, database: Database, kind: Kind, rate: Rate) -> None:
        self._database = database
        self._kind = kind
        self._rate = rate
        self._held: BoundedCache[str, _Held] = BoundedCache(entries=KEPT, size=KEPT)

    async def spend(self, by: Principal, units: int) -> None:
        """Counts at least one unit; what is more than the burst takes all of it. Raises RateLimited, and then counts nothing."""
        units = min(max(units, 1), self._rate.burst)
        held = self._find(by)
        while not held.purse.take(units):
            async with held.lock:
                # Whoever had the lock before may have brought enough.
                if units > held.purse.held:
                    await self._ask(by, held.purse, units)

    async def wait_to_spend(self, by: Principal, units: int, patience: float) -> None:
        """Spends as soon as that can be done, within `patience` seconds."""
        deadline = time.monotonic() + patience
        while True:
            try:
                await self.spend(by, units)
            except RateLimited as error:
                if time.monotonic() + error.wait > deadline:
                    raise
                await asyncio.sleep(error.wait)
            else:
                return

    def give_back(self, by: Principal, units: int) -> None:
        """What was spent on something that is to be asked once more."""
        self._find(by).purse.put(min(max(units, 1), self._rate.burst))

    def _find(self, by: Principal) -> _Held:
        holder = _name_holder(by)
        held = self._held.get(holder)
        if held is None:
            held = _Held()
            self._held.put(holder, held, 1)
        return held

    async def _ask(self, by: Principal, purse: Purse, units: int) -> None:
        rate = self._rate
        wait = purse.find_wait(units, time.monotonic())
        if wait > 0:
            raise self._refuse(by, units, wait)
        needed = units - purse.held
        holder = f"{self._kind.value} {_name_holder(by)}"
        async with self._database.connection() as connection:
            granted = await connection.fetchval(
                _TAKE, holder, float(needed), float(max(needed, rate.share)), float(rate.burst), rate.per_second
            )
            if not granted:
                wait = (
                    await connection.fetchval(_WAIT, holder, float(needed), float(rate.burst), rate.per_second) or 0.0
                )
        if not granted:
            purse.note_refusal(units, time.monotonic() + wait)
            raise self._refuse(by, units, wait)
        purse.put(granted)

    def _refuse(self, by: Principal, units: int, wait: float) -> RateLimited:
        rate, seconds = self._rate, max(1, math.ceil(wait))
        unit = "bytes of readings" if self._kind is Kind.INGEST else "units of cost"
        return RateLimited(
            f"{by.name} may spend {rate.per_minute:,} {unit} in a minute, and at most {rate.burst:,} at once: "
            f"try again in {seconds:,} s, or ask for less.",
            wait=wait,
            told={
                "retryAfter": seconds,
                "allowance": {
                    "unit": self._kind.value,
                    "perMinute": rate.per_minute,
                    "burst": rate.burst,
                    "asked": units,
                },
            },
        )


def _name_holder(by: Principal) -> str:
    # Of several keys with one name each has its own.
    return by.name if by.key_id is None else f"key {by.key_id}"
