"""Events, written in the transaction that makes them true and read back in the order in which they were committed.

The lock that `publish_event` takes is held until COMMIT, so ids become visible in their order: whoever has read up to
an id has missed nothing before it, and an id is all that a cursor has to hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

import asyncpg
import msgspec

from app.database import Connection

CHANNEL = "aurum_outbox"

# Any number will do, as long as every process of one database asks for the same lock.
_LOCK = 4_727_201_002


class Topic(Enum):
    """What an event is about, and what its payload holds."""

    MEASUREMENTS = "measurements"  # {machine_id: [microseconds since 1970, of each reading written]}
    # [[machine_id, microseconds since 1970, model_version], ...] of predictions written together
    PREDICTIONS = "predictions"
    # {alert_id, machine_id, action, severity} of one alert: what happened to it, and the higher of its severities before and after
    ALERTS = "alerts"
    # {machine_id: {liveness, seen_at, at}} of machines that went silent or are heard again, instants as above
    LIVENESS = "liveness"


class Event(msgspec.Struct, frozen=True):
    """One row of the outbox; `payload` as its topic says, `created_at` when the transaction began that wrote it."""

    id: int
    topic: Topic
    payload: Any
    created_at: datetime


class OutboxState(msgspec.Struct, frozen=True):
    """How the outbox stands: the newest id, 0 where there is no event; ages in seconds, of the oldest event that is kept and
    of the oldest behind a position (`lag`), 0 where there is none, or where the clock was set back since."""

    newest_id: int
    oldest_age: float
    lag: float


class Publication(msgspec.Struct, frozen=True):
    """An event that was written, for `is_committed`; `transaction` is PostgreSQL's 64-bit id of it."""

    id: int
    transaction: int
    payload: str


async def publish_event(connection: Connection, topic: Topic, payload: Any) -> Publication:
    """Writes an event; to be called last in a transaction, since every other publisher waits from here to its end."""
    text = msgspec.json.encode(payload).decode()
    # The row of `lock` is there once the lock is held, and only then the insert takes its id.
    row = await connection.fetchrow(
        f"""
        WITH lock AS MATERIALIZED (SELECT pg_advisory_xact_lock({_LOCK})),
        event AS (INSERT INTO outbox (topic, payload) SELECT $1, $2::jsonb FROM lock RETURNING id)
        SELECT id, pg_current_xact_id()::text AS transaction, pg_notify($3, id::text) FROM event
        """,
        topic.value,
        text,
        CHANNEL,
    )
    assert row is not None  # noqa: S101 - one row was inserted
    return Publication(row["id"], int(row["transaction"]), text)


async def publish_events(connection: Connection, topic: Topic, payloads: Sequence[object]) -> None:
    """Writes several events, in their order, by the rule of `publish_event`."""
    await connection.execute(
        f"""
        WITH lock AS MATERIALIZED (SELECT pg_advisory_xact_lock({_LOCK})),
        event AS (
            INSERT INTO outbox (topic, payload)
            SELECT $1, payload::jsonb FROM lock, unnest($2::text[]) WITH ORDINALITY AS given (payload, place)
            ORDER BY place
            RETURNING id
        )
        SELECT pg_notify($3, max(id)::text) FROM event
        """,
        topic.value,
        [msgspec.json.encode(payload).decode() for payload in payloads],
        CHANNEL,
    )


async def is_committed(connection: Connection, published: Publication) -> bool | None:
    """Whether an event's transaction was committed, None while it's still under way.

    To be asked on another connection, where the event's own broke before it could tell.
    """
    try:
        status = await connection.fetchval("SELECT pg_xact_status($1::text::xid8)", str(published.transaction))
    except asyncpg.InvalidParameterValueError:
        return False  # a server that crashed has forgotten that it gave out the id
    if status == "in progress":
        return None
    # Such a server may also have given the id to another transaction since. The event itself can't be mistaken.
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM outbox WHERE id = $1 AND payload = $2::jsonb)", published.id, published.payload
        )
    )


async def end_transaction(connection: Connection, published: Publication) -> None:
    """Ends an event's transaction where it is still under way; to be asked where its connection broke, as above.

    A server that has not heard that its client is gone would wait for it, for hours, with every publisher behind it.
    """
    await connection.execute(
        """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND backend_xid = ($1::text::xid8)::xid
        """,
        str(published.transaction),
    )


async def find_newest_id(connection: Connection) -> int:
    """The id of the newest event; 0 where there is none."""
    return int(await connection.fetchval("SELECT coalesce(max(id), 0) FROM outbox"))


async def find_oldest_id(connection: Connection) -> int:
    """The oldest id from which one can go on without having missed anything."""
    return int(await connection.fetchval("SELECT coalesce(min(id), 0) FROM outbox"))


async def read_outbox_state(connection: Connection, position: int) -> OutboxState:
    """How the outbox stands, seen from whoever has read up to `position`."""
    row = await connection.fetchrow(
        """
        SELECT coalesce((SELECT max(id) FROM outbox), 0) AS newest,
               greatest(extract(epoch FROM clock_timestamp()
                                         - (SELECT created_at FROM outbox ORDER BY id LIMIT 1)), 0)::float8 AS oldest,
               greatest(extract(epoch FROM clock_timestamp()
                                         - (SELECT created_at FROM outbox WHERE id > $1 ORDER BY id LIMIT 1)), 0)::float8 AS lag
        """,
        position,
    )
    assert row is not None  # noqa: S101 - without FROM there is one row
    return OutboxState(row["newest"], row["oldest"], row["lag"])


async def read_events(connection: Connection, after: int, topics: Iterable[Topic], limit: int) -> list[Event]:
    """Up to `limit` events of these topics that follow `after`, in order."""
    rows = await connection.fetch(
        "SELECT id, topic, payload, created_at FROM outbox WHERE id > $1 AND topic = ANY($2::text[]) ORDER BY id LIMIT $3",
        after,
        [topic.value for topic in topics],
        limit,
    )
    return [
        Event(row["id"], Topic(row["topic"]), msgspec.json.decode(row["payload"]), row["created_at"]) for row in rows
    ]


async def forget_events(connection: Connection, retention: timedelta) -> int:
    """Deletes what is older than `retention`, all but the newest of it: that row marks how far back one can resume."""
    status = await connection.execute(
        """
        DELETE FROM outbox WHERE id < (SELECT max(id) FROM outbox WHERE created_at < now() - $1::interval)
        """,
        retention,
    )
    return int(status.split()[-1])
