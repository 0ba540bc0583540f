"""A database that takes no changes, as a replica or one whose disk is nearly full, or not from the role of the service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.database import READ_ONLY
from tests.client import ServiceClient
from tests.conftest import read_database, run_command, run_service, run_sql
from tests.test_ingest import Connection, reading
from tests.test_intake import at, count

REGISTER = """
    mutation ($id: ID!) { registerMachine(input: {machineId: $id, machineType: "press", location: "Hall"}) { machineId } }
"""


async def make_read_only(url: str) -> None:
    """For sessions from now on; those that are there end."""
    name = read_database(url)
    await run_sql(
        url,
        f"ALTER DATABASE {name} SET default_transaction_read_only = on",
        f"SELECT pg_terminate_backend(pid, 30_000) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()",
    )


async def make_writable(url: str) -> None:
    """For sessions from now on alone, as where a name leads to another server."""
    await run_sql(url, "SET default_transaction_read_only = off", f"ALTER DATABASE {read_database(url)} RESET ALL")


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[ServiceClient]:
    async with run_service(database_url, AURUM_INGEST_DEADLINE="PT3S", AURUM_POOL_SIZE="3") as client:
        await client.register("PRESS-1")
        yield client


async def test_senders_are_told_to_try_again_and_the_service_comes_back_by_itself(
    service: ServiceClient, database_url: str
) -> None:
    await make_read_only(database_url)
    async with asyncio.timeout(60):
        while (answer := await service.http.post("/ingest", json=reading("PRESS-1", at(0)))).json()[
            "message"
        ] != READ_ONLY:
            pass
    assert (answer.status_code, answer.json()["code"]) == (503, "DATABASE_UNAVAILABLE")
    refused = await service.refuse(REGISTER, id="PRESS-2")
    assert (refused["extensions"]["code"], refused["message"]) == ("DATABASE_UNAVAILABLE", READ_ONLY)
    assert await service.ask("{ fleet { machines } }") == {"fleet": {"machines": 1}}
    ready = await service.http.get("/health/ready")
    assert (ready.status_code, ready.json()["checks"]["pool"]) == (503, f"DATABASE_UNAVAILABLE: {READ_ONLY}")

    await make_writable(database_url)
    async with asyncio.timeout(60):
        while (await service.http.post("/ingest", json=reading("PRESS-1", at(0)))).status_code != 200:
            pass
    assert await service.ingest(reading("PRESS-1", at(0))) == count(duplicates=1)
    async with asyncio.timeout(60):
        while (await service.http.get("/health/ready")).status_code != 200:
            pass


async def test_a_service_starts_on_it_and_its_chores_are_no_bugs(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await make_read_only(database_url)
    log = ""
    async with run_service(database_url, AURUM_LOG_LEVEL="info") as service:
        assert await service.ask("{ fleet { machines } }") == {"fleet": {"machines": 0}}
        async with asyncio.timeout(60):
            while f"WARNING app.chores: Could not prune the outbox: {READ_ONLY}\n" not in log:
                await asyncio.sleep(0.01)
                log += capsys.readouterr().err
    assert "ERROR" not in log


@pytest.mark.parametrize("command", [("key-new", "--name", "a", "--role", "viewer"), ("key-revoke", "0123abcd")])
async def test_a_command_says_it_in_a_line(database_url: str, command: tuple[str, ...]) -> None:
    await make_read_only(database_url)
    done = await asyncio.to_thread(run_command, "invoke", *command, database_url=database_url)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"DATABASE_UNAVAILABLE: {READ_ONLY}\n")


async def test_an_allowance_that_cannot_be_written_shows_nothing_of_the_database(database_url: str) -> None:
    async with run_service(database_url, AURUM_QUERY_ALLOWANCE="1000") as service:
        await run_sql(database_url, "ALTER TABLE allowances RENAME TO elsewhere")
        refused = await service.refuse("{ fleet { machines } }")
        assert refused["extensions"]["code"] == "INTERNAL"
        assert refused["message"] == "Something went wrong inside the service; its log has it under the correlationId."
        await run_sql(database_url, "ALTER TABLE elsewhere RENAME TO allowances")
        await make_read_only(database_url)
        async with asyncio.timeout(60):
            while (refused := await service.refuse("{ fleet { machines } }"))["message"] != READ_ONLY:
                pass
        assert refused["extensions"]["code"] == "DATABASE_UNAVAILABLE"


async def test_rights_that_the_role_lacks_are_named_and_cost_nobody_a_reading(
    service: ServiceClient, connection: Connection
) -> None:
    if await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        pytest.skip("a superuser lacks no right")
    await connection.execute("REVOKE INSERT ON raw_measurements, machines FROM CURRENT_USER")
    lacks = "The database refuses the role of DATABASE_URL: permission denied for table"
    answer = await service.http.post("/ingest", json=reading("PRESS-1", at(0)))
    assert (answer.status_code, answer.json()) == (
        503,
        {"code": "DATABASE_UNAVAILABLE", "message": f"{lacks} raw_measurements."},
    )
    refused = await service.refuse(REGISTER, id="PRESS-2")
    assert (refused["extensions"]["code"], refused["message"]) == ("DATABASE_UNAVAILABLE", f"{lacks} machines.")
