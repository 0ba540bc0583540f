"""How fast a chart of ninety days is answered: by this service, and by the best SQL that we know for the same points.

A machine at 1 Hz has 7.8 million readings in ninety days. Where a bucket is of whole hours the service answers from rollups, and
so does the statement beside it; any other bucket both read from the readings. The statement's text goes out through a bare
Litestar route (`limit`), without GraphQL, without a look at what is rolled up, and without thinning out.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import httpx
import msgspec

from benchmarks.load import make_get, make_request, post_all
from benchmarks.report import Finding, compare
from benchmarks.scene import Process, make_database, run_server, wait_until_open

DAYS = 90
SECONDS = DAYS * 24 * 60 * 60
POINTS = 1_000
ROUNDS = 5
PATIENCE = timedelta(minutes=20)  # with the hours that are rolled up
BAR = 0.5  # within two times

Say: TypeAlias = Callable[[str], None]


@dataclass(frozen=True)
class Chart:
    """`width` of a bucket in seconds; `statement` selects its points, with {begin} and {end} of the range."""

    name: str
    width: int
    statement: str
    requests: int  # of one round
    clients: int


# Written as what it has to answer with allows: text at once, arrays nowhere, and instants formatted as one reads them.
_ANSWER = r"""
SELECT '[{{"timestamps":[' || string_agg(to_char(bucket, '\"YYYY-MM-DD"T"HH24:MI:SS.US"Z\"'), ',' ORDER BY bucket)
  || '],"values":[' || string_agg(value::text, ',' ORDER BY bucket) || ']}}]'
FROM ({source}) AS points
"""
_ROLLED = """
  SELECT date_bin('{width} seconds', bucket, '2000-01-03 00:00:00+00') AS bucket, sum(total) / sum(readings) AS value
  FROM rollups
  WHERE machine_id = 'BENCH-00' AND metric = 'temperature' AND bucket >= '{begin}' AND bucket < '{end}' GROUP BY 1
"""
# avg of the numeric that JSON has is three times as slow; `->` casts straight to a double, `->>` by way of a text.
_READ = """
  SELECT {bin}('{width} seconds', timestamp, '2000-01-03 00:00:00+00'::timestamptz) AS bucket,
         sum((metrics -> 'temperature')::float8) / count(*) AS value
  FROM raw_measurements
  WHERE machine_id = 'BENCH-00' AND timestamp >= '{begin}' AND timestamp < '{end}' GROUP BY 1
"""
CHARTS = (
    Chart("90 days at 1 Hz to 1,000 points, of two hours each, against SQL on the rollups", 7_200, _ROLLED, 400, 8),
    Chart("90 days at 1 Hz to 1,000 points, of 2:09:36 each, against SQL on the readings", 7_776, _READ, 1, 1),
)


async def bench_long_range(server_url: str, say: Say) -> list[Finding]:
    """A finding for each chart, on a database that is made for it and dropped at the end."""
    end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    begin = end - timedelta(days=DAYS)
    async with make_database(server_url) as url:
        connection = await asyncpg.connect(url)
        try:
            await _fill(connection, begin, say)
            statements = await _write_statements(connection, begin, end)
            with tempfile.NamedTemporaryFile(suffix=".json") as file:
                file.write(msgspec.json.encode(statements))
                file.flush()
                with (
                    run_server("app.main:create_app", "--factory", database_url=url) as ours,
                    run_server("benchmarks.limit:app", database_url=url, LIMIT_STATEMENTS=file.name) as limit,
                ):
                    for process in (ours, limit):
                        await wait_until_open(process)
                    await _wait_for_rollups(connection, begin, say)
                    return [
                        await _bench(place, chart, _ask(chart, begin, end), ours, limit, say)
                        for place, chart in enumerate(CHARTS)
                    ]
        finally:
            await connection.close()


async def _fill(connection: asyncpg.Connection[Any], begin: datetime, say: Say) -> None:
    began = time.monotonic()
    await connection.execute(
        "INSERT INTO machines (machine_id, machine_type, location) VALUES ('BENCH-00', 'press', 'Hall 1')"
    )
    await connection.execute(
        """
        INSERT INTO raw_measurements (machine_id, timestamp, metrics)
        SELECT 'BENCH-00', $1::timestamptz + second * interval '1 second',
               jsonb_build_object('temperature', round((20 + 70 * random())::numeric, 2))
        FROM generate_series(0, $2 - 1) AS second
        """,
        begin,
        SECONDS,
        timeout=1_200,
    )
    await connection.execute("VACUUM (ANALYZE)", timeout=600)
    say(f"{SECONDS:,} readings written in {time.monotonic() - began:,.0f} s")


async def _write_statements(connection: asyncpg.Connection[Any], begin: datetime, end: datetime) -> dict[str, str]:
    """By their places, for the bare route. time_bucket, where it's there, lets the planner group without a sort."""
    found = await connection.fetchval("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')")
    values = {"begin": begin, "end": end, "bin": "time_bucket" if found else "date_bin"}
    return {
        str(place): _ANSWER.format(source=chart.statement.format(width=chart.width, **values))
        for place, chart in enumerate(CHARTS)
    }


async def _wait_for_rollups(connection: asyncpg.Connection[Any], begin: datetime, say: Say) -> None:
    """The service rolls hours up by itself, from the newest back, and rests for as long as it works."""
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while not await connection.fetchval("SELECT EXISTS (SELECT FROM rollup_cover WHERE since <= $1)", begin):  # noqa: ASYNC110 - done in another process
            await asyncio.sleep(1)
    await connection.execute("VACUUM (ANALYZE) rollups, rollup_cover, rollup_changes")
    say(f"{DAYS * 24:,} hours rolled up in {time.monotonic() - began:,.0f} s")


def _ask(chart: Chart, begin: datetime, end: datetime) -> str:
    return (
        f'{{ series(machineIds: ["BENCH-00"], metrics: ["temperature"], from: "{begin.isoformat()}", to: "{end.isoformat()}",'
        f' bucket: "PT{chart.width}S", maxPoints: {POINTS}) {{ timestamps values }} }}'
    )


async def _bench(place: int, chart: Chart, query: str, ours: Process, limit: Process, say: Say) -> Finding:
    await _check_alike(place, chart, query, ours, limit)
    request = make_request("/graphql", msgspec.json.encode({"query": query}), "application/json")
    sides = {"ours": (ours, request), "theirs": (limit, make_get(f"/{place}/-"))}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(ROUNDS + 1):
        for name, (process, each) in sides.items():
            load = await post_all(process.port, [each] * chart.requests, chart.clients)
            load.require_all_good()
            if number:  # the first warms everything up
                rates[name].append(chart.requests / load.seconds)
    medians = {name: statistics.median(measured) for name, measured in rates.items()}
    ratios = [mine / yours for mine, yours in zip(rates["ours"], rates["theirs"], strict=True)]
    say(f"{chart.name}: " + ", ".join(f"{name} {rate:,.2f}/s" for name, rate in medians.items()))
    return compare(chart.name, "requests/s", medians["ours"], medians["theirs"], statistics.median(ratios), BAR)


async def _check_alike(place: int, chart: Chart, query: str, ours: Process, limit: Process) -> None:
    """Every point of ours is one of theirs, and there are about as many as may be: thinning out makes no new ones."""
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        answer = (await client.post(f"http://127.0.0.1:{ours.port}/graphql", json={"query": query})).json()
        limits = (await client.get(f"http://127.0.0.1:{limit.port}/{place}/-")).json()
    (mine,), (theirs,) = answer["data"]["series"], limits["data"]["answer"]
    known = dict(zip(theirs["timestamps"], theirs["values"], strict=True))
    if not 0.99 * POINTS <= len(mine["timestamps"]) <= POINTS or any(
        abs(value - known[instant]) > 1e-9 for instant, value in zip(mine["timestamps"], mine["values"], strict=True)
    ):
        raise RuntimeError(f"{chart.name}: the answers differ")
