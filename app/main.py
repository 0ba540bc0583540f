"""`create_app`: the one place that wires the rooms together.

Starting creates nothing in the database. It opens the pool, finds out the edition, and refuses to run on a schema that
isn't exactly the code's: the process then ends with exit code 3 (uvicorn's for a failed startup) and one clear sentence.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncIterator, Coroutine, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from litestar import Litestar

from app.access.allowance import Allowance, Kind
from app.access.bucket import Rate
from app.access.entrance import Entrance
from app.access.guard import guard
from app.access.jwks import ProviderKeys
from app.access.keyring import NOTED_EVERY
from app.access.locations import MachineLocations
from app.access.tokens import Claims, FixedKey, KeySource, Tokens, read_public_key
from app.addresses import is_loopback
from app.chores import repeat, stop
from app.database import CLOSE_TIMEOUT, Database, explain_refusal
from app.drain import Drain
from app.embedded import open_embedded
from app.errors import AurumError, SettingsError
from app.events.fanout import Fanout
from app.events.listener import Listener
from app.events.pruner import INTERVAL as PRUNING_INTERVAL
from app.events.pruner import prune_outbox
from app.graphql.context import Rooms
from app.graphql.controller import make_controller
from app.graphql.graphiql.page import make_router as make_page_router
from app.graphql.limits import DocumentLimits
from app.graphql.operations import AllowedOperations, read_allowed
from app.graphql.protection import Protection
from app.graphql.schema import make_served_schema
from app.graphql.sharing import Answers
from app.graphql.shortcut import Shortcut
from app.history.rollups import INTERVAL as ROLLUP_INTERVAL
from app.history.rollups import keep_rollups
from app.history.series import SeriesLimits
from app.ingest.backlog import Backlog
from app.ingest.endpoint import PATH as INGEST
from app.ingest.endpoint import make_endpoint
from app.ingest.message import Limits
from app.ingest.writer import Writer
from app.liveness.pulse import LivenessLimits
from app.liveness.watcher import INTERVAL as WATCHING_INTERVAL
from app.liveness.watcher import look_now
from app.measures import OperationMeasures
from app.migrations.state import require_schema
from app.ops.answers import answer_error, answer_errors
from app.ops.gate import Gate
from app.ops.health import make_router as make_health_router
from app.ops.logs import make_logging
from app.ops.metrics import Watched
from app.ops.metrics import make_router as make_metrics_router
from app.ops.requests import Requests
from app.ops.service import Service
from app.piccolo_app import APP_CONFIG
from app.settings import Environment, LogFormat, LogLevel, Settings, find_unknown, load_settings, read_environment
from app.timescale.autogenerate import read_hypertables
from app.timescale.declared import find_hypertables
from app.timescale.files import load_managers
from app.timescale.hypertable import Hypertable
from app.timescale.retention import INTERVAL as RETENTION_INTERVAL
from app.timescale.retention import drop_all_expired

if TYPE_CHECKING:
    from app.ops.traces import Traces

OBJECTS = 20_000  # that come between two looks of the garbage collector's at the youngest

logger = logging.getLogger(__name__)


def create_app(settings: Settings | None = None) -> Litestar:
    """The service, by default with the settings of the environment and `.env`.

    A setting that can't be right ends the process with one line for each.
    """
    try:
        environ = read_environment() if settings is None else {}
        settings = settings or load_settings(environ)
        protection, tokens = _protect(settings), _take_tokens(settings)
    except SettingsError as error:
        sys.exit(f"{error.code}: {error}")

    traces = _open_traces(settings.otlp_endpoint)
    database = Database(
        timescale=settings.timescale.value,
        pool_size=settings.pool_size,
        statement_timeout=settings.statement_timeout,
        tracing=traces,
    )
    backlog = Backlog(settings.ingest_queue_bytes)
    limits = Limits(settings.max_batch_rows, settings.max_metrics)
    writer = Writer(database, backlog, settings.ingest_deadline, traces)
    fanout = Fanout()
    listener = Listener(database, fanout)
    entrance = Entrance(
        database, tokens, is_open=settings.env is Environment.DEVELOPMENT and is_loopback(settings.host)
    )
    rooms = Rooms(
        entrance=entrance,
        locations=MachineLocations(database),
        database=database,
        whole=database,
        writer=writer,
        limits=limits,
        fanout=fanout,
        answers=Answers(),
        operations=OperationMeasures(),
        liveness=LivenessLimits(settings.stale_after, settings.silent_after),
        series=SeriesLimits(settings.max_series_range, settings.max_series_values),
        declared=find_hypertables(APP_CONFIG.table_classes),
        max_page_rows=settings.max_page_rows,
        tracing=traces,
        queries=_make_allowance(database, Kind.QUERY, settings.query_allowance, settings.query_burst),
        intake=_make_allowance(database, Kind.INGEST, settings.ingest_allowance, settings.ingest_burst),
    )
    watched = Watched(
        database=database,
        backlog=backlog,
        writer=writer,
        fanout=fanout,
        listener=listener,
        requests=Requests(tell_all=settings.log_level is LogLevel.DEBUG),
        operations=rooms.operations,
    )
    tables = [table._meta.tablename for table in APP_CONFIG.table_classes]
    drain = Drain(settings.drain)

    @asynccontextmanager
    async def run(app: Litestar) -> AsyncIterator[None]:
        for name in find_unknown(environ):
            logger.warning("%s is not a setting of AurumAI, and is ignored.", name)
        async with AsyncExitStack() as stack:
            if traces is not None:
                stack.push_async_callback(asyncio.to_thread, traces.stop)
            try:
                dsn = await _find_dsn(settings, stack)
                await database.open(dsn)
                stack.push_async_callback(database.close)
                database.bind(APP_CONFIG.table_classes)
                async with database.connection() as connection:
                    with explain_refusal():
                        await require_schema(connection, tables)
                    await entrance.require_way_in(connection, production=settings.env is Environment.PRODUCTION)
                # By the migrations, not by the tables: a retention that nobody has migrated to must not cost rows.
                migrated = read_hypertables(await load_managers(APP_CONFIG))
                await listener.start()
                stack.push_async_callback(listener.stop)
            except AurumError as error:
                app.state.startup_error = error
                raise
            stack.push_async_callback(writer.stop)
            stack.push_async_callback(_write_last_uses, entrance)
            for chore in _list_chores(settings, rooms, tables, migrated, watched.failing):
                stack.push_async_callback(stop, asyncio.create_task(chore), CLOSE_TIMEOUT)
            _spare_collector()
            logger.info("AurumAI runs on %s.", database.edition)
            with drain.watch_signals():
                yield

    schema = make_served_schema(protection)
    service = Service(
        gate=_make_gate(settings),
        entrance=entrance,
        drain=drain,
        requests=watched.requests,
        tracing=traces,
        route_handlers=[
            make_controller(schema, rooms, protection, drain),
            make_health_router(database, tables, writer, listener, drain),
            make_metrics_router(watched),
            *([make_page_router()] if protection.graphiql else []),
        ],
        middleware=[guard],
        lifespan=[run],
        exception_handlers={Exception: answer_error},
        request_max_body_size=settings.max_body_bytes,
        openapi_config=None,
        logging_config=make_logging(settings.log_level.value.upper(), as_json=_writes_json(settings)),
    )
    ingest = answer_errors(
        make_endpoint(writer, rooms.locations, backlog, limits, settings.max_body_bytes, rooms.intake)
    )
    service.open_roads({INGEST: lambda _: ingest, "/graphql": Shortcut(schema, rooms).wrap})
    return service


def _make_allowance(database: Database, kind: Kind, per_minute: int | None, burst: int | None) -> Allowance | None:
    return None if per_minute is None else Allowance(database, kind, Rate(per_minute, burst or per_minute))


def _make_gate(settings: Settings) -> Gate:
    hosts = frozenset(name.lower() for name in settings.trusted_hosts)
    any_name = not hosts and not is_loopback(settings.host)
    return Gate(None if any_name else hosts, frozenset(origin.lower() for origin in settings.cors_origins))


def _list_chores(
    settings: Settings,
    rooms: Rooms,
    tables: list[str],
    migrated: dict[str, Hypertable],
    failing: MutableMapping[str, bool],
) -> tuple[Coroutine[None, None, None], ...]:
    database = rooms.database
    prune = partial(prune_outbox, database, settings.outbox_retention)
    drop = partial(_drop_expired, database, tables, migrated)
    chores = (
        ("prune the outbox", prune, PRUNING_INTERVAL),
        ("look whether machines are silent", partial(look_now, database, rooms.liveness), WATCHING_INTERVAL),
        ("roll up the hours", partial(keep_rollups, database), ROLLUP_INTERVAL),
        ("note when keys were used", rooms.entrance.keys.write_uses, NOTED_EVERY),
        ("drop what is too old", drop, RETENTION_INTERVAL),
    )
    return tuple(repeat(what, do, every, failing) for what, do, every in chores)


def _spare_collector() -> None:
    # To look through all that startup made, after every few hundred objects, is a fifth of a small request's time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS)


def _is_developing(settings: Settings, chosen: bool | None) -> bool:
    return settings.env is Environment.DEVELOPMENT if chosen is None else chosen


def _open_traces(endpoint: str | None) -> Traces | None:
    if endpoint is None:
        return None
    # Not at the top: without traces nothing of theirs is there, neither in memory nor in the time of a request.
    from app.ops.traces import Traces  # noqa: PLC0415 - as said

    return Traces(endpoint)


def _writes_json(settings: Settings) -> bool:
    if settings.log_format is None:
        return settings.env is Environment.PRODUCTION
    return settings.log_format is LogFormat.JSON


def _protect(settings: Settings) -> Protection:
    listed = settings.graphql_allowed_operations
    return Protection(
        limits=DocumentLimits(
            bytes=settings.graphql_max_bytes,
            tokens=settings.graphql_max_tokens,
            depth=settings.graphql_max_depth,
            aliases=settings.graphql_max_aliases,
            root_fields=settings.graphql_max_root_fields,
            directives=settings.graphql_max_directives,
            values=settings.graphql_max_values,
        ),
        timeout=settings.graphql_timeout,
        max_cost=settings.graphql_max_cost,
        introspection=_is_developing(settings, settings.graphql_introspection),
        graphiql=_is_developing(settings, settings.graphiql),
        allowed=AllowedOperations()
        if listed is None
        else read_allowed(listed, only=settings.graphql_allow_only_listed),
    )


def _take_tokens(settings: Settings) -> Tokens | None:
    source = _find_token_keys(settings)
    if source is None:
        return None
    claims = Claims(
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        leeway=settings.jwt_leeway,
        roles=settings.jwt_roles_claim,
        locations=settings.jwt_locations_claim,
    )
    return Tokens(source, claims)


def _find_token_keys(settings: Settings) -> KeySource | None:
    if settings.jwt_secret is not None:
        return FixedKey(settings.jwt_secret, "HS256")
    if settings.jwt_public_key is not None:
        return read_public_key(settings.jwt_public_key)
    return None if settings.jwt_jwks_url is None else ProviderKeys(settings.jwt_jwks_url)


async def _write_last_uses(entrance: Entrance) -> None:
    with suppress(AurumError):  # the database may be gone, and nothing depends on it
        await entrance.keys.write_uses()


async def _find_dsn(settings: Settings, stack: AsyncExitStack) -> str:
    if settings.database_url is not None:
        return settings.database_url
    server = await asyncio.to_thread(open_embedded, settings.data_dir, settings.pg_bin)
    stack.push_async_callback(asyncio.to_thread, server.release)
    logger.info("%s", server.description)
    return server.dsn


async def _drop_expired(database: Database, tables: list[str], migrated: dict[str, Hypertable]) -> None:
    if all(each.retention is None for each in migrated.values()):
        return
    # A later migration may have given the tables another retention: a process that it has left behind drops nothing.
    async with database.connection() as connection:
        await require_schema(connection, tables)
    await drop_all_expired(database.engine, migrated)
