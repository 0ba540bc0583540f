"""A reading as it is stored: a row of raw_measurements."""

from __future__ import annotations

from datetime import datetime

import asyncpg
import msgspec


class StoredReading(msgspec.Struct, frozen=True):
    """A row of raw_measurements; times are in UTC."""

    machine_id: str
    timestamp: datetime
    metrics: dict[str, float]
    created_at: datetime


def decode_reading(row: asyncpg.Record) -> StoredReading:
    """A StoredReading of a record with its four columns."""
    metrics = msgspec.json.decode(row["metrics"], type=dict[str, float])
    return StoredReading(row["machine_id"], row["timestamp"], metrics, row["created_at"])
