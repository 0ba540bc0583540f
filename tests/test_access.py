"""Who is let in: keys by either header, nobody asked on the own machine, and a production that nobody could enter."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import asyncpg
import pytest

from app.access import entrance
from app.access.keys import find_holder
from app.access.roles import Role
from tests.client import ServiceClient
from tests.conftest import hear, run_command, run_service
from tests.keys import PRODUCTION, make
from tests.ports import find_free_port

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
NOT_OURS = "The API key is not one of this service."


async def ask(service: ServiceClient, **headers: str) -> tuple[int, object]:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    response = await service.http.post("/graphql", json={"query": "{ __typename }"}, headers=given)
    body = response.json()
    return response.status_code, body.get("data") or body["errors"][0]["message"]


async def test_a_key_lets_in_by_either_header_and_nothing_else_does(database_url: str, connection: Connection) -> None:
    key = await make(connection, Role.VIEWER)
    async with run_service(database_url, **PRODUCTION) as service:
        query = {"__typename": "Query"}
        assert await ask(service, authorization=f"Bearer {key}") == (200, query)
        assert await ask(service, authorization=f"bearer  {key}") == (200, query)
        assert await ask(service, x_api_key=key) == (200, query)
        assert await ask(service) == (401, entrance.ASKED_FOR)
        other = key[:-1] + ("0" if key[-1] != "0" else "1")
        assert await ask(service, x_api_key=other) == (401, NOT_OURS)
        assert await ask(service, x_api_key=key.upper()) == (
            401,
            "That is no API key, and this service takes no tokens.",
        )
        assert await ask(service, x_api_key=key + "0") == (401, NOT_OURS)
        status, message = await ask(service, authorization="Basic YTpi")
        assert (status, str(message).split(":")[0]) == (401, "The Authorization header is of another kind")
        status, message = await ask(service, authorization=f"Bearer {key}", x_api_key=key)
        assert (status, str(message).split(":")[0]) == (401, "The request says more than once who sends it")
        refused = await service.http.post("/ingest", json=[])
        assert refused.json() == {"code": "UNAUTHENTICATED", "message": entrance.ASKED_FOR}
        assert refused.headers["www-authenticate"] == "Bearer"


async def test_the_database_has_a_hash_of_a_key_and_not_the_key(connection: Connection) -> None:
    key = await make(connection, Role.INGEST, locations=("Hall 1",), expires=timedelta(days=1), name="plant-a")
    row = await connection.fetchrow("SELECT * FROM api_keys")
    assert row is not None
    assert row["digest"] == hashlib.sha256(key.encode()).digest()
    assert key.startswith(f"aurum_{row['prefix']}_")
    assert len(bytes.fromhex(key.rpartition("_")[2])) == 32
    assert [row["name"], row["roles"], row["locations"]] == ["plant-a", '["ingest"]', '["Hall 1"]']
    assert key.rpartition("_")[2] not in str(dict(row))


async def test_a_key_that_is_revoked_or_has_expired_lets_nobody_in(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entrance, "HOLDS", 0.0)
    revoked, short = await make(connection, Role.VIEWER), await make(connection, Role.VIEWER, expires=timedelta(days=1))
    async with run_service(database_url, **PRODUCTION) as service:
        assert [(await ask(service, x_api_key=key))[0] for key in (revoked, short)] == [200, 200]
        await connection.execute("UPDATE api_keys SET revoked_at = now() WHERE expires_at IS NULL")
        await connection.execute("UPDATE api_keys SET expires_at = now() WHERE expires_at IS NOT NULL")
        assert await ask(service, x_api_key=revoked) == (401, "The API key was revoked: use another.")
        assert await ask(service, x_api_key=short) == (401, "The API key has expired: use another.")


async def test_a_key_is_looked_up_once_for_all_that_bring_it_while_that_holds(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []

    async def find_noted(connection: Connection, key: str) -> object:
        looked_up.append(key)
        return await find_holder(connection, key)

    monkeypatch.setattr(entrance, "find_holder", find_noted)
    monkeypatch.setattr(entrance, "HOLDS", 3600.0)  # all of them come within it, however slow the machine is
    key = await make(connection, Role.VIEWER)
    async with run_service(database_url, **PRODUCTION) as service:
        answers = await asyncio.gather(*(ask(service, x_api_key=key) for _ in range(20)))
        assert {status for status, _ in answers} == {200}
        assert len(looked_up) == 1


async def test_when_a_key_was_used_last_is_written_beside_requests(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.upkeep.NOTED_EVERY", 3600.0)
    key = await make(connection, Role.VIEWER)
    before = datetime.now(UTC)
    async with run_service(database_url, **PRODUCTION) as service:
        await ask(service, x_api_key=key)
        assert await connection.fetchval("SELECT last_used_at FROM api_keys") is None
    used: datetime = await connection.fetchval("SELECT last_used_at FROM api_keys")
    assert before <= used <= datetime.now(UTC)


async def test_on_the_own_machine_nobody_is_asked(database_url: str) -> None:
    async with run_service(database_url) as service:
        assert await ask(service, authorization="Basic nonsense") == (200, {"__typename": "Query"})
        assert "errors" not in await service.post_graphql("{ storage { edition } }")


async def test_development_that_listens_elsewhere_asks_for_a_key(database_url: str) -> None:
    async with run_service(database_url, AURUM_HOST="0.0.0.0") as service:
        assert await ask(service) == (401, entrance.ASKED_FOR)


async def test_who_is_let_in_is_said_at_startup(connection: Connection) -> None:
    with hear("app.access.entrance") as lines:
        for is_open in (True, False):
            await entrance.Entrance(None, None, is_open=is_open).require_way_in(connection, production=False)  # type: ignore[arg-type]  # which isn't asked
        await make(connection, Role.VIEWER)
        await entrance.Entrance(None, None, is_open=False).require_way_in(connection, production=True)  # type: ignore[arg-type]  # as above
    assert lines == [
        "WARNING Open: whoever reaches this machine's loopback address is an admin, since AURUM_ENV is development and "
        "AURUM_HOST is of this machine alone. Whoever comes to another address is asked for a key.",
        "WARNING Nobody is let in yet. No API key is in use and no tokens are taken: make a key with invoke key-new, or "
        "set AURUM_JWT_JWKS_URL.",
    ]


def test_an_open_service_asks_whoever_comes_to_an_address_that_others_reach() -> None:
    opened = entrance.Entrance(None, None, is_open=True)  # type: ignore[arg-type]  # which isn't asked
    home = [("127.0.0.1", 8000), ("127.8.8.8", 8000), ("::1", 8000), ("::ffff:127.0.0.1", 1)]
    assert all(opened.find_at_home({"server": address, "headers": []}) for address in home)
    away = [("10.0.0.5", 8000), ("0.0.0.0", 1), ("::ffff:10.0.0.5", 1), ("/run/aurum.sock", None), None]
    assert not any(opened.find_at_home({"server": address, "headers": []}) for address in away)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"X-Forwarded-For": "127.0.0.1"}, 200),
        ({"X-Forwarded-For": "203.0.113.9"}, 401),
        ({"X-Forwarded-For": "127.0.0.1, 203.0.113.9"}, 401),
        ({"X-Real-IP": "2001:db8::9"}, 401),
        ({"Forwarded": "for=203.0.113.9;proto=https"}, 401),
        ({"X-Forwarded-For": ""}, 401),
    ],
)
async def test_an_open_service_asks_whoever_a_proxy_of_this_machine_brings_from_elsewhere(
    database_url: str, headers: dict[str, str], status: int
) -> None:
    async with run_service(database_url) as service:
        answer = await service.http.post("/graphql", json={"query": "{ fleet { machines } }"}, headers=headers)
        assert answer.status_code == status
        assert (await service.http.post("/ingest", json=[], headers=headers)).status_code == status
        assert (await service.http.get("/metrics", headers=headers)).status_code == status


async def test_production_that_nobody_could_enter_refuses_to_start(database_url: str, connection: Connection) -> None:
    command = ["uvicorn", "--factory", "app.main:create_app", "--port", str(find_free_port())]
    for _ in range(2):
        done = await asyncio.to_thread(run_command, *command, database_url=database_url, **PRODUCTION)
        assert done.returncode == 3
        assert (
            "ACCESS_UNCONFIGURED: No API key is in use and no tokens are taken: make a key with invoke key-new, or set "
            "AURUM_JWT_JWKS_URL." in done.stderr
        )
        assert "Traceback" not in done.stderr
        # One that has ended is none.
        await make(connection, Role.ADMIN, expires=timedelta(days=1))
        await connection.execute("UPDATE api_keys SET expires_at = now()")


async def test_whether_it_is_ready_is_for_anybody_and_why_not_for_whoever_is_known(
    database_url: str, connection: Connection
) -> None:
    key = await make(connection, Role.INGEST)
    async with run_service(database_url, **PRODUCTION) as service:
        assert (await service.http.get("/health/ready")).json() == {"status": "ready"}
        told = (await service.http.get("/health/ready", headers={"x-api-key": key})).json()
        assert told.keys() == {"status", "database", "checks"}
        assert (await service.http.get("/health/live", headers={"x-api-key": "wrong"})).status_code == 200
