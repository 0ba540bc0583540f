"""What browsers, names, proxies and slow clients may do: over real sockets, and to the byte."""

from __future__ import annotations

import asyncio
import gzip
import logging
import re
from contextlib import suppress
from typing import Any

import asyncpg
import msgspec
import pytest
import websockets

from app.ingest import stall
from app.ops import health, protocol
from app.ops.headers import ALWAYS, UNLESS_GIVEN
from tests.client import ServiceClient
from tests.conftest import run_service
from tests.test_sse import listen

SAFE = {name.decode(): value.decode() for name, value in (*ALWAYS, *UNLESS_GIVEN)}
DASHBOARD = "https://dashboard.plant.example"
ASK = {"query": "{ __typename }"}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time for the database to answer whoever asks for the health, on a busy machine as well."""
    monkeypatch.setattr(health, "PATIENCE", 30.0)


def pick(headers: Any) -> dict[str, str]:
    return {name: headers[name] for name in SAFE if name in headers}


async def exchange(service: ServiceClient, *pieces: bytes, wait: float = 0) -> bytes:
    """All that comes back for the bytes, which go out as they are, until the service closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(service.url.rpartition(":")[2]))
    try:
        reading = asyncio.create_task(_read_all(reader))
        with suppress(ConnectionError):  # an answer may come before all is sent
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(wait)
        return await asyncio.wait_for(reading, 60)
    finally:
        writer.close()


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    # Piece by piece: a reset, which may follow an answer that came before all was sent, would take what wasn't read with it.
    received = b""
    with suppress(ConnectionError):
        while piece := await reader.read(65_536):
            received += piece
    return received


def read_error(answer: bytes) -> tuple[int, dict[str, str], dict[str, str]]:
    """Status, headers and body of one answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = [line.split(": ", 1) for line in lines]
    return int(status.split()[1]), {name.lower(): value for name, value in headers}, msgspec.json.decode(body)


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("GET", "/health/live", None, 200),
        ("POST", "/graphql", b'{"query": "{ __typename }"}', 200),
        ("POST", "/graphql", b"{", 400),
        ("POST", "/ingest", b"[]", 200),
        ("POST", "/ingest", b"{", 400),
        ("GET", "/ingest", None, 405),
        ("OPTIONS", "/graphql", None, 204),
        ("GET", "/nowhere", None, 404),
        ("POST", "/ingest", b"x" * 2_000, 413),
    ],
)
async def test_every_answer_tells_browsers_to_do_nothing_with_it(
    database_url: str, method: str, path: str, content: bytes | None, status: int
) -> None:
    async with run_service(database_url, AURUM_MAX_BODY_BYTES="1024") as service:
        response = await service.http.request(method, path, content=content)
    assert response.status_code == status
    assert pick(response.headers) == SAFE
    assert "server" not in response.headers
    assert "access-control-allow-origin" not in response.headers


async def test_a_media_type_that_is_not_taken_a_bug_and_a_stream_have_them_too(
    service: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = await service.http.post("/ingest", content=b"x", headers={"content-type": "text/plain"})
    assert (refused.status_code, pick(refused.headers)) == (415, SAFE)

    async def break_down(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr("app.ops.health.require_schema", break_down)
    logging.getLogger("app.ops.answers").disabled = True
    try:
        broken = await service.http.get("/health/ready")
    finally:
        logging.getLogger("app.ops.answers").disabled = False
    assert (broken.status_code, pick(broken.headers)) == (500, SAFE)
    async with listen(service) as events:
        assert pick(events.response.headers) == SAFE | {"cache-control": "no-cache, no-transform"}


async def test_a_websocket_has_them_and_one_that_is_refused_too(service: ServiceClient) -> None:
    url = service.url.replace("http", "ws", 1)
    async with service.subscribe("{ nope }") as subscription:
        assert pick(subscription.response_headers) == SAFE
    with pytest.raises(websockets.InvalidStatus) as caught:
        await websockets.connect(f"{url}/nowhere", proxy=None)
    assert (caught.value.response.status_code, pick(caught.value.response.headers)) == (404, SAFE)
    assert "x-request-id" in caught.value.response.headers


async def test_a_websocket_elsewhere_than_at_graphql_finds_nothing(service: ServiceClient) -> None:
    url = service.url.replace("http", "ws", 1)
    for path in ("/nowhere", "/", "/health/live", "/ingest", "/metrics", "/graphql/graphiql/page.js"):
        with pytest.raises(websockets.InvalidStatus) as caught:
            await websockets.connect(f"{url}{path}", proxy=None)
        assert caught.value.response.status_code == 404
        assert msgspec.json.decode(caught.value.response.body) == {
            "code": "NOT_FOUND",
            "message": "There is no WebSocket at this path: subscriptions are at /graphql.",
        }
    for path in ("/graphql", "/graphql/", "//graphql"):
        async with websockets.connect(
            url + path, subprotocols=[websockets.Subprotocol("graphql-transport-ws")], proxy=None
        ):
            pass


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health/live", 200),
        ("/health/ready", 200),
        ("/metrics", 200),
        ("/graphql", 200),
        ("/graphql/graphiql/page.js", 200),
        ("/graphql/graphiql/nothing.js", 404),
        ("/nowhere", 404),
        ("/ingest", 405),
    ],
)
async def test_head_is_answered_as_get_without_a_body(
    service: ServiceClient, monkeypatch: pytest.MonkeyPatch, path: str, status: int
) -> None:
    monkeypatch.setattr("app.graphql.graphiql.page.are_there", lambda: True)
    accept = {"accept": "text/html"} if path == "/graphql" else {}
    asked = await service.http.get(path, headers=accept)
    told = await service.http.head(path, headers=accept)
    assert (told.status_code, told.content) == (asked.status_code, b"") == (status, b"")
    own = {"date", "x-request-id", "content-length"}
    assert {name: value for name, value in told.headers.items() if name not in own} == {
        name: value for name, value in asked.headers.items() if name not in own
    }
    if path != "/metrics":  # which has counted one more
        assert told.headers["content-length"] == asked.headers["content-length"] == str(len(asked.content))
    # On the same connection nothing of a body is left to be taken for the next answer.
    assert (await service.http.get("/health/live")).json() == {"status": "live"}
    route = path if path in {"/health/live", "/health/ready", "/metrics", "/graphql", "/ingest"} else "other"
    counts = (await service.http.get("/metrics")).text
    assert f'method="HEAD",route="{route}",status="{status}"' in counts
    if status >= 400:
        code = "NOT_FOUND" if status == 404 else "METHOD_NOT_ALLOWED"
        assert f'aurumai_http_errors_total{{code="{code}"}} 2.0' in counts


async def test_head_executes_no_query(service: ServiceClient) -> None:
    told = await service.http.head("/graphql", params={"query": "{ __typename }"})
    assert told.status_code == 405


async def test_what_is_no_http_is_refused_like_everything_else(service: ServiceClient) -> None:
    status, headers, body = read_error(await exchange(service, b"HELO example\r\n\r\n"))
    assert status == 400
    assert body == {"code": "BAD_REQUEST", "message": "Invalid HTTP request received."}
    assert pick(headers) == SAFE


# --- Pages of other sites ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1:1"])
async def test_a_page_of_another_site_reaches_nothing(service: ServiceClient, origin: str) -> None:
    await service.register("A")
    reading = {"machine_id": "A", "timestamp": 1000, "metrics": {"a": 1}}
    # Without a Content-Type, which a page may leave out, a browser sends it without asking first.
    for path, content in (("/ingest", msgspec.json.encode(reading)), ("/graphql", msgspec.json.encode(ASK))):
        response = await service.http.post(path, content=content, headers={"origin": origin})
        assert response.status_code == 403
        assert response.json() == {
            "code": "ORIGIN_NOT_TRUSTED",
            "message": f"Pages of {origin!r} may not use this service: name it in AURUM_CORS_ORIGINS if they shall.",
        }
        assert pick(response.headers) == SAFE
        assert "access-control-allow-origin" not in response.headers
    assert (await service.ask("{ measurements { totalCount } }"))["measurements"]["totalCount"] == 0


async def test_the_service_s_own_pages_and_programs_go_on(service: ServiceClient) -> None:
    response = await service.http.post("/graphql", json=ASK, headers={"origin": service.url})
    assert response.json()["data"] == {"__typename": "Query"}


async def test_a_page_of_another_site_opens_no_websocket(database_url: str) -> None:
    async with run_service(database_url, AURUM_CORS_ORIGINS=DASHBOARD) as service:
        url = service.url.replace("http", "ws", 1) + "/graphql"
        protocols = [websockets.Subprotocol("graphql-transport-ws")]
        with pytest.raises(websockets.InvalidStatus) as caught:
            await websockets.connect(
                url, subprotocols=protocols, origin=websockets.Origin("https://evil.example"), proxy=None
            )
        response = caught.value.response
        assert response.status_code == 403
        assert msgspec.json.decode(response.body or b"")["code"] == "ORIGIN_NOT_TRUSTED"
        assert pick(response.headers) == SAFE
        for origin in (DASHBOARD, service.url):
            async with websockets.connect(
                url, subprotocols=protocols, origin=websockets.Origin(origin), proxy=None
            ) as socket:
                await socket.send('{"type": "connection_init"}')
                assert msgspec.json.decode(await socket.recv())["type"] == "connection_ack"


async def test_a_page_that_is_named_may_ask_and_read(database_url: str) -> None:
    async with run_service(database_url, AURUM_CORS_ORIGINS=f"https://other.example,{DASHBOARD}") as service:
        asking = {"origin": DASHBOARD, "access-control-request-method": "POST"}
        preflight = await service.http.options("/graphql", headers=asking)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == DASHBOARD
        assert preflight.headers["access-control-allow-methods"] == "GET, POST"
        assert {"authorization", "content-type", "graphql-require-preflight", "last-event-id"} <= set(
            preflight.headers["access-control-allow-headers"].split(", ")
        )
        assert preflight.headers["access-control-max-age"] == "600"
        assert "access-control-allow-credentials" not in preflight.headers

        for path, status in (("/graphql", 200), ("/ingest", 200), ("/nowhere", 404)):
            response = await service.http.post(path, json=ASK, headers={"origin": DASHBOARD})
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == DASHBOARD
            assert response.headers["access-control-expose-headers"] == "retry-after, x-request-id"
            assert response.headers["vary"] == "Origin"
        # An answer that a cache keeps for one page isn't to be shown to another.
        plain = await service.http.get("/health/live")
        assert plain.headers["vary"] == "Origin"
        assert "access-control-allow-origin" not in plain.headers

        refused = await service.http.options("/graphql", headers={**asking, "origin": "https://evil.example"})
        assert refused.status_code == 403
        assert "access-control-allow-origin" not in refused.headers


# --- Names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trusted", "host", "status"),
    [
        ("", "localhost:8000", 200),
        ("", "LOCALHOST", 200),
        ("", "192.168.7.9:8000", 200),
        ("", "[::1]:8000", 200),
        ("", "rebound.evil.example", 400),
        ("", "localhost.evil.example", 400),
        ("", "", 400),
        ("telemetry.plant.example", "telemetry.plant.example", 200),
        ("telemetry.plant.example", "Telemetry.Plant.example:443", 200),
        ("telemetry.plant.example", "127.0.0.1", 400),
        ("telemetry.plant.example", "evil.telemetry.plant.example", 400),
        ("telemetry.plant.example,127.0.0.1", "127.0.0.1:8000", 200),
    ],
)
async def test_a_name_that_the_service_is_not_known_by_is_refused(
    database_url: str, trusted: str, host: str, status: int
) -> None:
    async with run_service(database_url, **({"AURUM_TRUSTED_HOSTS": trusted} if trusted else {})) as service:
        for _ in range(2):  # a name that is remembered is as good as before
            response = await service.http.post("/graphql", json=ASK, headers={"host": host})
            assert response.status_code == status
        if status == 400:
            assert response.json() == {
                "code": "HOST_NOT_TRUSTED",
                "message": f"The service isn't known as {host!r}: name it in AURUM_TRUSTED_HOSTS if it shall be.",
            }
            assert pick(response.headers) == SAFE
        # A balancer asks by the address that it has.
        assert (await service.http.get("/health/ready", headers={"host": host})).status_code == 200


async def test_a_websocket_to_another_name_is_refused(database_url: str) -> None:
    async with run_service(database_url, AURUM_TRUSTED_HOSTS="telemetry.plant.example") as service:
        with pytest.raises(websockets.InvalidStatus) as caught:
            await websockets.connect(service.url.replace("http", "ws", 1) + "/graphql", proxy=None)
        assert caught.value.response.status_code == 400
        assert msgspec.json.decode(caught.value.response.body or b"")["code"] == "HOST_NOT_TRUSTED"


async def test_a_service_that_others_reach_answers_to_any_name_until_told_otherwise(database_url: str) -> None:
    async with run_service(database_url, AURUM_HOST="0.0.0.0") as service:
        response = await service.http.post("/graphql", json=ASK, headers={"host": "telemetry.plant.example"})
        assert response.json()["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"  # as by any other name


# --- Proxies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("proxies", "secure"), [("", False), ("10.0.0.0/8", False), ("127.0.0.0/8", True)])
async def test_what_is_forwarded_counts_from_a_trusted_proxy_alone(
    database_url: str, proxies: str, secure: bool
) -> None:
    async with run_service(database_url, **({"AURUM_TRUSTED_PROXIES": proxies} if proxies else {})) as service:
        response = await service.http.get("/health/live", headers={"x-forwarded-proto": "https"})
        assert response.headers.get("strict-transport-security") == ("max-age=31536000" if secure else None)


# --- Slow clients -----------------------------------------------------------------------------------------------


PATIENCE = 2.0  # seconds of the service's here: longer than a busy machine keeps whoever is in time waiting


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEAD_SECONDS", "BODY_SECONDS"):
        monkeypatch.setattr(protocol, name, PATIENCE)
    monkeypatch.setattr(protocol, "LOOK", 0.05)


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([], id="nothing"),
        pytest.param([b"GET /health/live HTTP/1.1\r\nHost: loc"], id="half a head"),
        pytest.param([b"GET /health/live HTTP/1.1\r\n", *[b"X-A: b\r\n"] * 100], id="a line of it now and then"),
    ],
)
async def test_a_head_that_does_not_come_is_given_up(
    impatient: None, service: ServiceClient, pieces: list[bytes]
) -> None:
    status, headers, body = read_error(await exchange(service, *pieces, wait=0.03))
    assert (status, body["code"]) == (408, "REQUEST_TIMEOUT")
    assert pick(headers) == SAFE
    assert headers["connection"] == "close"


async def test_a_second_head_that_does_not_come_is_given_up_as_well(impatient: None, service: ServiceClient) -> None:
    first = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = await exchange(service, first, b"GET /he", wait=0.1)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    _, _, second = answer.partition(b'{"status":"live"}')
    assert read_error(second)[0] == 408


async def test_a_head_that_does_not_end_is_refused(service: ServiceClient) -> None:
    endless = [b"GET /health/live HTTP/1.1\r\n", *[b"X-A: " + b"b" * 8_000 + b"\r\n"] * 9]
    status, _, body = read_error(await exchange(service, *endless))
    assert (status, body["code"]) == (431, "REQUEST_HEADER_FIELDS_TOO_LARGE")


async def test_half_an_operation_and_then_silence_is_given_up(impatient: None, service: ServiceClient) -> None:
    head = (
        b"POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"
    )
    status, headers, body = read_error(await exchange(service, head))
    assert (status, body["code"]) == (408, "REQUEST_TIMEOUT")
    assert pick(headers) == SAFE


HEAD = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"


async def test_an_operation_that_trickles_is_given_up_and_one_that_goes_on_is_not(
    impatient: None, service: ServiceClient
) -> None:
    content = msgspec.json.encode(ASK) + b" " * 4_000
    head = HEAD % (b"/graphql", b"application/json", len(content))
    status, _, body = read_error(await exchange(service, head, *[b" "] * 300, wait=0.02))
    assert status == 408
    assert body == {
        "code": "REQUEST_TIMEOUT",
        "message": "Nothing of the body arrived for 2 s, or less than 240 bytes a second.",
    }
    # Longer than a pause may be, in pieces that are quick enough.
    pieces = [content[n : n + 100] for n in range(0, len(content), 100)]
    answer = await exchange(service, head, *pieces, wait=0.06)
    assert answer.startswith(b"HTTP/1.1 200 OK")


async def test_readings_that_trickle_are_given_up_and_what_is_durable_is_told(
    service: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stall, "STALL", PATIENCE)
    await service.register("A")
    line = b'{"machine_id":"A","timestamp":%d,"metrics":{"a":1}}\n'
    # The batch before the last is durable once this one is read.
    lines = b"".join(line % (n * 1000) for n in range(12_000))
    head = HEAD % (b"/ingest", b"application/x-ndjson", 10 * len(lines))
    status, _, body = read_error(await exchange(service, head, lines, *[b" "] * 300, wait=0.02))
    assert (status, body["code"]) == (408, "REQUEST_TIMEOUT")
    assert body["message"] == (
        "Less than 240 bytes a second of the body arrived: send it again, once it is there as a whole. What is under "
        "`durable` is stored, and needn't be sent again."
    )
    durable: Any = body["durable"]
    assert durable["lines"] == durable["accepted"] > 1_000
    # Longer than a pause may be, in pieces that are quick enough.
    pieces = [b"".join(line % (n * 1000) for n in range(m, m + 10)) for m in range(0, 400, 10)]
    head = HEAD % (b"/ingest", b"application/x-ndjson", sum(map(len, pieces)))
    assert b'"duplicates":400' in await exchange(service, head, *pieces, wait=0.06)


async def test_a_body_that_the_service_itself_does_not_take_is_waited_for(
    impatient: None,
    service: ServiceClient,
    connection: asyncpg.Connection[asyncpg.Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stall, "STALL", PATIENCE)
    await service.register("A")
    lines = b"".join(b'{"machine_id":"A","timestamp":%d,"metrics":{"a":1}}\n' % n for n in range(30_000))
    await connection.execute("BEGIN; LOCK TABLE raw_measurements IN ACCESS EXCLUSIVE MODE")
    head = HEAD % (b"/ingest", b"application/x-ndjson", len(lines))
    sending = asyncio.create_task(exchange(service, head + lines))
    await asyncio.sleep(PATIENCE + 1)  # longer than any pause may be
    assert not sending.done()
    await connection.execute("ROLLBACK")
    assert b'"accepted":30000' in await sending


async def test_who_does_not_take_an_answer_is_cut_off(service: ServiceClient, monkeypatch: pytest.MonkeyPatch) -> None:
    await service.register("A")
    await service.ingest([{"machine_id": "A", "timestamp": n, "metrics": {"a": n}} for n in range(10_000)])
    monkeypatch.setattr(protocol, "ANSWER_SECONDS", 0.2)
    query = "{ measurements(first: 10000) { nodes { machineId timestamp metrics } } }"
    body = msgspec.json.encode({"query": query})
    request = (
        b"POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    _, writer = await asyncio.open_connection("127.0.0.1", int(service.url.rpartition(":")[2]), limit=2**12)
    # More answers than fit between the two; it takes nothing of them, and hears that nobody is there any longer.
    writer.write((request % len(body) + body) * 40)
    cut_off = asyncio.create_task(_write_on(writer))
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(cut_off, 60)
    assert await service.ask("{ __typename }") == {"__typename": "Query"}


async def _write_on(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def test_a_client_that_thinks_for_long_is_answered_on_the_same_connection(
    impatient: None, service: ServiceClient
) -> None:
    first = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = first.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answers = await exchange(service, first, last, wait=PATIENCE + 0.5)  # longer than a head may take
    assert answers.count(b"HTTP/1.1 200 OK") == answers.count(b'{"status":"live"}') == 2


async def test_more_connections_than_there_may_be_are_told_so(database_url: str) -> None:
    async with run_service(database_url, AURUM_MAX_CONNECTIONS="3") as service:
        port = int(service.url.rpartition(":")[2])
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        status, headers, body = read_error(await exchange(service))
        assert (status, body["code"]) == (503, "OVERLOADED")
        assert pick(headers) == SAFE
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
        async with asyncio.timeout(30):  # until the service has heard of it, too
            while (answer := await service.http.get("/health/live")).status_code == 503:
                pass
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("path", "content", "answer"),
    [
        ("/graphql", b'{"query": "{ __typename }"}', b'{"data":{"__typename":"Query"}'),
        ("/ingest", b'[{"machine_id": "h2c"}]', b'{"accepted":0,"duplicates":0,"conflicts":0,"rejectedCount":1'),
    ],
)
async def test_an_offer_to_go_on_in_http_2_is_passed_over_and_the_body_is_read(
    service: ServiceClient, path: str, content: bytes, answer: bytes
) -> None:
    # As Java's client sends every request by default.
    head = (
        f"POST {path} HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: {len(content)}\r\n"
        "Host: localhost\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\n"
        "Content-Type: application/json\r\n"
    ).encode()
    last = head.replace(b"Connection: Upgrade", b"Connection: close, Upgrade")
    answers = await exchange(service, head + b"\r\n" + content, last + b"\r\n" + content, wait=0.05)
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert answers.count(answer) == 2


@pytest.mark.parametrize("cut", [b"Upgrade: h2c", b"rade: h2c", b" h2c", b"2c\r\n", b"\r\nContent-Type", None])
async def test_an_offer_that_comes_in_pieces_is_passed_over_as_well(service: ServiceClient, cut: bytes | None) -> None:
    content = b'{"query": "{ __typename }"}'
    sent = (
        f"POST /graphql HTTP/1.1\r\nConnection: close, Upgrade, HTTP2-Settings\r\nContent-Length: {len(content)}\r\n"
        "Host: localhost\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\n"
        "Content-Type: application/json\r\n\r\n"
    ).encode() + content
    at = 0 if cut is None else sent.index(cut)
    pieces = [sent[n : n + 1] for n in range(len(sent))] if cut is None else [sent[:at], sent[at:]]
    answer = await exchange(service, *pieces, wait=0.05 if cut else 0.001)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b'{"data":{"__typename":"Query"}' in answer


async def test_who_hangs_up_in_the_middle_of_an_operation_is_no_failure_of_the_service(service: ServiceClient) -> None:
    head = (
        b"POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"
    )
    _, writer = await asyncio.open_connection("127.0.0.1", int(service.url.rpartition(":")[2]))
    writer.write(head)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(30):
        while 'method="POST",route="/graphql"' not in (counts := (await service.http.get("/metrics")).text):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.02)
    statuses = re.findall(r'_seconds_count\{method="POST",route="/graphql",status="(\d+)"\}', counts)
    assert statuses == ["400"]


async def test_an_operation_that_is_compressed_is_refused_by_its_coding(service: ServiceClient) -> None:
    content = gzip.compress(msgspec.json.encode(ASK))
    response = await service.http.post("/graphql", content=content, headers={"content-encoding": "gzip"})
    assert response.status_code == 415
    assert response.json()["errors"] == [
        {
            "message": "/graphql takes bodies as they are, not in gzip.",
            "extensions": {"code": "UNSUPPORTED_MEDIA_TYPE", "field": "Content-Encoding"},
        }
    ]
