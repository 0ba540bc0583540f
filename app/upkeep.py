"""The chores of the service: what it does again and again beside its requests, and how often."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, MutableMapping
from datetime import timedelta
from functools import partial

from app.access.keyring import NOTED_EVERY, KeyRing
from app.chores import repeat
from app.database import Database
from app.events.pruner import INTERVAL as PRUNING_INTERVAL
from app.events.pruner import prune_outbox
from app.history.rollups import INTERVAL as ROLLUP_INTERVAL
from app.history.rollups import keep_rollups
from app.liveness.pulse import LivenessLimits
from app.liveness.watcher import INTERVAL as WATCHING_INTERVAL
from app.liveness.watcher import look_now
from app.migrations.state import require_schema
from app.timescale.hypertable import Hypertable
from app.timescale.retention import INTERVAL as RETENTION_INTERVAL
from app.timescale.retention import drop_all_expired


def list_chores(
    database: Database,
    keys: KeyRing,
    liveness: LivenessLimits,
    outbox_retention: timedelta,
    tables: list[str],
    migrated: Mapping[str, Hypertable],
    failing: MutableMapping[str, bool],
) -> tuple[Coroutine[None, None, None], ...]:
    """Each runs until it is cancelled. `tables` are those of the code and `migrated` are hypertables as the migrations
    have them, both by name; under its name `failing` says of each chore whether it went wrong the last time."""
    chores = (
        ("prune the outbox", partial(prune_outbox, database, outbox_retention), PRUNING_INTERVAL),
        ("look whether machines are silent", partial(look_now, database, liveness), WATCHING_INTERVAL),
        ("roll up the hours", partial(keep_rollups, database), ROLLUP_INTERVAL),
        ("note when keys were used", keys.write_uses, NOTED_EVERY),
        ("drop what is too old", partial(drop_expired_rows, database, tables, migrated), RETENTION_INTERVAL),
    )
    return tuple(repeat(what, do, every, failing) for what, do, every in chores)


async def drop_expired_rows(database: Database, tables: list[str], migrated: Mapping[str, Hypertable]) -> None:
    """Drops what is older than its retention. Raises SchemaBehind, SchemaAhead."""
    if all(each.retention is None for each in migrated.values()):
        return
    # A later migration may have given the tables another retention: a process that it has left behind drops nothing.
    async with database.connection() as connection:
        await require_schema(connection, tables)
    await drop_all_expired(database.engine, migrated)
