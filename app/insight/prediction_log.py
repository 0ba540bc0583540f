"""Predictions in the database: records what models say, each once.

Fails: InvalidInput, NotFound and Conflict, which name the field; DatabaseUnavailable and its like.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

import asyncpg
import msgspec

from app.access.audit import Deed, Subject, describe_change, record_changes
from app.database import Connection, Database
from app.errors import Conflict, InvalidInput, NotFound, RequestError, blame
from app.events.outbox import Topic, publish_events
from app.ingest.merge import OnConflict
from app.insight.predictions import Forecast, PredictionKey, StoredPrediction, check_forecast
from app.insight.rows import (
    PREDICTION_COLUMNS,
    decode_prediction,
    find_predictions,
    find_registered,
    read_database_clock,
)
from app.instants import to_microseconds
from app.texts import quote_text

MOST_AT_ONCE = 1_000  # predictions of one request


async def record_prediction(
    database: Database, forecast: Forecast, on_conflict: OnConflict, deed: Deed
) -> StoredPrediction:
    """The prediction as it's stored. One that is stored already changes nothing; with other values it is a Conflict, or
    with OVERWRITE takes the old one's place and its id."""
    (stored,) = await _record(database, [forecast], on_conflict, [None], deed)
    return stored


async def record_predictions(
    database: Database, forecasts: Sequence[Forecast], on_conflict: OnConflict, deed: Deed
) -> list[StoredPrediction]:
    """All of them as they are stored, in their order, or none. Errors blame predictions.INDEX.FIELD."""
    if len(forecasts) > MOST_AT_ONCE:
        raise InvalidInput(
            f"predictions holds {len(forecasts):,}: send at most {MOST_AT_ONCE:,} at once.", field="predictions"
        )
    places = [f"predictions.{index}" for index in range(len(forecasts))]
    return await _record(database, forecasts, on_conflict, places, deed)


async def _record(
    database: Database,
    forecasts: Sequence[Forecast],
    on_conflict: OnConflict,
    places: Sequence[str | None],
    deed: Deed,
) -> list[StoredPrediction]:
    try:
        return await _record_once(database, forecasts, on_conflict, places, deed)
    except asyncpg.FeatureNotSupportedError:
        return await _record_once(database, forecasts, on_conflict, places, deed, packed=True)


async def _record_once(
    database: Database,
    forecasts: Sequence[Forecast],
    on_conflict: OnConflict,
    places: Sequence[str | None],
    deed: Deed,
    *,
    packed: bool = False,
) -> list[StoredPrediction]:
    """Raises FeatureNotSupportedError where one that is stored is compressed, unless it is said to be `packed`."""
    async with database.transaction() as connection:
        wanted = await _check(connection, forecasts, places)
        written = await _insert(connection, list(wanted.values()))
        if packed:
            await _unpack(connection, [each for key, each in wanted.items() if key not in written])
        stored = await find_predictions(connection, [key for key in wanted if key not in written], locked=True)
        changed = {key: wanted[key] for key, known in stored.items() if not known.says(wanted[key])}
        if on_conflict is OnConflict.KEEP:
            for key, place in zip(wanted, places, strict=True):
                if key in changed:
                    with blame(place):
                        raise _describe_conflict(key)
        written |= await _overwrite(connection, list(changed.values()))
        if written:
            await record_changes(
                connection,
                deed,
                [
                    describe_change(Subject.PREDICTION, str(each.prediction_id), stored.get(key), each)
                    for key, each in written.items()
                ],
            )
            await publish_events(connection, Topic.PREDICTIONS, [_tell_written(list(written))])
    return [{**stored, **written}[key] for key in wanted]


async def _check(
    connection: Connection, forecasts: Sequence[Forecast], places: Sequence[str | None]
) -> dict[PredictionKey, Forecast]:
    now = await read_database_clock(connection)
    known = await find_registered(connection, list({forecast.machine_id for forecast in forecasts}))
    wanted: dict[PredictionKey, Forecast] = {}
    for forecast, place in zip(forecasts, places, strict=True):
        with blame(place):
            checked = check_forecast(forecast, now)
            if checked.machine_id not in known:
                raise NotFound(f"No machine {quote_text(checked.machine_id)} is registered.", field="machineId")
            if checked.key in wanted:
                raise InvalidInput("The prediction is in the list twice, by machine, timestamp and modelVersion.")
        wanted[checked.key] = checked
    return wanted


def _describe_conflict(key: PredictionKey) -> RequestError:
    return Conflict(
        f"Model {key.model_version!r} has said otherwise of {key.machine_id!r} at that instant: "
        "say onConflict: OVERWRITE to replace it, or give another modelVersion."
    )


async def _insert(connection: Connection, forecasts: Sequence[Forecast]) -> dict[PredictionKey, StoredPrediction]:
    # In the order of the keys, so that two requests with the same predictions wait for each other and don't deadlock.
    rows = [
        {"prediction_id": str(uuid4()), **msgspec.to_builtins(forecast)}
        for forecast in sorted(forecasts, key=lambda forecast: forecast.key)
    ]
    if not rows:
        return {}
    names = ", ".join(rows[0])
    found = await connection.fetch(
        f"""
        INSERT INTO predictions ({names})
        SELECT {names} FROM jsonb_populate_recordset(NULL::predictions, $1::jsonb)
        ON CONFLICT (machine_id, timestamp, model_version) DO NOTHING
        RETURNING {PREDICTION_COLUMNS}
        """,
        msgspec.json.encode(rows).decode(),
    )
    return {each.key: each for each in map(decode_prediction, found)}


async def _unpack(connection: Connection, forecasts: Sequence[Forecast]) -> None:
    """TimescaleDB locks no row that is compressed, and unpacks what is written, be it the same again."""
    times = [forecast.timestamp for forecast in forecasts]
    # It unpacks a whole batch for each, and no more rows than this in a transaction unless told so.
    await connection.execute("SET LOCAL timescaledb.max_tuples_decompressed_per_dml_transaction = 0")
    await connection.execute(
        """
        UPDATE predictions AS stored SET risk_score = stored.risk_score
        FROM jsonb_populate_recordset(NULL::predictions, $1::jsonb) AS given
        WHERE stored.machine_id = given.machine_id AND stored.timestamp = given.timestamp
          AND stored.model_version = given.model_version AND stored.timestamp BETWEEN $2 AND $3
        """,
        msgspec.json.encode(forecasts).decode(),
        min(times),
        max(times),
    )


async def _overwrite(connection: Connection, forecasts: Sequence[Forecast]) -> dict[PredictionKey, StoredPrediction]:
    if not forecasts:
        return {}
    values = [name for name in Forecast.__struct_fields__ if name not in PredictionKey.__struct_fields__]
    times = [forecast.timestamp for forecast in forecasts]
    await connection.execute(
        f"""
        UPDATE predictions AS stored SET {", ".join(f"{name} = given.{name}" for name in values)}
        FROM jsonb_populate_recordset(NULL::predictions, $1::jsonb) AS given
        WHERE stored.machine_id = given.machine_id AND stored.timestamp = given.timestamp
          AND stored.model_version = given.model_version AND stored.timestamp BETWEEN $2 AND $3
        """,
        msgspec.json.encode(forecasts).decode(),
        min(times),
        max(times),
    )
    return await find_predictions(connection, [forecast.key for forecast in forecasts])


def _tell_written(keys: Sequence[PredictionKey]) -> list[tuple[str, int, str]]:
    return [(key.machine_id, to_microseconds(key.timestamp), key.model_version) for key in keys]
