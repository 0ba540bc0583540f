"""Whoever follows events is let in like anybody, and let out when their key or token ends, over WebSocket and SSE."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest
import websockets

from app.access import entrance, keyring
from app.access.roles import Role
from tests.client import ServiceClient
from tests.conftest import hear as hear_log
from tests.conftest import run_service
from tests.keys import make
from tests.test_tokens import HS256, say, sign

QUERY = "subscription { measurements { cursor measurements { machineId } } }"
REVOKED = "The API key was revoked: use another."
EXPIRED = "The token has expired: get a new one."


@pytest.fixture
async def closed(database_url: str, connection: asyncpg.Connection[asyncpg.Record]) -> AsyncIterator[ServiceClient]:
    """The service in production, where tokens are taken as well as keys; its client says nothing of itself."""
    await make(connection, Role.ADMIN)
    async with run_service(database_url, **HS256) as service:
        yield service


async def begin(service: ServiceClient, payload: Any = None, **headers: str) -> tuple[websockets.ClientConnection, Any]:
    """A connection, and the first message after its connection_init, or how it was closed."""
    socket = await websockets.connect(
        service.url.replace("http", "ws", 1) + "/graphql",
        subprotocols=[websockets.Subprotocol("graphql-transport-ws")],
        additional_headers={name.replace("_", "-"): value for name, value in headers.items()},
        proxy=None,
        open_timeout=30,
    )
    init = {"type": "connection_init"} if payload is None else {"type": "connection_init", "payload": payload}
    await socket.send(msgspec.json.encode(init).decode())
    return socket, await hear(socket)


async def hear(socket: websockets.ClientConnection) -> Any:
    try:
        async with asyncio.timeout(30):
            return msgspec.json.decode(await socket.recv())
    except websockets.ConnectionClosed as closed:
        return (None, None) if closed.rcvd is None else (closed.rcvd.code, closed.rcvd.reason)


async def test_a_socket_says_who_opens_it_in_any_of_four_ways(
    closed: ServiceClient, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    key = await make(connection, Role.VIEWER)
    ways: list[tuple[Any, dict[str, str]]] = [
        ({"authorization": f"Bearer {key}"}, {}),
        ({"Authorization": f"Bearer {sign(say())}"}, {}),
        ({"apiKey": key}, {}),
        (None, {"authorization": f"Bearer {key}"}),
        ({}, {"x_api_key": key}),
    ]
    for payload, headers in ways:
        socket, answer = await begin(closed, payload, **headers)
        assert answer == {"type": "connection_ack"}
        await socket.close()


async def test_a_socket_that_doesn_t_say_it_or_wrongly_is_closed(
    closed: ServiceClient, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    asked_for = 'Say who you are: send {"authorization": "Bearer ..."} or {"apiKey": ...} with connection_init.'
    for payload, reason in [
        (None, asked_for),
        ({"token": "x"}, asked_for),
        ({"apiKey": "aurum_00000000_" + "0" * 64}, "The API key is not one of this service."),
        ({"authorization": f"Bearer {sign(say(exp=int(time.time()) - 60))}"}, EXPIRED),
    ]:
        assert (await begin(closed, payload))[1] == (4403, reason)
    code, reason = (await begin(closed, {"apiKey": 7}))[1]
    assert (code, reason.split()[0]) == (4403, "Send")


async def test_a_socket_is_closed_when_its_key_is_revoked(
    closed: ServiceClient, connection: asyncpg.Connection[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (entrance, keyring):
        monkeypatch.setattr(module, "HOLDS", 0.05)
    key = await make(connection, Role.VIEWER)
    socket, _ = await begin(closed, {"apiKey": key})
    payload = {"query": QUERY}
    await socket.send(msgspec.json.encode({"id": "1", "type": "subscribe", "payload": payload}).decode())
    other, _ = await begin(closed, {"apiKey": await make(connection, Role.VIEWER)})
    await connection.execute("UPDATE api_keys SET revoked_at = now() WHERE prefix = $1", key.split("_")[1])
    assert await hear(socket) == (4403, REVOKED)
    await other.send(msgspec.json.encode({"type": "ping"}).decode())
    assert await hear(other) == {"type": "pong"}
    await other.close()


async def test_a_socket_is_closed_when_its_token_ends(database_url: str) -> None:
    async with run_service(database_url, **HS256, AURUM_JWT_LEEWAY="PT0S") as service:
        ends = int(time.time()) + 6  # by then it's let in, however slow the machine is
        socket, answer = await begin(service, {"authorization": f"Bearer {sign(say(exp=ends))}"})
        assert answer == {"type": "connection_ack"}
        assert await hear(socket) == (4403, EXPIRED)
        assert time.time() >= ends


async def test_an_event_stream_ends_with_a_word_when_its_key_is_revoked(
    closed: ServiceClient, connection: asyncpg.Connection[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (entrance, keyring):
        monkeypatch.setattr(module, "HOLDS", 0.05)
    viewer, sender = await make(connection, Role.VIEWER), await make(connection, Role.ADMIN)
    async with ServiceClient(closed.url, sender) as admin, ServiceClient(closed.url, viewer) as client:
        await admin.register("A")
        accept = {"accept": "text/event-stream"}
        async with client.http.stream("POST", "/graphql", json={"query": QUERY}, headers=accept) as response:
            lines = response.aiter_lines()
            events: list[Any] = []
            reading = asyncio.create_task(read_all(lines, events))
            while not events:
                await admin.ingest(
                    {"machine_id": "A", "timestamp": 1, "metrics": {"a": time.time()}}, onConflict="overwrite"
                )
            await connection.execute("UPDATE api_keys SET revoked_at = now() WHERE prefix = $1", viewer.split("_")[1])
            async with asyncio.timeout(30):
                await reading
        assert events[0]["data"]["measurements"]["measurements"] == [{"machineId": "A"}]
        assert events[-1] == {
            "data": None,
            "errors": [{"message": REVOKED, "extensions": {"code": "UNAUTHENTICATED"}}],
        }
        refused = await client.http.post("/graphql", json={"query": QUERY}, headers=accept)
        assert refused.status_code == 401


async def read_all(lines: AsyncIterator[str], events: list[Any]) -> None:
    async for line in lines:
        if line.startswith("data:") and line != "data:":
            text = line.removeprefix("data:").strip()
            if text:
                events.append(msgspec.json.decode(text))


async def test_what_may_not_be_followed_is_an_error_of_the_operation_over_both(
    closed: ServiceClient, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    async with ServiceClient(closed.url, await make(connection, Role.INGEST, name="gateway")) as gateway:
        said = (
            "Subscription.measurements is for viewer, operator, engineer and admin, and key:gateway is none of these."
        )
        async with gateway.subscribe(QUERY) as subscription:
            message = await subscription.next_message()
            assert (message["type"], message["payload"][0]["message"]) == ("error", said)
        response = await gateway.http.post("/graphql", json={"query": QUERY}, headers={"accept": "text/event-stream"})
        assert said in response.text


@pytest.mark.parametrize("payload", [{"apiKey": "aurum_nobody"}, [1], None])
async def test_what_a_client_sends_after_it_was_refused_is_not_read(closed: ServiceClient, payload: Any) -> None:
    init = msgspec.json.encode({"type": "connection_init", "payload": payload}).decode()
    subscribe = '{"type": "subscribe", "id": "1", "payload": {"query": "{ fleet { live } }"}}'
    address = closed.url.replace("http", "ws", 1) + "/graphql"
    with hear_log("uvicorn.error") as said:
        async with websockets.connect(
            address, subprotocols=[websockets.Subprotocol("graphql-transport-ws")], proxy=None
        ) as socket:
            for message in (init, subscribe, subscribe, init):
                await socket.send(message)
            code, _ = await hear(socket)
    assert code == (4400 if payload == [1] else 4403)
    assert not [line for line in said if "Exception" in line]


@pytest.mark.parametrize("kind", ["subscribe", "complete"])
@pytest.mark.parametrize("identity", [{"a": 1}, ["1"], 1, None])
async def test_an_id_that_is_no_text_closes_the_socket_as_the_client_s_mistake(
    closed: ServiceClient, connection: asyncpg.Connection[asyncpg.Record], kind: str, identity: Any
) -> None:
    socket, answer = await begin(closed, {"apiKey": await make(connection, Role.VIEWER)})
    assert answer["type"] == "connection_ack"
    message = {"type": kind, "id": identity, "payload": {"query": "{ fleet { live } }"}}
    await socket.send(msgspec.json.encode(message).decode())
    assert await hear(socket) == (4400, "The id of a message must be a text")
