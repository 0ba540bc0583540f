"""Alerts and predictions as they are stored: what a record of either table says, and those that are asked for by key."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from app.database import Connection
from app.insight.alerts import StoredAlert
from app.insight.predictions import PredictionKey, StoredPrediction

ALERT_COLUMNS = ", ".join(StoredAlert.__struct_fields__)
PREDICTION_COLUMNS = ", ".join(StoredPrediction.__struct_fields__)


def decode_alert(row: asyncpg.Record) -> StoredAlert:
    """A StoredAlert of a record with ALERT_COLUMNS."""
    return msgspec.convert({**row, "evidence": msgspec.json.decode(row["evidence"])}, StoredAlert)


def decode_prediction(row: asyncpg.Record) -> StoredPrediction:
    """A StoredPrediction of a record with PREDICTION_COLUMNS."""
    return StoredPrediction(**{**row, "features_used": msgspec.json.decode(row["features_used"])})


async def find_alerts(connection: Connection, alert_ids: Sequence[int]) -> dict[int, StoredAlert]:
    """Those of the alerts that there are, by id."""
    rows = await connection.fetch(f"SELECT {ALERT_COLUMNS} FROM alerts WHERE id = ANY($1::bigint[])", list(alert_ids))
    return {row["id"]: decode_alert(row) for row in rows}


async def find_predictions(
    connection: Connection, keys: Sequence[PredictionKey], *, locked: bool = False
) -> dict[PredictionKey, StoredPrediction]:
    """Those of the predictions that there are, by key; `locked` until the transaction ends."""
    if not keys:
        return {}
    times = [key.timestamp for key in keys]
    columns = ", ".join(f"stored.{name}" for name in StoredPrediction.__struct_fields__)
    # The bounds are there for the planner: a hypertable then opens the chunks of the range alone.
    rows = await connection.fetch(
        f"""
        SELECT {columns}
        FROM unnest($1::text[], $2::timestamptz[], $3::text[]) AS wanted (machine_id, timestamp, model_version)
        JOIN predictions AS stored USING (machine_id, timestamp, model_version)
        WHERE stored.timestamp BETWEEN $4 AND $5
        ORDER BY stored.machine_id, stored.timestamp, stored.model_version
        {"FOR UPDATE OF stored" if locked else ""}
        """,
        [key.machine_id for key in keys],
        times,
        [key.model_version for key in keys],
        min(times),
        max(times),
    )
    found = [decode_prediction(row) for row in rows]
    return {each.key: each for each in found}


async def find_registered(connection: Connection, machine_ids: Sequence[str]) -> set[str]:
    """Those of the machines that are registered, and stay so until the transaction ends."""
    rows: list[Any] = await connection.fetch(
        "SELECT machine_id FROM machines WHERE machine_id = ANY($1::text[]) FOR KEY SHARE", list(machine_ids)
    )
    return {row["machine_id"] for row in rows}


async def read_database_clock(connection: Connection) -> datetime:
    """Now, by the clock that all processes of the service share."""
    now: datetime = await connection.fetchval("SELECT clock_timestamp()")
    return now
