"""What /health tells whoever decides where requests go."""

from __future__ import annotations

import asyncio

import pytest

from app.migrations.state import list_migrations
from app.ops import health
from tests.client import ServiceClient
from tests.conftest import make_database, read_database, run_service, run_sql
from tests.test_ingest import Connection, reading
from tests.test_intake import count


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time for the database to answer, on a busy machine as well."""
    monkeypatch.setattr(health, "PATIENCE", 30.0)


OK = {"pool": "ok", "migrations": "ok", "writer": "ok", "listener": "ok"}


async def test_a_service_that_can_do_its_work_says_on_what(service: ServiceClient, connection: Connection) -> None:
    answer = await service.http.get("/health/ready")
    assert answer.status_code == 200
    version = await connection.fetchval("SELECT split_part(current_setting('server_version'), ' ', 1)")
    told = answer.json()
    assert told.pop("database").startswith(f"PostgreSQL {version} with")
    assert told == {"status": "ready", "checks": OK}


async def test_a_migration_that_waits_is_named_and_whoever_is_alive_says_so_without_the_database(
    service: ServiceClient, connection: Connection
) -> None:
    newest = list_migrations()[-1]
    await connection.execute("DELETE FROM migration WHERE name = $1", newest)
    answer = await service.http.get("/health/ready")
    message = f"The database is behind this code: 1 migration not applied, the first is {newest}. Run: invoke migrate"
    assert (answer.status_code, answer.json()) == (
        503,
        {
            "status": "not ready",
            "code": "SCHEMA_BEHIND",
            "message": message,
            "checks": {**OK, "migrations": f"SCHEMA_BEHIND: {message}"},
        },
    )
    assert (await service.http.get("/health/live")).json() == {"status": "live"}


async def test_a_database_that_is_away_is_told_by_pool_and_listener_and_by_the_writer_while_something_waits(
    server_url: str, template: str
) -> None:
    away = "DATABASE_UNAVAILABLE: The database can't be reached just now: try again in a moment."
    async with make_database(server_url, template) as url, run_service(url, AURUM_INGEST_DEADLINE="PT30S") as service:
        await service.register("PRESS-1")
        name = read_database(url)
        await run_sql(
            server_url,
            f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false",
            f"SELECT pg_terminate_backend(pid, 30_000) FROM pg_stat_activity WHERE datname = '{name}'",
        )
        async with asyncio.timeout(30):  # the answer may come before the listener has heard that its connection ended
            while (answer := await service.http.get("/health/ready")).json()["checks"]["listener"] == "ok":
                pass
        assert (answer.status_code, answer.json()["code"]) == (503, "DATABASE_UNAVAILABLE")
        assert answer.json()["checks"] == {
            "pool": away,
            "migrations": "ok",
            "writer": "ok",
            "listener": "DATABASE_UNAVAILABLE: The listener has no connection: subscriptions wait until it has one again.",
        }
        sending = asyncio.create_task(service.ingest(reading()))
        async with asyncio.timeout(30):
            while (await service.http.get("/health/ready")).json()["checks"]["writer"] == "ok":
                pass
        answer = await service.http.get("/health/ready")
        assert answer.json()["checks"]["writer"] == (
            "DATABASE_UNAVAILABLE: Readings wait for the database: "
            "The database can't be reached just now: try again in a moment."
        )
        assert (await service.http.get("/health/live")).status_code == 200
        await run_sql(server_url, f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
        assert await sending == count(accepted=1)
        async with asyncio.timeout(60):
            while (await service.http.get("/health/ready")).status_code != 200:
                pass


async def test_a_pool_that_is_used_up_is_told_with_what_can_be_done(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PATIENCE", 2.0)
    monkeypatch.setattr("app.database.ACQUIRE_TIMEOUT", 60.0)  # a chore may have one of the two
    async with run_service(database_url, AURUM_POOL_SIZE="2") as service:
        await connection.execute("BEGIN; LOCK TABLE machines IN ACCESS EXCLUSIVE MODE")
        asking = [asyncio.create_task(service.ask("{ machines { nodes { machineId } } }")) for _ in range(2)]
        async with asyncio.timeout(60):
            # Not at once, where the requests that use them up have not come that far.
            used_up = "All 2 connections of the pool are in use and"
            while used_up not in (answer := await service.http.get("/health/ready")).json().get("message", ""):
                pass
        assert answer.status_code == 503
        assert answer.json()["code"] == "DATABASE_UNAVAILABLE"
        await connection.execute("ROLLBACK")
        await asyncio.gather(*asking)
        async with asyncio.timeout(60):
            while (answer := await service.http.get("/health/ready")).status_code != 200:
                pass
        assert answer.json()["checks"] == OK
