"""How one process stops: it says so first, still takes what comes, and no stream holds it up."""

from __future__ import annotations

import asyncio
import signal
import time

import httpx
import msgspec
import pytest
import websockets

from tests.client import ServiceClient
from tests.cluster import Member
from tests.faults.processes import needs_proc
from tests.ports import find_free_port
from tests.test_ingest import reading
from tests.test_intake import count
from tests.test_sse import listen
from tests.test_startup import FACTORY, start, wait_until_ready

pytestmark = [needs_proc, pytest.mark.timeout(300)]

PLAINLY = ["uvicorn", "--factory", FACTORY, "--port", "{port}"]  # waits for its requests without end
SERVE = ["invoke", "serve"]


@pytest.mark.parametrize("command", [PLAINLY, SERVE], ids=["uvicorn", "invoke"])
async def test_a_stream_of_events_does_not_hold_up_the_end(command: list[str], database_url: str) -> None:
    port = find_free_port()
    # What it would wait for requests that are under way, were a stream one.
    with start(command, port, DATABASE_URL=database_url, AURUM_INGEST_DEADLINE="PT60S") as process:
        await wait_until_ready(port)
        async with ServiceClient(f"http://127.0.0.1:{port}") as client, listen(client) as events:
            await client.register("PRESS-1")
            await client.ingest(reading())
            assert (await events.next(30))["event"] == "next"
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            # Without an event `complete`, after which a client wouldn't come again, and without an error.
            with pytest.raises(AssertionError, match="the stream has ended"):
                await events.next(30)
        output, _ = await asyncio.to_thread(process.communicate, timeout=60)
        assert time.monotonic() - began < 45
    assert "Traceback" not in output
    assert "exceeded" not in output


async def test_a_websocket_is_told_that_the_service_starts_again(database_url: str) -> None:
    port = find_free_port()
    with start(SERVE, port, DATABASE_URL=database_url) as process:
        await wait_until_ready(port)
        async with websockets.connect(
            f"ws://127.0.0.1:{port}/graphql",
            subprotocols=[websockets.Subprotocol("graphql-transport-ws")],
            proxy=None,
            open_timeout=30,
        ) as socket:
            await socket.send('{"type": "connection_init"}')
            await socket.recv()
            process.send_signal(signal.SIGTERM)
            with pytest.raises(websockets.ConnectionClosedError) as closed:
                await asyncio.wait_for(socket.recv(), 30)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012


async def test_a_process_that_stops_says_so_and_takes_what_still_comes(database_url: str) -> None:
    member = Member(database_url, drain="PT1H")
    try:
        await member.start()
        async with ServiceClient(member.url) as client, ServiceClient(member.url) as other:
            await client.register("PRESS-1")
            assert "connection" not in (await other.http.get("/health/live")).headers
            member.tell_to_stop()
            async with asyncio.timeout(30):
                while (ready := await client.http.get("/health/ready")).status_code == 200:  # noqa: ASYNC110 - of another process
                    await asyncio.sleep(0.01)
            assert ready.status_code == 503
            assert ready.json() == {
                "status": "not ready",
                "code": "STOPPING",
                "message": "The service was told to stop: send requests to another process.",
            }
            # Still taken, on a connection that was there and on a new one; and the next is to go elsewhere.
            for each in (other, client):
                response = await each.http.post("/ingest", content=msgspec.json.encode(reading()))
                assert response.status_code == 200
                assert response.headers["connection"] == "close"
            assert response.json() == count(duplicates=1)
            await member.stop()  # told twice: at once
            with pytest.raises(httpx.ConnectError):
                await client.http.get("/health/live")
    finally:
        await member.end()


async def test_a_second_signal_ends_it_at_once(database_url: str) -> None:
    port = find_free_port()
    with start(SERVE, port, DATABASE_URL=database_url, AURUM_DRAIN="PT1H") as process:
        await wait_until_ready(port)
        process.send_signal(signal.SIGTERM)
        async with httpx.AsyncClient(timeout=30, trust_env=False) as http, asyncio.timeout(30):
            while (await http.get(f"http://127.0.0.1:{port}/health/ready")).status_code == 200:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.communicate, timeout=60)
