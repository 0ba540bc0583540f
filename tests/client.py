"""A client of the service as a user would write one: HTTP, and GraphQL over HTTP and WebSocket."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import httpx
import msgspec
import websockets

from tests.following import is_here, is_up

PATIENCE = 30.0  # seconds, for what is bound to come


class Subscription:
    """One subscription over graphql-transport-ws."""

    def __init__(self, socket: websockets.ClientConnection, field: str) -> None:
        self._socket = socket
        self._field = field
        self._early: list[Any] = []  # messages that came before anybody asked for them

    async def wait_until_up(self, operation: str) -> None:
        """Until the service in this process has the subscription of this id, or has said more of it, or hung up."""
        async with asyncio.timeout(PATIENCE):
            while not is_up(operation) and not self._early:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        try:
                            self._early.append(msgspec.json.decode(await self._socket.recv()))
                        except websockets.ConnectionClosed:
                            return

    async def next(self, seconds: float = PATIENCE) -> Any:
        """The next event. Fails on an error, and when nothing comes in time."""
        message = await self.next_message(seconds)
        assert message["type"] == "next", message
        assert "errors" not in message["payload"], message
        return message["payload"]["data"][self._field]

    async def next_message(self, seconds: float = PATIENCE) -> Any:
        """The next message of the protocol, whatever it is."""
        if self._early:
            return self._early.pop(0)
        async with asyncio.timeout(seconds):
            return msgspec.json.decode(await self._socket.recv())

    @property
    def response_headers(self) -> Any:
        """The headers of the handshake's answer."""
        assert self._socket.response is not None
        return self._socket.response.headers

    async def send(self, payload: Any, operation: str = "2") -> None:
        """Starts another operation on the same connection."""
        await self._socket.send(
            msgspec.json.encode({"id": operation, "type": "subscribe", "payload": payload}).decode()
        )

    async def complete(self, operation: str) -> None:
        """Ends an operation of this connection."""
        await self._socket.send(msgspec.json.encode({"id": operation, "type": "complete"}).decode())

    async def expect_silence(self, seconds: float = 0.5) -> None:
        """Fails when anything comes within that time."""
        try:
            message = await self.next_message(seconds)
        except TimeoutError:
            return
        raise AssertionError(f"unexpected: {message}")


class ServiceClient:
    """A client of one service."""

    def __init__(self, url: str, credentials: str | None = None) -> None:
        self.url = url
        self.credentials = credentials
        headers = {"content-type": "application/json"}
        if credentials is not None:
            headers["authorization"] = f"Bearer {credentials}"
        # Without TLS to verify: reading the authorities' certificates would take longer than many a test.
        # Idle connections are given up long before the service does: what is sent over one just then would be lost.
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=2)
        self.http = httpx.AsyncClient(
            base_url=url, headers=headers, timeout=60, limits=limits, trust_env=False, verify=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def post_graphql(self, query: str, **variables: Any) -> Any:
        """The whole answer of an operation, errors included."""
        response = await self.http.post("/graphql", json={"query": query, "variables": variables})
        assert response.status_code == 200, response.text
        return response.json()

    async def ask(self, query: str, **variables: Any) -> Any:
        """The data of an operation that must succeed."""
        answer = await self.post_graphql(query, **variables)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    async def refuse(self, query: str, **variables: Any) -> Any:
        """The one error of an operation that must fail."""
        answer = await self.post_graphql(query, **variables)
        assert len(answer.get("errors", [])) == 1, answer
        return answer["errors"][0]

    async def register(self, *machine_ids: str) -> None:
        for machine_id in machine_ids:
            await self.ask(
                "mutation ($input: RegisterMachineInput!) { registerMachine(input: $input) { machineId } }",
                input={"machineId": machine_id, "machineType": "press", "location": "Hall 2"},
            )

    async def ingest(self, readings: Any, **params: str) -> Any:
        """The answer to readings that are right as a whole."""
        response = await self.http.post("/ingest", json=readings, params=params)
        assert response.status_code == 200, response.text
        return response.json()

    @asynccontextmanager
    async def subscribe(self, query: str, **variables: Any) -> AsyncIterator[Subscription]:
        """A subscription to the one field of `query`, up once the block begins."""
        field = re.findall(r"\w+", query.partition("{")[2])[0]
        url = self.url.replace("http", "ws", 1) + "/graphql"
        async with websockets.connect(
            url, subprotocols=[websockets.Subprotocol("graphql-transport-ws")], proxy=None, open_timeout=PATIENCE
        ) as socket:
            begin: dict[str, Any] = {"type": "connection_init"}
            if self.credentials is not None:
                begin["payload"] = {"authorization": f"Bearer {self.credentials}"}
            await socket.send(msgspec.json.encode(begin).decode())
            assert msgspec.json.decode(await socket.recv())["type"] == "connection_ack"
            payload = {"query": query, "variables": variables}
            await socket.send(msgspec.json.encode({"id": "1", "type": "subscribe", "payload": payload}).decode())
            # The protocol has no answer to `subscribe`; a ping that is answered was read after it.
            await socket.send(msgspec.json.encode({"type": "ping"}).decode())
            assert msgspec.json.decode(await socket.recv())["type"] == "pong"
            subscription = Subscription(socket, field)
            # In another process it's up before anything that is sent from now on is seen to, unless it names machines, which are
            # looked for in the database first.
            if query.lstrip().startswith("subscription") and is_here(self.url):
                await subscription.wait_until_up(f"{subscription.response_headers['x-request-id']}.1")
            yield subscription
