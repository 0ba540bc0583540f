"""`/metrics`: what the rooms have counted and how they stand, in the text that Prometheus reads.

Every label is one of a few words that the code knows; no machine, client or text of theirs is one. What only the database
can tell is left out when it doesn't answer in time, and `aurumai_database_up` is 0 then: a scrape never fails for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from litestar import Request, Response, Router, get
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from app.access.strangers import Strangers
from app.database import Database
from app.errors import AurumError
from app.events.batches import TOPICS
from app.events.fanout import Fanout
from app.events.listener import Listener
from app.events.outbox import OutboxState, read_outbox_state
from app.ingest.backlog import Backlog
from app.ingest.writer import Writer
from app.measures import Histogram, OperationMeasures
from app.migrations.state import MigrationState, list_migrations, read_state
from app.ops.requests import Requests

PATIENCE = 2.0  # seconds with the database; Prometheus gives up after ten


@dataclass(frozen=True, kw_only=True)
class Watched:
    """The rooms that /metrics reads; `failing` are the chores, and whether they went wrong the last time."""

    database: Database
    backlog: Backlog
    writer: Writer
    fanout: Fanout
    listener: Listener
    requests: Requests
    operations: OperationMeasures
    strangers: Strangers
    failing: MutableMapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """What the database told; `migrations` is None where its bookkeeping isn't ours or it isn't whole."""

    migrations: MigrationState | None
    outbox: OutboxState


def make_router(watched: Watched) -> Router:
    """The route over these rooms."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    rooms = _Rooms(watched)
    registry.register(rooms)

    @get("/metrics")
    async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        rooms.look = await look_at_database(watched.database, watched.fanout)
        return Response(encode(registry), media_type=media_type)

    return Router("/", route_handlers=[metrics])


async def look_at_database(database: Database, fanout: Fanout) -> Look | None:
    """What only the database knows; None when it doesn't answer in time."""
    try:
        async with asyncio.timeout(PATIENCE), database.connection() as connection:
            try:
                migrations = await read_state(connection, list_migrations())
            except AurumError:
                migrations = None
            return Look(migrations, await read_outbox_state(connection, fanout.position))
    except (TimeoutError, AurumError):
        return None
    except Exception:  # noqa: BLE001 - whatever it is, such as a table that isn't there: the scrape goes on without it
        return None


class _Rooms(Collector):
    """Reads the rooms at each scrape. `look` is the latest at the database."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self.look: Look | None = None

    def describe(self) -> Iterable[Metric]:
        """Nothing: what is there depends on what has happened."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield from _collect_requests(self._watched)
        yield from _collect_operations(self._watched.operations)
        yield from _collect_ingest(self._watched.writer, self._watched.backlog)
        yield from _collect_events(self._watched.fanout, self._watched.listener)
        failing = {what: int(failed) for what, failed in self._watched.failing.items()}
        yield _gauge("aurumai_chore_failing", "1 while a chore went wrong the last time.", "chore", failing)
        yield from _collect_database(self._watched.database, self.look)


def _collect_requests(watched: Watched) -> Iterator[Metric]:
    seconds = HistogramMetricFamily(
        "aurumai_http_request_duration_seconds",
        "HTTP requests, by how long it took until the answer began.",
        labels=["route", "method", "status"],
    )
    for (route, method, status), histogram in watched.requests.seconds.items():
        _add(seconds, [route, method, str(status)], histogram)
    yield seconds
    yield _gauge(
        "aurumai_requests_underway",
        "Requests over HTTP, streams among them, and WebSockets that are not over.",
        "protocol",
        watched.requests.underway,
    )
    yield _count(
        "aurumai_http_errors",
        "Answers other than GraphQL's that were an error, by its code.",
        "code",
        watched.requests.errors,
    )
    strangers = watched.strangers
    yield _count(
        "aurumai_unauthenticated_requests",
        "Requests and WebSockets that said wrongly who sends them, or not at all; those that were limited came too often.",
        "result",
        {"refused": strangers.refused, "limited": strangers.limited},
    )


def _collect_operations(operations: OperationMeasures) -> Iterator[Metric]:
    counts = CounterMetricFamily(
        "aurumai_graphql_operations",
        "GraphQL operations that are over; the name is that of the list of allowed operations, else other.",
        labels=["kind", "name", "outcome"],
    )
    for labels, count in operations.counts.items():
        counts.add_metric(labels, count)
    yield counts
    seconds = HistogramMetricFamily(
        "aurumai_graphql_operation_duration_seconds", "GraphQL queries and mutations, by their time.", labels=["kind"]
    )
    for kind, histogram in operations.seconds.items():
        _add(seconds, [kind], histogram)
    yield seconds


def _collect_ingest(writer: Writer, backlog: Backlog) -> Iterator[Metric]:
    measures = writer.measures
    stored = {"accepted": measures.accepted, "duplicate": measures.duplicates, "conflict": measures.conflicts}
    yield _count("aurumai_ingest_readings", "Readings by what became of them.", "result", stored)
    rejected = {code.value: count for code, count in measures.rejected.items()}
    yield _count("aurumai_ingest_rejected_readings", "Readings that were refused, by why.", "code", rejected)
    rows = HistogramMetricFamily("aurumai_ingest_batch_rows", "Transactions of ingest, by their rows.")
    _add(rows, [], measures.batch_rows)
    yield rows
    seconds = HistogramMetricFamily("aurumai_ingest_commit_duration_seconds", "Transactions of ingest, by their time.")
    _add(seconds, [], measures.commit_seconds)
    yield seconds
    yield _single_count(
        "aurumai_ingest_failed_commits",
        "Transactions of ingest that failed; most are tried again.",
        measures.failed_commits,
    )
    yield GaugeMetricFamily("aurumai_ingest_queue_rows", "Rows that wait for a transaction.", writer.queued_rows)
    yield GaugeMetricFamily(
        "aurumai_ingest_queue_requests", "Requests whose rows wait for a transaction.", writer.queued_requests
    )
    yield GaugeMetricFamily(
        "aurumai_ingest_backlog_bytes", "Memory of bodies that arrive and rows that wait or commit.", backlog.held
    )
    yield GaugeMetricFamily(
        "aurumai_ingest_backlog_limit_bytes", "AURUM_INGEST_QUEUE_BYTES, beyond which is 503.", backlog.limit
    )


def _collect_events(fanout: Fanout, listener: Listener) -> Iterator[Metric]:
    yield GaugeMetricFamily("aurumai_listener_up", "1 while the listener hears the database.", int(listener.is_up))
    yield _single_count("aurumai_listener_connections", "Connections that the listener has had.", listener.connections)
    running = {topic.value: fanout.count_subscriptions(topic) for topic in TOPICS}
    yield _gauge("aurumai_subscriptions", "Subscriptions that run in this process.", "topic", running)
    given = {topic.value: fanout.given[topic] for topic in TOPICS}
    yield _count("aurumai_subscription_batches", "Batches that were given to all who follow.", "topic", given)
    dropped = {topic.value: fanout.count_dropped(topic) for topic in TOPICS}
    yield _count("aurumai_subscription_dropped_batches", "Batches that slow clients let fall.", "topic", dropped)


def _collect_database(database: Database, look: Look | None) -> Iterator[Metric]:
    pool = database.read_pool()
    states = {"used": pool.used, "idle": pool.size - pool.used}
    yield _gauge("aurumai_pool_connections", "Connections of the pool.", "state", states)
    yield GaugeMetricFamily("aurumai_pool_limit_connections", "AURUM_POOL_SIZE.", pool.most)
    yield GaugeMetricFamily("aurumai_pool_waiting_requests", "Those that wait for a connection.", pool.waiting)
    edition = database.edition
    info = GaugeMetricFamily("aurumai_info", "1; the versions are in the labels.", labels=_VERSIONS)
    info.add_metric(
        [version("aurumai"), edition.name.value, edition.postgres_version, edition.timescale_version or ""], 1
    )
    yield info
    yield GaugeMetricFamily(
        "aurumai_database_up", f"1 if the database answered this scrape within {PATIENCE:g} s.", int(look is not None)
    )
    if look is None:
        return
    if look.migrations is not None:
        state = look.migrations
        states = {"applied": len(state.applied), "pending": len(state.pending), "unknown": len(state.unknown)}
        yield _gauge(
            "aurumai_migrations", "Migrations; unknown are those that this code doesn't have.", "state", states
        )
    yield GaugeMetricFamily(
        "aurumai_outbox_lag_seconds",
        "Age of the oldest event that this process has not given to its subscriptions; 0 where there is none.",
        look.outbox.lag,
    )
    yield GaugeMetricFamily(
        "aurumai_outbox_oldest_event_age_seconds", "Age of the oldest event that is kept.", look.outbox.oldest_age
    )
    yield _single_count("aurumai_outbox_events", "Events written since the database was made.", look.outbox.newest_id)


_VERSIONS = ["version", "edition", "postgresql", "timescaledb"]


def _gauge(name: str, documentation: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def _count(name: str, documentation: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def _single_count(name: str, documentation: str, number: float) -> Metric:
    return CounterMetricFamily(name, documentation, value=number)


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    buckets: list[tuple[str, float]] = []
    below = 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        below += count
        buckets.append(("+Inf" if bound == float("inf") else repr(float(bound)), below))
    family.add_metric(labels, buckets, histogram.total)
