"""Traces, as a collector gets them that takes OTLP over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app.ingest.merge import OnConflict
from app.ops.traces import hide_literals
from tests.client import ServiceClient
from tests.comparing import answer_once
from tests.conftest import run_command, run_service
from tests.ports import find_free_port
from tests.test_ingest import Connection, reading
from tests.test_intake import at, count
from tests.test_intake import taken as taken  # noqa: PLC0414 - a fixture, found by its name here

SECRET = "pa55w0rd"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Span:
    """A span as it arrived."""

    def __init__(self, sent: Any) -> None:
        self.name: str = sent.name
        self.trace = sent.trace_id.hex()
        self.id = sent.span_id.hex()
        self.parent = sent.parent_span_id.hex()
        self.links = {link.span_id.hex() for link in sent.links}
        self.failed = sent.status.code == 2
        self.seconds = (sent.end_time_unix_nano - sent.start_time_unix_nano) / 1e9
        self.attributes = {
            each.key: getattr(each.value, each.value.WhichOneof("value") or "") for each in sent.attributes
        }


class Collector:
    """A server of the test's own on a free port; `spans` are all that it got, `raw` the bytes of it."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        self.paths: set[str] = set()
        self.raw = b""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.take(self.path, body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def take(self, path: str, body: bytes) -> None:
        self.paths.add(path)
        self.raw += body
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append({each.key: each.value.string_value for each in of_resource.resource.attributes})
            self.spans += [Span(span) for scope in of_resource.scope_spans for span in scope.spans]

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        thread = Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self._server.shutdown)
            thread.join()
            self._server.server_close()

    def find(self, name: str, **attributes: object) -> list[Span]:
        """The spans of a name, and with these attributes, dots for underscores."""
        wanted = {key.replace("_", "."): value for key, value in attributes.items()}
        return [span for span in self.spans if span.name == name and wanted.items() <= span.attributes.items()]

    def list_children(self, span: Span) -> list[Span]:
        return [each for each in self.spans if each.parent == span.id]


@asynccontextmanager
async def run_traced(database_url: str, collector: Collector) -> AsyncIterator[ServiceClient]:
    """A service whose spans have all arrived once the block is left."""
    async with collector.run(), run_service(database_url, AURUM_OTLP_ENDPOINT=collector.url) as service:
        yield service


async def test_an_ingest_request_is_followed_to_its_statements_in_the_trace_of_its_client(database_url: str) -> None:
    collector = Collector()
    async with run_traced(database_url, collector) as service:
        await service.register("PRESS-1")
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "gateway-7"}
        sent = [reading(timestamp=at(second)) for second in range(3)]
        assert (await service.http.post("/ingest", json=sent, headers=headers)).json() == count(accepted=3)
    (request,) = collector.find("POST /ingest")
    assert (request.trace, request.parent, request.failed) == (TRACE, PARENT, False)
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/ingest",
        "http.response.status_code": 200,
        "aurumai.request_id": "gateway-7",
    }
    (commit,) = collector.find("ingest commit")
    assert (commit.trace, commit.parent) == (TRACE, request.id)
    assert commit.attributes == {"aurumai.requests": 1, "aurumai.rows": 3}
    (copy,) = collector.find("ingest copy")
    assert (copy.trace, copy.parent, copy.failed, copy.attributes) == (TRACE, commit.id, False, {"aurumai.rows": 3})
    assert collector.list_children(copy) == []
    statements = [child for child in collector.list_children(commit) if child is not copy]
    assert {statement.trace for statement in statements} == {TRACE}
    texts = [statement.attributes["db.query.text"] for statement in statements]
    assert texts[0] == "BEGIN;"
    assert texts[-1] == "COMMIT;"
    assert "SELECT machine_id FROM machines WHERE machine_id = ANY($1::text[])" in texts
    assert {statement.attributes["db.system.name"] for statement in statements} == {"postgresql"}
    assert all(0 <= statement.seconds <= request.seconds for statement in statements)
    assert collector.paths == {"/v1/traces"}
    assert {resource["service.name"] for resource in collector.resources} == {"aurumai"}


async def test_rows_that_are_there_already_are_copied_in_vain_and_merged(database_url: str) -> None:
    collector = Collector()
    async with run_traced(database_url, collector) as service:
        await service.register("PRESS-1")
        assert await service.ingest(reading(timestamp=at(0))) == count(accepted=1)
        assert await service.ingest([reading(timestamp=at(second)) for second in (0, 1)]) == count(
            accepted=1, duplicates=1
        )
    first, in_vain = collector.find("ingest copy")
    assert (first.failed, in_vain.failed) == (False, True)
    assert in_vain.attributes == {"aurumai.rows": 2, "error.type": "UniqueViolationError"}
    (merge,) = collector.find("ingest merge")
    assert (merge.failed, merge.attributes) == (False, {"aurumai.rows": 2})
    _, commit = collector.find("ingest commit")
    assert in_vain.parent == merge.parent == commit.id
    # What settles them is within the merge; what tells subscribers, and the commit, comes behind it.
    assert {child.name for child in collector.list_children(merge)} >= {"INSERT"}
    assert commit.id in {span.parent for span in collector.find("COMMIT;")}


async def test_a_query_that_is_cut_off_when_the_service_stops_ends_its_span(
    database_url: str, connection: Connection
) -> None:
    collector = Collector()
    query = {"query": "query Cut { alerts { nodes { alertId } } }"}
    async with AsyncExitStack() as stack:
        async with run_traced(database_url, collector) as service:
            # A client of its own, which doesn't hang up before.
            client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=30))
            with answer_once():
                assert (await client.post(f"{service.url}/graphql", json=query)).status_code == 200
                await connection.execute("BEGIN; LOCK TABLE alerts IN ACCESS EXCLUSIVE MODE")
                asking = asyncio.create_task(client.post(f"{service.url}/graphql", json=query))
                await wait_for_lock(connection, "alerts")
        await connection.execute("ROLLBACK")
        with suppress(httpx.HTTPError):
            await asking
    answered, cut = collector.find("query Cut")
    assert (answered.failed, cut.failed) == (False, True)
    assert cut.attributes["error.type"] == "CANCELLED"


async def test_a_transaction_of_many_requests_belongs_to_the_first_and_names_the_others(
    database_url: str, connection: Connection, taken: list[OnConflict]
) -> None:
    collector = Collector()
    async with run_traced(database_url, collector) as service:
        await service.register("PRESS-1")
        await connection.execute("BEGIN; LOCK TABLE raw_measurements IN ACCESS EXCLUSIVE MODE")
        first = asyncio.create_task(service.ingest(reading(timestamp=at(0))))
        await wait_for_queue(service, 0, taken)
        others = [asyncio.create_task(service.ingest(reading(timestamp=at(second)))) for second in (1, 2, 3)]
        await wait_for_queue(service, 3, taken)
        await connection.execute("ROLLBACK")
        await asyncio.gather(first, *others)
    requests = {span.id for span in collector.find("POST /ingest")}
    alone, together = sorted(collector.find("ingest commit"), key=lambda span: span.attributes["aurumai.requests"])
    assert (alone.attributes["aurumai.requests"], together.attributes["aurumai.requests"]) == (1, 3)
    assert together.links | {alone.parent, together.parent} == requests
    assert len(together.links) == 2


async def wait_for_queue(service: ServiceClient, many: int, taken: list[OnConflict]) -> None:
    """Until that many requests wait for a transaction, of those that were taken."""
    async with asyncio.timeout(30):
        while f"aurumai_ingest_queue_requests {many}.0" not in (await service.http.get("/metrics")).text or not taken:
            pass


async def wait_for_lock(connection: Connection, table: str) -> None:
    waiting = "SELECT count(*) FROM pg_locks WHERE relation = $1::regclass AND NOT granted"
    async with asyncio.timeout(30):
        while not await connection.fetchval(waiting, table):
            pass


async def test_an_operation_is_a_span_by_kind_and_name_whichever_way_it_takes(database_url: str) -> None:
    collector = Collector()
    query = "query Hall { machines { nodes { machineId } } }"
    async with run_traced(database_url, collector) as service:
        with answer_once():
            await service.register("PRESS-1")
            for _ in range(2):
                await service.ask(query)
            await service.refuse('mutation Move { updateMachine(machineId: "X", input: {location: "a"}) { location } }')
            await service.refuse("{ nope }")
            async with service.subscribe("{ fleet { machines } }") as once:
                await once.next()
    halls = collector.find("query Hall", graphql_operation_type="query")
    assert len(halls) == 2
    for hall in halls:
        (request,) = [span for span in collector.spans if span.id == hall.parent]
        assert (request.name, request.trace) == ("POST /graphql", hall.trace)
        (statement,) = collector.list_children(hall)
        assert statement.name == "SELECT"
        assert "machine_id" in statement.attributes["db.query.text"]
    assert len(collector.find("mutation", graphql_operation_type="mutation")) == 1
    (move,) = collector.find("mutation Move")
    assert (move.failed, move.attributes["error.type"]) == (True, "NOT_FOUND")
    (nope,) = collector.find("unknown")
    assert nope.attributes["error.type"] == "GRAPHQL_VALIDATION_FAILED"
    (fleet,) = collector.find("query")
    assert fleet.parent == ""  # of a WebSocket, which may last for days
    assert {child.name for child in collector.list_children(fleet)} == {"SELECT"}


async def test_no_value_of_a_client_s_is_in_a_trace(database_url: str) -> None:
    collector = Collector()
    ask = """query ($id: ID!, $where: MachineWhere) {
        machine(machineId: $id) { location } machines(where: $where) { nodes { machineId } } }"""
    async with run_traced(database_url, collector) as service:
        await service.register(SECRET)
        await service.ingest(reading(SECRET, rpm=4711.0815))
        await service.http.post("/ingest", content=f'{{"{SECRET}'.encode())
        await service.http.get(f"/{SECRET}", params={"token": SECRET}, headers={"authorization": f"Bearer {SECRET}"})
        for _ in range(2):
            await service.ask(ask, id=SECRET, where={"location": {"eq": SECRET}})
        await service.ask(f'{{ machine(machineId: "{SECRET}") {{ alerts(first: 4711) {{ nodes {{ title }} }} }} }}')
    assert len(collector.spans) > 20
    assert SECRET.encode() not in collector.raw
    assert b"4711" not in collector.raw


@pytest.mark.parametrize(
    ("statement", "hidden"),
    [
        ("SELECT 'it''s', \"a1\", $1, 2.5e3, x2, t.c3, 17\n  FROM t4", 'SELECT ?, "a1", $1, ?, x2, t.c3, ? FROM t4'),
        ("SELECT $12::float8", "SELECT $12::float8"),
    ],
)
def test_a_statement_is_shown_without_what_stands_in_it(statement: str, hidden: str) -> None:
    assert hide_literals(statement) == hidden


async def test_a_collector_that_is_away_costs_no_answer(database_url: str) -> None:
    async with run_service(database_url, AURUM_OTLP_ENDPOINT=f"http://127.0.0.1:{find_free_port()}") as service:
        await service.register("PRESS-1")
        assert await service.ingest(reading()) == count(accepted=1)


def test_without_a_collector_nothing_of_it_is_there() -> None:
    look = (
        "import sys; from app.main import create_app; from app.settings import load_settings; "
        "create_app(load_settings({'DATABASE_URL': 'postgresql://127.0.0.1/x'})); "
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.trace', 'google'))])"
    )
    done = run_command("python", "-c", look, database_url="")
    assert done.stdout == "[]\n", done.stderr


async def test_an_endpoint_that_cannot_be_is_refused(database_url: str) -> None:
    done = await asyncio.to_thread(
        run_command, "invoke", "serve", database_url=database_url, AURUM_OTLP_ENDPOINT="collector:4318"
    )
    assert done.returncode == 1
    assert "AURUM_OTLP_ENDPOINT is no URL that begins with http:// or https://" in done.stderr
