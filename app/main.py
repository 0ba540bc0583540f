"""`create_app`: the one place that wires the rooms together.

Starting creates nothing in the database. It opens the pool, finds out the edition, and refuses to run on a schema that
isn't exactly the code's: the process then ends with exit code 3 (uvicorn's for a failed startup) and one clear sentence.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from litestar import Litestar

from app.access.entrance import Entrance
from app.access.guard import guard
from app.access.locations import MachineLocations
from app.addresses import is_loopback
from app.chores import stop
from app.database import CLOSE_TIMEOUT, Database, Edition, explain_refusal
from app.drain import Drain
from app.embedded import open_embedded
from app.errors import AurumError, SettingsError
from app.events.fanout import Fanout
from app.events.listener import Listener
from app.graphql.context import Rooms
from app.graphql.controller import make_controller
from app.graphql.graphiql.page import make_router as make_page_router
from app.graphql.schema import make_served_schema
from app.graphql.sharing import Answers
from app.graphql.shortcut import Shortcut
from app.history.series import SeriesLimits
from app.ingest.backlog import Backlog
from app.ingest.endpoint import PATH as INGEST
from app.ingest.endpoint import make_endpoint
from app.ingest.message import Limits
from app.ingest.writer import Writer
from app.liveness.pulse import LivenessLimits
from app.measures import OperationMeasures
from app.migrations.state import require_schema
from app.ops.answers import answer_error, answer_errors
from app.ops.health import make_router as make_health_router
from app.ops.logs import make_logging
from app.ops.metrics import Watched
from app.ops.metrics import make_router as make_metrics_router
from app.ops.requests import Requests
from app.ops.service import Service
from app.parts import (
    make_database,
    make_gate,
    make_ingest_allowance,
    make_protection,
    make_query_allowance,
    make_tokens,
    open_traces,
    writes_json,
)
from app.piccolo_app import APP_CONFIG
from app.settings import Environment, LogLevel, Settings, find_unknown, load_settings, read_environment
from app.timescale.autogenerate import read_hypertables
from app.timescale.declared import find_hypertables
from app.timescale.files import load_managers
from app.upkeep import list_chores

# Imported by whoever starts the server with it: nothing else tells the application what it is served by.
BOUNDED_HTTP = "app.ops.protocol"

OBJECTS = 20_000  # that come between two looks of the garbage collector's at the youngest

logger = logging.getLogger(__name__)


def create_app(settings: Settings | None = None) -> Litestar:
    """The service, by default with the settings of the environment and `.env`.

    A setting that can't be right ends the process with one line for each.
    """
    try:
        environ = read_environment() if settings is None else {}
        settings = settings or load_settings(environ)
        protection, tokens = make_protection(settings), make_tokens(settings)
    except SettingsError as error:
        sys.exit(f"{error.code}: {error}")

    traces = open_traces(settings)
    database = make_database(settings, traces)
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
        queries=make_query_allowance(settings, database),
        intake=make_ingest_allowance(settings, database),
    )
    watched = Watched(
        database=database,
        backlog=backlog,
        writer=writer,
        fanout=fanout,
        listener=listener,
        requests=Requests(tell_all=settings.log_level is LogLevel.DEBUG),
        operations=rooms.operations,
        strangers=entrance.strangers,
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
            chores = list_chores(
                database, entrance.keys, rooms.liveness, settings.outbox_retention, tables, migrated, watched.failing
            )
            tasks = [asyncio.create_task(chore) for chore in chores]
            stack.push_async_callback(_finish, database, writer, entrance, tasks)
            _spare_collector()
            _tell_start(database.edition)
            with drain.watch_signals():
                yield

    schema = make_served_schema(protection)
    service = Service(
        gate=make_gate(settings),
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
        logging_config=make_logging(settings.log_level.value.upper(), as_json=writes_json(settings)),
    )
    ingest = answer_errors(
        make_endpoint(writer, rooms.locations, backlog, limits, settings.max_body_bytes, rooms.intake)
    )
    service.open_roads({INGEST: lambda _: ingest, "/graphql": Shortcut(schema, rooms).wrap})
    return service


async def _finish(database: Database, writer: Writer, entrance: Entrance, chores: list[asyncio.Task[None]]) -> None:
    """Ends what works beside requests, all of it at once: of a database that hangs, each would wait for itself."""
    database.hurry()
    stopping = (stop(chore, CLOSE_TIMEOUT) for chore in chores)
    await asyncio.gather(writer.stop(), _write_last_uses(entrance), *stopping)


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


def _tell_start(edition: Edition) -> None:
    if BOUNDED_HTTP not in sys.modules:
        logger.warning(
            "This server bounds neither clients that are slow nor connections, and may lose bodies that come with an offer of "
            "HTTP/2. Run invoke serve, or uvicorn with --http %s:BoundedProtocol, or put a proxy before it.",
            BOUNDED_HTTP,
        )
    logger.info("AurumAI runs on %s.", edition)


def _spare_collector() -> None:
    # To look through all that startup made, after every few hundred objects, is a fifth of a small request's time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS)
