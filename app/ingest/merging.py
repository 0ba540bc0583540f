"""Merges readings with what is stored of their machines and instants, as `merge` says, in a transaction of the caller."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import TypeAlias

import msgspec

from app.database import Connection
from app.errors import DatabaseBusy
from app.ingest.merge import OnConflict, Outcome, merge_metrics

Key: TypeAlias = tuple[str, datetime]

# A compressed batch is unpacked for one reading of it, and a transaction may unpack so many rows: by default 100,000, which
# a hundred readings come to.
_UNPACK_ALL = "SET LOCAL timescaledb.max_tuples_decompressed_per_dml_transaction = 0"

CHUNK = 2_000  # keys of one statement; between two of them the process sees to its other clients


class Item(msgspec.Struct, frozen=True):
    """A reading, its metrics as JSON."""

    key: Key
    metrics: str
    on_conflict: OnConflict


class Replaced(msgspec.Struct, frozen=True):
    """Values of a reading that the item at `place` has put others in the place of, by the metrics' names."""

    place: int
    key: Key
    before: dict[str, float]
    after: dict[str, float]


class MergedRows(msgspec.Struct):
    """What each item did, in their order, None where that isn't known; the keys of the rows that were written; and what was
    replaced."""

    outcomes: list[Outcome | None]
    written: list[Key]
    replaced: list[Replaced]


Groups: TypeAlias = list[tuple[Key, list[int]]]

_metrics = msgspec.json.Decoder(dict[str, float])


async def plan_for_inserts(connection: Connection) -> None:
    """Lets the session keep its plans, until the pool gets it back.

    Our sessions plan every statement anew, for the time bounds in it. PostgreSQL's own look at `machines` for each row
    with a foreign key would be planned anew as well, for each row, which takes longer than storing it.
    """
    await connection.execute("SET plan_cache_mode = force_generic_plan")


async def merge_rows(connection: Connection, items: Sequence[Item], *, locking: bool = True) -> MergedRows:
    """Stores them all, and says what became of each.

    Rows that are there are locked, which TimescaleDB refuses where they are compressed (FeatureNotSupportedError). Without
    `locking` they aren't, and where somebody else has changed one meanwhile it raises DatabaseBusy.
    """
    merged = MergedRows([None] * len(items), [], [])
    groups = await asyncio.to_thread(_group, items) if len(items) > CHUNK else _group(items)
    for start in range(0, len(groups), CHUNK):
        await _merge_chunk(connection, items, dict(groups[start : start + CHUNK]), merged, locking)
    return merged


def _group(items: Sequence[Item]) -> Groups:
    groups: dict[Key, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(item.key, []).append(index)
    # In the order of the keys, so that two batches with the same rows lock them alike. They may still wait for each
    # other where one holds a row and the other makes a chunk: then one of them is tried again.
    return sorted(groups.items())


async def _merge_chunk(
    connection: Connection, items: Sequence[Item], groups: dict[Key, list[int]], merged: MergedRows, locking: bool
) -> None:
    """Inserts what is new and merges the rest."""
    fresh: dict[Key, str] = {}
    settled: dict[Key, _Settled] = {}
    for key, places in groups.items():
        if len(places) == 1:
            fresh[key], settled[key] = items[places[0]].metrics, _ALONE
        else:
            settled[key] = _settle({}, items, places)
            fresh[key] = _encode(settled[key].metrics)
    inserted = await _insert(connection, fresh)
    changed: dict[Key, str] = {}
    if known := [key for key in groups if key not in inserted]:
        await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
        stored = await _read_stored(connection, known, locking)
        for key, text in stored.items():
            metrics = _metrics.decode(text)
            settled[key] = _settle(metrics, items, groups[key])
            if settled[key].metrics != metrics:
                changed[key] = _encode(settled[key].metrics)
        if changed:
            if not locking:
                await connection.execute(_UNPACK_ALL)
            await _update(connection, changed, stored)
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
    for key, places in groups.items():
        for place, outcome in zip(places, settled[key].outcomes, strict=True):
            merged.outcomes[place] = outcome
        merged.replaced += settled[key].replaced
    merged.written += [*inserted, *changed]


class _Settled(msgspec.Struct, frozen=True):
    """What readings of one key come to, what each of them did, and what they have replaced."""

    metrics: dict[str, float]
    outcomes: list[Outcome]
    replaced: list[Replaced]


_ALONE = _Settled({}, [Outcome.ACCEPTED], [])  # whose metrics are as they came


def _settle(stored: dict[str, float], items: Sequence[Item], places: Sequence[int]) -> _Settled:
    settled = _Settled(stored, [], [])
    metrics = stored
    for place in places:
        item = items[place]
        merged = merge_metrics(metrics, [_metrics.decode(item.metrics)], item.on_conflict)
        settled.outcomes.extend(merged.outcomes)
        if item.on_conflict is OnConflict.OVERWRITE and Outcome.CONFLICT in merged.outcomes:
            before = {name: value for name, value in metrics.items() if merged.metrics[name] != value}
            after = {name: merged.metrics[name] for name in before}
            settled.replaced.append(Replaced(place, item.key, before, after))
        metrics = merged.metrics
    return _Settled(metrics, settled.outcomes, settled.replaced)


def _encode(metrics: dict[str, float]) -> str:
    return msgspec.json.encode(metrics).decode()


def _columns(keys: Sequence[Key]) -> tuple[list[str], list[datetime]]:
    return [machine_id for machine_id, _ in keys], [timestamp for _, timestamp in keys]


async def _insert(connection: Connection, rows: dict[Key, str]) -> set[Key]:
    found = await connection.fetch(
        """
        INSERT INTO raw_measurements (machine_id, timestamp, metrics)
        SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::jsonb[])
        ON CONFLICT (machine_id, timestamp) DO NOTHING
        RETURNING machine_id, timestamp
        """,
        *_columns(list(rows)),
        list(rows.values()),
    )
    return {(row["machine_id"], row["timestamp"]) for row in found}


async def _read_stored(connection: Connection, keys: Sequence[Key], locking: bool) -> dict[Key, str]:
    """The metrics of those that there are, in PostgreSQL's own words."""
    # The bounds are there for the planner: a hypertable then opens the chunks of the batch's range alone.
    machines, times = _columns(keys)
    found = await connection.fetch(
        f"""
        SELECT stored.machine_id, stored.timestamp, stored.metrics
        FROM unnest($1::text[], $2::timestamptz[]) AS wanted (machine_id, timestamp)
        JOIN raw_measurements AS stored USING (machine_id, timestamp)
        WHERE stored.timestamp BETWEEN $3 AND $4
        ORDER BY stored.machine_id, stored.timestamp
        {"FOR UPDATE OF stored" if locking else ""}
        """,
        machines,
        times,
        min(times),
        max(times),
    )
    return {(row["machine_id"], row["timestamp"]): row["metrics"] for row in found}


async def _update(connection: Connection, rows: dict[Key, str], stored: dict[Key, str]) -> None:
    machines, times = _columns(list(rows))
    done = await connection.execute(
        """
        UPDATE raw_measurements AS stored SET metrics = wanted.metrics
        FROM unnest($1::text[], $2::timestamptz[], $3::jsonb[], $4::jsonb[]) AS wanted (machine_id, timestamp, metrics, known)
        WHERE stored.machine_id = wanted.machine_id AND stored.timestamp = wanted.timestamp
          AND stored.timestamp BETWEEN $5 AND $6 AND stored.metrics = wanted.known
        """,
        machines,
        times,
        list(rows.values()),
        [stored[key] for key in rows],
        min(times),
        max(times),
    )
    if done != f"UPDATE {len(rows)}":
        raise DatabaseBusy("Others changed the same readings at the same time: try again in a moment.")
