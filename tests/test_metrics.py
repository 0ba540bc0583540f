"""What /metrics says, to the last count."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics

from app.events import listener
from app.measures import Histogram
from app.migrations.state import list_migrations
from app.ops import metrics
from tests.client import ServiceClient
from tests.conftest import ROOT, make_database, read_database, run_service, run_sql
from tests.scrape import Scrape, scrape
from tests.test_ingest import Connection, reading
from tests.test_intake import at


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time for the database to answer, on a busy machine as well."""
    monkeypatch.setattr(metrics, "PATIENCE", 30.0)


FLEET = "{ fleet { machines } }"


def test_a_value_on_a_bound_is_counted_up_to_it() -> None:
    histogram = Histogram((1, 10))
    for value in (0, 1, 1.5, 10, 11, 1000):
        histogram.observe(value)
    assert (histogram.counts, histogram.total) == ([2, 2, 2], 1023.5)


async def test_readings_are_counted_by_what_became_of_them(service: ServiceClient) -> None:
    await service.register("PRESS-1")
    await service.ingest([reading(timestamp=at(second), rpm=second) for second in range(12)])
    await service.ingest([reading(timestamp=at(0), rpm=0), reading(timestamp=at(1), rpm=7), {"machine_id": "PRESS-1"}])
    await service.ingest([reading("PRESS-9", at(0)), reading("PRESS-9", at(1)), reading(timestamp="soon")])
    await service.ask(
        """mutation { ingest(measurements: [
            {machineId: "PRESS-1", timestamp: "2026-01-31T12:00:00Z", metrics: {rpm: 1}}]) { accepted } }"""
    )
    found = await scrape(service)
    assert found.read_all("aurumai_ingest_readings_total", "result") == {"accepted": 13, "duplicate": 1, "conflict": 1}
    assert found.read_all("aurumai_ingest_rejected_readings_total", "code") == {
        "MISSING_FIELD": 1,
        "UNKNOWN_MACHINE": 2,
        "BAD_TIMESTAMP": 1,
    }
    assert found.read("aurumai_ingest_rejected_readings_total", code="EMPTY_METRICS") == 0
    # Of 12 rows, of two (the third was refused before), of two that nobody has registered, of one.
    assert found.read("aurumai_ingest_batch_rows_count") == 4
    assert found.read("aurumai_ingest_batch_rows_sum") == 17
    below = [found.read("aurumai_ingest_batch_rows_bucket", le=bound) for bound in ("1.0", "10.0", "100.0", "+Inf")]
    assert below == [1, 3, 4, 4]
    assert found.read("aurumai_ingest_commit_duration_seconds_count") == 4
    assert found.read("aurumai_ingest_failed_commits_total") == 0
    assert found.read("aurumai_ingest_queue_rows") == found.read("aurumai_ingest_queue_requests") == 0
    assert found.read("aurumai_ingest_backlog_bytes") == 0
    assert found.read("aurumai_ingest_backlog_limit_bytes") == 32 * 1024 * 1024


async def test_requests_are_counted_by_route_method_and_status_and_by_no_word_of_a_client_s(
    service: ServiceClient,
) -> None:
    await service.register("MADE-UP-MACHINE")
    for _ in range(3):
        await service.ingest(reading("MADE-UP-MACHINE"))
    await service.http.post("/ingest", content=b"{")
    await service.http.post("/ingest", content=b"x", headers={"content-type": "made/up"})
    await service.http.request("DELETE", "/ingest")
    await service.http.get("/made-up", params={"made": "up"})
    await service.http.get("/health/live", headers={"x-request-id": "made-up"})
    await service.http.post("/graphql", json={"query": "query MadeUp { madeUp }"})
    found = await scrape(service)
    counted = {
        (labels["route"], labels["method"], int(labels["status"])): value
        for labels, value in found.list_samples("aurumai_http_request_duration_seconds_count")
    }
    assert counted == {
        ("/graphql", "POST", 200): 2,
        ("/ingest", "POST", 200): 3,
        ("/ingest", "POST", 400): 1,
        ("/ingest", "POST", 415): 1,
        ("/ingest", "other", 405): 1,
        ("other", "GET", 404): 1,
        ("/health/live", "GET", 200): 1,
    }
    assert found.read_all("aurumai_http_errors_total", "code") == {
        "BAD_USER_INPUT": 1,
        "UNSUPPORTED_MEDIA_TYPE": 1,
        "METHOD_NOT_ALLOWED": 1,
        "NOT_FOUND": 1,
    }
    assert found.read("aurumai_requests_underway", protocol="http") == 1
    assert not [value for value in found.label_values if "made" in value.lower()]
    # The one before is counted by the time of the next.
    again = await scrape(service)
    assert again.read("aurumai_http_request_duration_seconds_count", route="/metrics", method="GET", status="200") == 1


def count_operations(found: Scrape) -> dict[tuple[str, str, str], float]:
    return {
        (labels["kind"], labels["name"], labels["outcome"]): value
        for labels, value in found.list_samples("aurumai_graphql_operations_total")
    }


async def test_operations_are_counted_by_kind_outcome_and_listed_name(database_url: str, tmp_path: Path) -> None:
    listed = tmp_path / "operations.json"
    machines = "query Any { machines { nodes { machineId } } }"
    listed.write_bytes(msgspec.json.encode({"list-machines": machines, "fleet": FLEET}))
    async with run_service(database_url, AURUM_GRAPHQL_ALLOWED_OPERATIONS=str(listed)) as service:
        for _ in range(3):  # from the second on it goes the short way
            await service.ask(machines)
        await service.http.post("/graphql", json={"documentId": "fleet"})
        await service.ask("query Unlisted { machines { nodes { location } } }")
        await service.register("PRESS-1")
        assert (
            await service.refuse('mutation { updateMachine(machineId: "X", input: {location: "a"}) { location } }')
        )["extensions"]["code"] == "NOT_FOUND"
        await service.refuse("{ nope }")
        await service.refuse("{ nope")
        await service.http.post("/graphql", json={"documentId": "unknown"})
        await service.http.post("/graphql", json={})
        async with service.subscribe("subscription { measurements { cursor } }"):
            running = await scrape(service)
        async with service.subscribe(FLEET) as once:
            await once.next()
        cancelled = ("subscription", "other", "CANCELLED")
        async with asyncio.timeout(30):  # the service hears a little later that its client has gone
            while cancelled not in (counted := count_operations(found := await scrape(service))):
                pass
    assert running.read("aurumai_requests_underway", protocol="websocket") == 1
    assert counted.pop(cancelled) == 1
    assert counted == {
        ("query", "list-machines", "ok"): 3,
        ("query", "fleet", "ok"): 2,
        ("query", "other", "ok"): 1,
        ("mutation", "other", "ok"): 1,
        ("mutation", "other", "NOT_FOUND"): 1,
        ("unknown", "other", "GRAPHQL_VALIDATION_FAILED"): 1,
        ("unknown", "other", "GRAPHQL_PARSE_FAILED"): 1,
        ("unknown", "other", "PERSISTED_QUERY_NOT_FOUND"): 1,
        ("unknown", "other", "BAD_REQUEST"): 1,
    }
    assert found.read("aurumai_graphql_operation_duration_seconds_count", kind="query") == 6
    assert found.read("aurumai_graphql_operation_duration_seconds_count", kind="mutation") == 2


async def test_subscriptions_and_what_they_were_given_are_counted_by_topic(service: ServiceClient) -> None:
    await service.register("PRESS-1")
    before = await scrape(service)
    assert before.read_all("aurumai_subscriptions", "topic") == {}
    async with service.subscribe("subscription { measurements { cursor } }") as events:
        async with asyncio.timeout(30):
            while (await scrape(service)).read_all("aurumai_subscriptions", "topic") != {"measurements": 1}:
                pass
        await service.ingest(reading())
        await events.next()
        found = await scrape(service)
    assert found.read("aurumai_listener_up") == found.read("aurumai_listener_connections_total") == 1
    assert found.read_all("aurumai_subscription_batches_total", "topic") == {"measurements": 1}
    assert found.read_all("aurumai_subscription_dropped_batches_total", "topic") == {}
    assert found.read("aurumai_outbox_events_total") == 1
    assert found.read("aurumai_outbox_lag_seconds") == 0
    assert 0 < found.read("aurumai_outbox_oldest_event_age_seconds") < 60


async def test_events_that_nobody_heard_of_are_a_lag(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are while the listener is cut off; a row that nobody was notified of waits for its next look by itself."""
    monkeypatch.setattr(listener, "POLL_INTERVAL", 3600.0)
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    tell = "INSERT INTO outbox (topic, payload, created_at) VALUES ('liveness', '{}', $1)"
    async with run_service(database_url) as service:
        await connection.execute(tell, hour_ago)
        async with asyncio.timeout(30):
            while not (found := await scrape(service)).read("aurumai_outbox_lag_seconds"):
                # The listener's first look was late, and has passed the one before.
                await connection.execute(tell, hour_ago)
    assert 3600 <= found.read("aurumai_outbox_lag_seconds") < 3660
    assert 3600 <= found.read("aurumai_outbox_oldest_event_age_seconds") < 3660


async def test_the_pool_tells_who_uses_it_and_who_waits(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "PATIENCE", 2.0)
    monkeypatch.setattr("app.database.ACQUIRE_TIMEOUT", 60.0)  # for those who wait here
    async with run_service(database_url, AURUM_POOL_SIZE="2") as service:
        idle = await scrape(service)
        assert idle.read("aurumai_pool_limit_connections") == 2
        await connection.execute("BEGIN; LOCK TABLE machines IN ACCESS EXCLUSIVE MODE")
        asking = [asyncio.create_task(service.ask("{ machines { nodes { machineId } } }")) for _ in range(5)]
        async with asyncio.timeout(60):
            # Each scrape waits for a connection as well, and gives up.
            while (found := await scrape(service)).read("aurumai_database_up") or found.read(
                "aurumai_pool_waiting_requests"
            ) < 3:
                pass
        assert found.read_all("aurumai_pool_connections", "state") == {"used": 2}
        await connection.execute("ROLLBACK")
        await asyncio.gather(*asking)
        async with asyncio.timeout(60):
            while not (found := await scrape(service)).read("aurumai_database_up") or found.read(
                "aurumai_pool_waiting_requests"
            ):
                pass


async def test_a_chore_that_went_wrong_is_told_until_it_went_right(
    service: ServiceClient, connection: Connection
) -> None:
    async def read() -> dict[str, float]:
        return {
            labels["chore"]: value for labels, value in (await scrape(service)).list_samples("aurumai_chore_failing")
        }

    silent = "look whether machines are silent"  # every five seconds
    async with asyncio.timeout(120):
        while len(before := await read()) < 5:
            pass
        assert set(before.values()) == {0}
        await connection.execute("ALTER TABLE machine_pulses RENAME TO elsewhere")
        while (await read())[silent] == 0:
            pass
        await connection.execute("ALTER TABLE elsewhere RENAME TO machine_pulses")
        while (await read())[silent] == 1:
            pass


async def test_migrations_are_counted_by_state(service: ServiceClient, connection: Connection) -> None:
    known = list_migrations()
    found = await scrape(service)
    assert found.read_all("aurumai_migrations", "state") == {"applied": len(known)}
    await connection.execute("DELETE FROM migration WHERE name = $1", known[-1])
    await connection.execute("INSERT INTO migration (name, app_name) VALUES ('2999-01-01T00:00:00:000000', 'app')")
    found = await scrape(service)
    assert found.read_all("aurumai_migrations", "state") == {"applied": len(known) - 1, "pending": 1, "unknown": 1}


async def test_a_database_that_is_away_does_not_make_a_scrape_fail(server_url: str, template: str) -> None:
    async with make_database(server_url, template) as url, run_service(url, AURUM_INGEST_DEADLINE="PT3S") as service:
        await service.register("PRESS-1")
        name = read_database(url)
        await run_sql(
            server_url,
            f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false",
            f"SELECT pg_terminate_backend(pid, 30_000) FROM pg_stat_activity WHERE datname = '{name}'",
        )
        assert (await service.http.post("/ingest", json=reading())).status_code == 503
        async with asyncio.timeout(30):
            while (found := await scrape(service)).read("aurumai_listener_up"):
                pass
        assert found.read("aurumai_database_up") == 0
        assert not found.has("aurumai_migrations")
        assert not found.has("aurumai_outbox_lag_seconds")
        assert found.read_all("aurumai_http_errors_total", "code") == {"DATABASE_UNAVAILABLE": 1}
        await run_sql(server_url, f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
        assert (await service.ingest(reading()))["accepted"] == 1
        assert (await scrape(service)).read("aurumai_database_up") == 1


async def test_the_versions_are_told(service: ServiceClient, connection: Connection) -> None:
    (labels, value), *others = (await scrape(service)).list_samples("aurumai_info")
    postgres = await connection.fetchval("SELECT split_part(current_setting('server_version'), ' ', 1)")
    timescale = await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
    licence = await connection.fetchval("SELECT current_setting('timescaledb.license', true)")
    assert (value, others) == (1, [])
    assert labels == {
        "version": "0.1.0",
        "edition": "none" if timescale is None else {"apache": "apache", "timescale": "community"}[licence],
        "postgresql": postgres,
        "timescaledb": timescale or "",
    }


async def test_names_follow_the_conventions_and_every_metric_says_what_it_is(service: ServiceClient) -> None:
    await service.ask(FLEET)
    found = await scrape(service)
    ours = {name for name in found.types if not name.startswith(("process_", "python_"))}
    assert all(name.startswith("aurumai_") for name in ours)
    assert all(found.help[name].endswith(".") for name in ours if name != "aurumai_info")
    for name in ours:
        assert found.types[name] != "unknown", name
        assert not name.endswith(("_ms", "_milliseconds", "_kb", "_count", "_total")), name
    assert {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"} <= found.names


async def test_every_metric_is_documented(service: ServiceClient) -> None:
    guide = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    found = await scrape(service)
    ours = {
        f"{name}_total" if kind == "counter" else name
        for name, kind in found.types.items()
        if name.startswith("aurumai_")
    }
    assert set(re.findall(r"`(aurumai_\w+)`", guide.partition("## Metrics")[2].partition("## ")[0])) == ours


async def test_whoever_asks_for_openmetrics_gets_it(service: ServiceClient) -> None:
    answer = await service.http.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert "aurumai_database_up" in {family.name for family in read_openmetrics(answer.text)}  # type: ignore[no-untyped-call]  # it has no annotations


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_metrics_are_read_by_get_alone(service: ServiceClient, method: str) -> None:
    answer = await service.http.request(method, "/metrics")
    assert (answer.status_code, answer.json()["code"]) == (405, "METHOD_NOT_ALLOWED")
