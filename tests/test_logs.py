"""The log as whoever is on call reads it, or a program for them: every line in one form, and nothing in it that isn't theirs."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest
import websockets

from app.correlation import CorrelationFilter
from app.main import create_app
from app.ops.logs import SELDOM, JsonFormatter, PlainFormatter, UnaskedFilter, describe_exception
from app.ops.requests import MOST_LINES, Requests
from app.settings import load_settings
from tests.client import ServiceClient
from tests.ports import find_free_port
from tests.test_startup import start, wait_until_ready

SECRET = "pa55w0rd"  # in whatever a client sends


def make_record(message: str, *args: object, name: str = "app.room", **extra: object) -> logging.LogRecord:
    record = logging.LogRecord(name, logging.WARNING, __file__, 1, message, args, None)
    record.__dict__.update(extra)
    CorrelationFilter().filter(record)
    return record


def format_json(record: logging.LogRecord) -> Any:
    line = JsonFormatter().format(record)
    assert "\n" not in line
    return msgspec.json.decode(line)


def test_a_line_of_json_has_what_the_event_has() -> None:
    record = make_record("Could not %s.", "prune", code="QUERY_TIMEOUT", seconds=0.25, others="left out")
    told = format_json(record)
    assert abs(datetime.fromisoformat(told.pop("time")) - datetime.now(UTC)) < timedelta(minutes=1)
    assert told == {
        "level": "warning",
        "logger": "app.room",
        "message": "Could not prune.",
        "code": "QUERY_TIMEOUT",
        "seconds": 0.25,
    }


def test_a_line_stays_one_whatever_is_quoted_in_it() -> None:
    record = make_record("A name: %s", "x\n2026-01-31 ERROR app: forged")
    assert format_json(record)["message"] == "A name: x\n2026-01-31 ERROR app: forged"
    assert PlainFormatter().format(record).endswith("app.room: A name: x\\n2026-01-31 ERROR app: forged")
    record = make_record("A name: %s", "\x1b[2J\x9b31m\r\u2028é")
    assert PlainFormatter().format(record).endswith(r"app.room: A name: \x1b[2J\x9b31m\r\u2028é")
    assert describe_exception(ValueError("x\n2026-01-31 ERROR app: \x1b[2J")).endswith(
        r"ValueError: x\n2026-01-31 ERROR app: \x1b[2J"
    )


async def test_an_exception_is_told_with_its_causes_and_without_the_rows_that_postgres_quotes(
    connection: asyncpg.Connection[asyncpg.Record],
) -> None:
    record = make_record("Unforeseen")
    add = "INSERT INTO machines (machine_id, machine_type, location) VALUES ($1, 'a', 'b')"
    await connection.execute(add, SECRET)
    try:
        try:
            await connection.execute(add, SECRET)
        except asyncpg.UniqueViolationError as error:
            raise RuntimeError("this came of it") from error
    except RuntimeError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    for text in (format_json(record)["exception"], PlainFormatter().format(record)):
        first, second = text.split("which led to")
        assert "UniqueViolationError: duplicate key value violates unique constraint" in first
        assert second.endswith("\nRuntimeError: this came of it")
        assert "test_logs.py" in first
        assert SECRET not in text


def test_what_uvicorn_says_of_urls_and_frames_is_left_out() -> None:
    passes = UnaskedFilter().filter
    assert not passes(make_record('%s - "WebSocket %s" [accepted]', "127.0.0.1", "/graphql?x=1", name="uvicorn.error"))
    frame = make_record("< TEXT '%s'", SECRET, name="uvicorn.error")
    frame.levelno = logging.DEBUG
    assert not passes(frame)
    assert not passes(make_record("connection open", name="uvicorn.error"))
    assert not passes(make_record("connection closed", name="uvicorn.error"))
    assert passes(make_record("Application startup complete.", name="uvicorn.error"))
    assert passes(make_record('"WebSocket %s"', name="app.room"))


def test_requests_that_are_none_do_not_fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = UnaskedFilter().filter
    garbage = make_record("Invalid HTTP request received.", name="uvicorn.error")
    assert [passes(garbage) for _ in range(1_000)].count(True) == 1
    later = time.monotonic() + SELDOM
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert passes(garbage)


@pytest.fixture
def lines() -> Any:
    """What the service says of requests, in this process."""
    told: list[logging.LogRecord] = []
    logger = logging.getLogger("app.ops.requests")
    handler = logging.Handler()
    handler.emit = told.append  # type: ignore[method-assign,assignment]  # of this handler alone
    handler.addFilter(CorrelationFilter())
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.WARNING)
    yield told
    logger.removeHandler(handler)
    logger.setLevel(level)


async def test_a_request_that_failed_is_told_with_its_id_and_code_and_one_that_did_not_is_not(
    service: ServiceClient, lines: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = count(step=0.25)  # of the clock: one when a request begins, one when its answer does
    monkeypatch.setattr("app.ops.service.perf_counter", lambda: next(readings))
    await service.register("PRESS-1")
    await service.http.post("/ingest", content=b"{")
    assert lines == []

    async def break_down(*_: Any) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr("app.ops.health.find_problems", break_down)
    answer = await service.http.get("/health/ready", headers={"x-request-id": "gateway-7"})
    assert answer.status_code == 500
    (line,) = map(format_json, lines)
    assert line.pop("seconds") == 0.25
    assert line.pop("message") == "GET /health/ready was answered with 500 after 0.250 s."
    del line["time"]
    assert line == {
        "level": "warning",
        "logger": "app.ops.requests",
        "request_id": "gateway-7",
        "code": "INTERNAL",
        "route": "/health/ready",
        "method": "GET",
        "status": 500,
    }


def test_an_outage_does_not_fill_the_disk(lines: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("app.ops.requests.perf_counter", lambda: now)
    requests = Requests(tell_all=False)
    scope = {"path": "/ingest", "method": "POST"}
    for _ in range(MOST_LINES + 90):
        requests.observe(scope, "/ingest", 503, 0.01)
    assert len(lines) == MOST_LINES
    now += 1
    requests.observe(scope, "/ingest", 200, 1.5)
    assert [line.getMessage() for line in lines[MOST_LINES:]] == [
        "90 more requests were slow or failed.",
        "POST /ingest was answered with 200 after 1.500 s.",
    ]


async def test_every_line_is_json_and_none_has_what_clients_sent(database_url: str) -> None:
    port = find_free_port()
    command = ["uvicorn", "--factory", "app.main:create_app", "--port", str(port), "--log-level", "trace"]
    variables = {"DATABASE_URL": database_url, "AURUM_LOG_FORMAT": "json", "AURUM_LOG_LEVEL": "debug"}
    with start(command, port, **variables) as process:
        await wait_until_ready(port)
        await send_secrets(port)
        process.send_signal(signal.SIGTERM)
        output, _ = await asyncio.to_thread(process.communicate, timeout=60)
    told = [msgspec.json.decode(line) for line in output.splitlines()]
    # What comes before the application is made is uvicorn's alone; there is nothing.
    assert {"time", "level", "logger", "message"} <= set.intersection(*(set(line) for line in told))
    assert {"uvicorn.error", "app.main", "app.ops.requests"} <= {line["logger"] for line in told}
    by_id = {line["request_id"]: line for line in told if line.get("request_id", "").startswith("probe-")}
    assert {name: (line["route"], line["status"], line.get("code")) for name, line in by_id.items()} == {
        "probe-body": ("/ingest", 400, "BAD_USER_INPUT"),
        "probe-reading": ("/ingest", 200, None),
        "probe-header": ("/ingest", 415, "UNSUPPORTED_MEDIA_TYPE"),
        "probe-path": ("other", 404, "NOT_FOUND"),
        "probe-document": ("/graphql", 200, None),
        "probe-variable": ("/graphql", 200, None),
        "probe-url": ("/graphql", 200, None),
    }
    assert SECRET not in output
    assert "Traceback" not in output


async def send_secrets(port: int) -> None:
    """All that a client can put a secret into."""
    url = f"http://127.0.0.1:{port}"
    hidden = {"authorization": f"Bearer {SECRET}", "cookie": f"session={SECRET}"}
    reading = [{"machine_id": SECRET, "timestamp": SECRET, "metrics": {SECRET: SECRET}}]
    variables = {"query": "query ($id: ID!) { machine(machineId: $id) { location } }", "variables": {"id": SECRET}}
    async with httpx.AsyncClient(base_url=url, headers=hidden, trust_env=False, timeout=30) as http:
        for name, request in {
            "body": http.build_request("POST", "/ingest", content=f'{{"{SECRET}'.encode()),
            "reading": http.build_request("POST", "/ingest", json=reading),
            "header": http.build_request("POST", "/ingest", content=b"x", headers={"content-type": f"a/{SECRET}"}),
            "path": http.build_request("GET", f"/{SECRET}", params={"token": SECRET}),
            "document": http.build_request("POST", "/graphql", json={"query": f"{{ {SECRET} }}"}),
            "variable": http.build_request("POST", "/graphql", json=variables),
            "url": http.build_request(
                "GET",
                "/graphql",
                params={"query": "{ __typename }", "x": SECRET},
                headers={"x-apollo-operation-name": "a"},
            ),
        }.items():
            request.headers["x-request-id"] = f"probe-{name}"
            await http.send(request)
    async with websockets.connect(
        f"ws://127.0.0.1:{port}/graphql?token={SECRET}",
        subprotocols=[websockets.Subprotocol("graphql-transport-ws")],
        additional_headers=hidden,
        proxy=None,
    ) as socket:
        await socket.send(msgspec.json.encode({"type": "connection_init", "payload": {"apiKey": SECRET}}).decode())
        await socket.recv()
        subscribe = {"id": "1", "type": "subscribe", "payload": variables}
        await socket.send(msgspec.json.encode(subscribe).decode())
        await socket.recv()


async def test_plain_lines_are_those_of_people(database_url: str) -> None:
    port = find_free_port()
    with start(["invoke", "serve"], port, DATABASE_URL=database_url) as process:
        await wait_until_ready(port)
        process.send_signal(signal.SIGTERM)
        output, _ = await asyncio.to_thread(process.communicate, timeout=60)
    assert " INFO app.main: AurumAI runs on PostgreSQL " in output
    assert " INFO uvicorn.error: Application startup complete." in output
    assert "/health/ready" not in output


@pytest.mark.parametrize(
    ("variables", "kind"),
    [
        ({}, PlainFormatter),
        ({"AURUM_ENV": "production"}, JsonFormatter),
        ({"AURUM_ENV": "production", "AURUM_LOG_FORMAT": "plain"}, PlainFormatter),
        ({"AURUM_LOG_FORMAT": "json"}, JsonFormatter),
    ],
)
def test_production_writes_json_unless_it_is_told_otherwise(variables: dict[str, str], kind: type) -> None:
    create_app(load_settings({"DATABASE_URL": "postgresql://127.0.0.1/x", **variables}))
    (handler,) = logging.getLogger("app").handlers
    assert isinstance(handler.formatter, kind)
