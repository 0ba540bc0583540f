"""`invoke load-csv` and `invoke load-parquet`: wide and long files, what is refused, and going on after a kill."""

from __future__ import annotations

import asyncio
import csv
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.backfill.rows import MOST_ROWS
from app.instants import EPOCH
from tests.conftest import ROOT, find_program, make_environ, run_command

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Done: TypeAlias = subprocess.CompletedProcess[str]


async def load(database_url: str, file: Path, *options: str, **variables: str) -> Done:
    task = "load-parquet" if file.suffix == ".parquet" else "load-csv"
    return await asyncio.to_thread(
        run_command, "invoke", task, "--file", str(file), *options, database_url=database_url, **variables
    )


async def stored(connection: Connection) -> list[tuple[str, datetime, dict[str, float]]]:
    rows = await connection.fetch("SELECT machine_id, timestamp, metrics FROM raw_measurements ORDER BY 1, 2")
    return [
        (row["machine_id"], row["timestamp"], msgspec.json.decode(row["metrics"], type=dict[str, float]))
        for row in rows
    ]


def read_refused(file: Path) -> list[list[str]]:
    with file.with_name(f"{file.name}.refused.csv").open(newline="", encoding="utf-8") as refused:
        return list(csv.reader(refused))


def write_parquet(file: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), file, **options)
    return file


def second(number: float) -> datetime:
    return NOON + timedelta(seconds=number)


LONG = """machine,timestamp,metric,value
A,2026-01-31T12:00:00Z,rpm,1500
A,2026-01-31T12:00:00Z,temperature,80.5
B,2026-01-31T12:00:00Z,rpm,900
A,2026-01-31T12:00:00Z,rpm,1600
A,2026-01-31T12:00:01Z,rpm,
A,2026-01-31T12:00:01Z,rpm,1501
A,2026-01-31T12:00:01Z,rpm,1501
A,2026-01-31T12:00:01Z,1st,1
A,yesterday,rpm,1
!,2026-01-31T12:00:02Z,rpm,1
A,2026-01-31T12:00:02Z,rpm,fast
"""


async def test_a_long_file_counts_each_of_its_rows(database_url: str, connection: Connection, tmp_path: Path) -> None:
    file = tmp_path / "long.csv"
    file.write_text(LONG)
    done = await load(database_url, file, "--machine-type", "press", "--location", "Hall 2")
    assert done.returncode == 1
    assert "Registered A, B, which were new." in done.stdout
    assert "11 rows: 4 accepted, 1 duplicates, 1 conflicts, 5 rejected." in done.stdout
    assert "Rejected: 2 BAD_METRIC, 1 BAD_TIMESTAMP, 1 EMPTY_METRICS, 1 UNKNOWN_MACHINE." in done.stdout
    assert await stored(connection) == [
        ("A", second(0), {"rpm": 1500.0, "temperature": 80.5}),
        ("A", second(1), {"rpm": 1501.0}),
        ("B", second(0), {"rpm": 900.0}),
    ]
    assert [tuple(row) for row in await connection.fetch("SELECT machine_type, location FROM machines")] == [
        ("press", "Hall 2")
    ] * 2
    again = await load(database_url, file)
    assert "11 rows: 0 accepted, 5 duplicates, 1 conflicts, 5 rejected." in again.stdout
    changed = await load(database_url, file, "--on-conflict", "overwrite")
    assert "11 rows: 0 accepted, 5 duplicates, 1 conflicts, 5 rejected." in changed.stdout
    assert (await stored(connection))[0] == ("A", second(0), {"rpm": 1600.0, "temperature": 80.5})


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
async def test_every_refused_row_is_kept_however_many_there_are(
    database_url: str, connection: Connection, tmp_path: Path, suffix: str
) -> None:
    """An answer over HTTP tells of 1,000 at most; here three in four of 12,000 are refused, by three of the checks."""
    file = tmp_path / f"wide{suffix}"
    values = [[1.0, float("inf"), 1.0, 1.0][row % 4] for row in range(12_000)]
    machines = [["A", "A", "!", "A"][row % 4] for row in range(12_000)]
    far = datetime(2999, 1, 1, tzinfo=UTC)
    instants = [far if row % 4 == 3 else NOON - timedelta(seconds=row) for row in range(12_000)]
    if suffix == ".parquet":
        write_parquet(file, {"machine": machines, "timestamp": instants, "a": values})
    else:
        rows = zip(machines, (each.isoformat() for each in instants), values, strict=True)
        lines = (f"{machine},{instant},{'1e999' if value > 1 else value}\n" for machine, instant, value in rows)
        file.write_text("machine,timestamp,a\n" + "".join(lines))
    done = await load(database_url, file)
    assert "12,000 rows: 3,000 accepted, 0 duplicates, 0 conflicts, 9,000 rejected." in done.stdout, done.stderr
    assert "Rejected: 3,000 BAD_METRIC, 3,000 FUTURE_TIMESTAMP, 3,000 UNKNOWN_MACHINE." in done.stdout
    assert "... and 8,980 more." in done.stderr
    first = 2 if suffix == ".csv" else 1
    codes = {1: "BAD_METRIC", 2: "UNKNOWN_MACHINE", 3: "FUTURE_TIMESTAMP"}
    assert [(int(row[3]), row[4]) for row in read_refused(file)[1:]] == [
        (row + first, codes[row % 4]) for row in range(12_000) if row % 4
    ]
    assert await connection.fetchval("SELECT count(*) FROM raw_measurements") == 3_000


async def test_a_load_needs_no_more_room_than_its_batch_whatever_requests_may_have(
    database_url: str, tmp_path: Path
) -> None:
    limits = {"AURUM_INGEST_QUEUE_BYTES": "1024", "AURUM_MAX_BATCH_ROWS": "1"}
    file = tmp_path / "wide.csv"
    file.write_text("timestamp,a\n" + "".join(f"{second(-row).isoformat()},{row}\n" for row in range(6_000)))
    done = await load(database_url, file, "--machine", "A", **limits)
    assert "6,000 rows: 6,000 accepted, 0 duplicates, 0 conflicts, 0 rejected." in done.stdout, done.stderr


async def test_a_limit_on_metrics_is_that_of_the_setting(database_url: str, tmp_path: Path) -> None:
    wide, long = tmp_path / "wide.csv", tmp_path / "long.csv"
    wide.write_text("timestamp,a,b,c\n2026-01-31T12:00:00Z,1,2,3\n")
    done = await load(database_url, wide, "--machine", "A", AURUM_MAX_METRICS="2")
    assert (done.returncode, "metrics has 3 names, more than AURUM_MAX_METRICS, which is 2" in done.stderr) == (1, True)
    assert "2 rows" not in done.stdout
    lines = "".join(f"2026-01-31T12:00:00Z,{name},1\n" for name in "abc")
    long.write_text(f"timestamp,metric,value\n{lines}")
    done = await load(database_url, long, "--machine", "A", AURUM_MAX_METRICS="2")
    assert "3 rows: 3 accepted, 0 duplicates, 0 conflicts, 0 rejected." in done.stdout, done.stderr


async def test_refused_rows_are_kept_with_their_cells_line_code_and_reason(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "long.csv"
    file.write_bytes(LONG.encode() + b'A,2026-01-31T12:00:03Z,"rpm,7\nA,2026-01-31T12:00:03Z,\xe9,7\nA,7\n')
    await load(database_url, file)
    header, *rows = read_refused(file)
    assert header == ["machine", "timestamp", "metric", "value", "line", "code", "message"]
    assert [(row[:4], *row[4:6]) for row in rows] == [
        (["A", "2026-01-31T12:00:01Z", "rpm", ""], "6", "EMPTY_METRICS"),
        (["A", "2026-01-31T12:00:01Z", "1st", "1"], "9", "BAD_METRIC"),
        (["A", "yesterday", "rpm", "1"], "10", "BAD_TIMESTAMP"),
        (["!", "2026-01-31T12:00:02Z", "rpm", "1"], "11", "UNKNOWN_MACHINE"),
        (["A", "2026-01-31T12:00:02Z", "rpm", "fast"], "12", "BAD_METRIC"),
        (['A,2026-01-31T12:00:03Z,"rpm,7', "", "", ""], "13", "BAD_READING"),
        (["A", "2026-01-31T12:00:03Z", "\ufffd", "7"], "14", "BAD_READING"),
        (["A,7", "", "", ""], "15", "BAD_READING"),
    ]
    assert rows[4][6] == "value is 'fast': it must be a number, such as 12.5."
    assert rows[6][6] == "not UTF-8: byte 0xe9 can't be read."
    corrected = tmp_path / "corrected.csv"
    corrected.write_text((tmp_path / "long.csv.refused.csv").read_text().replace("fast", "1502"))
    done = await load(database_url, corrected, "--columns", "line=,code=,message=")
    assert "8 rows: 1 accepted, 0 duplicates, 0 conflicts, 7 rejected." in done.stdout


async def test_a_file_of_somebody_else_is_never_overwritten(database_url: str, tmp_path: Path) -> None:
    file, refused = tmp_path / "long.csv", tmp_path / "long.csv.refused.csv"
    file.write_text(LONG)
    refused.write_text("mine\n")
    done = await load(database_url, file)
    assert (done.returncode, refused.read_text()) == (1, "mine\n")
    assert f"BAD_USER_INPUT: {refused} is there already" in done.stderr
    refused.unlink()
    assert "rejected rows are in" in (await load(database_url, file)).stdout
    left = refused.read_bytes()
    assert "rejected rows are in" in (await load(database_url, file, "--timezone", "Europe/Madrid")).stdout
    assert refused.read_bytes() == left
    refused.write_bytes(left.replace(b"yesterday", b"2026-01-1"))
    done = await load(database_url, file)
    assert "is there already" in done.stderr
    assert b"2026-01-1" in refused.read_bytes()


async def test_columns_get_other_names_and_are_ignored(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    file = tmp_path / "historian.csv"
    file.write_bytes(
        b'\xef\xbb\xbfwhen,asset,Temp (\xc2\xb0C),"load, total",note\r\n2026-01-31 13:00,A,80.5,7,warm\r\n\r\n2026-01-31 13:01,B,,8,\r\n'
    )
    options = ["--timestamp-column", "when", "--machine-column", "asset", "--timezone", "Europe/Madrid"]
    done = await load(database_url, file, *options, "--columns", 'Temp (°C)=temperature,"load, total=load",note=')
    assert done.returncode == 0, done.stderr
    assert "2 rows: 2 accepted" in done.stdout
    assert await stored(connection) == [
        ("A", second(0), {"temperature": 80.5, "load": 7.0}),
        ("B", second(60), {"load": 8.0}),
    ]


async def test_a_machine_that_can_not_be_is_refused_by_the_name_of_its_option(
    database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "wide.csv"
    file.write_text("timestamp,a\n2026-01-31T12:00:00Z,1\n")
    done = await load(database_url, file, "--machine", "!")
    assert (done.returncode, "--machine must be 1 to 64 letters" in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
async def test_other_encodings_are_refused_by_name(database_url: str, tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "wide.csv"
    file.write_bytes(("\ufeff" * (encoding == "utf-16-be") + "timestamp,a\n2026-01-31T12:00:00Z,1\n").encode(encoding))
    done = await load(database_url, file, "--machine", "A")
    assert (done.returncode, f"{file} is in UTF-16: save it in UTF-8." in done.stderr) == (1, True)


async def test_parquet_gives_the_same_as_csv(database_url: str, connection: Connection, tmp_path: Path) -> None:
    instants = [second(n / 1000) for n in range(3)]
    wide = write_parquet(
        tmp_path / "wide.parquet",
        {
            "machine_id": pa.array(["A", "A", "B"]).dictionary_encode(),
            "timestamp": pa.array(instants, pa.timestamp("ms", "Europe/Madrid")),
            "int": pa.array([1, None, 2**53 + 1], pa.int64()),
            "unsigned": pa.array([2**64 - 1, 0, 1], pa.uint64()),
            "decimal": pa.array([Decimal("12.345"), None, Decimal("-0.001")], pa.decimal128(10, 3)),
            "half": pa.array([0.5, 1.5, None], pa.float16()),
            "on": pa.array([True, False, None]),
            "nothing": pa.array([None, None, None], pa.float64()),
        },
    )
    done = await load(database_url, wide)
    assert done.returncode == 0, done.stderr
    assert "3 rows: 3 accepted, 0 duplicates, 0 conflicts, 0 rejected." in done.stdout
    assert await stored(connection) == [
        ("A", instants[0], {"int": 1.0, "unsigned": 2.0**64, "decimal": 12.345, "half": 0.5, "on": 1.0}),
        ("A", instants[1], {"unsigned": 0.0, "half": 1.5, "on": 0.0}),
        ("B", instants[2], {"int": 2.0**53, "unsigned": 1.0, "decimal": -0.001}),
    ]
    long = write_parquet(
        tmp_path / "long.parquet",
        {
            "machine": ["A", "A", "A", "B", None],
            "timestamp": pa.array([instants[0], instants[0], None, instants[2], instants[2]]),
            "tag": ["int", "half", "half", "new", "new"],
            "value": [1.0, 0.25, 1.0, float("nan"), 1.0],
        },
    )
    done = await load(database_url, long, "--columns", "tag=metric")
    assert "5 rows: 0 accepted, 1 duplicates, 1 conflicts, 3 rejected." in done.stdout
    assert "Rejected: 1 BAD_METRIC, 1 MISSING_FIELD, 1 UNKNOWN_MACHINE." in done.stdout
    assert [row[:6] for row in read_refused(long)] == [
        ["machine", "timestamp", "tag", "value", "row", "code"],
        ["A", "", "half", "1", "3", "MISSING_FIELD"],
        ["B", "2026-01-31 12:00:00.002000Z", "new", "nan", "4", "BAD_METRIC"],
        ["", "2026-01-31 12:00:00.002000Z", "new", "1", "5", "UNKNOWN_MACHINE"],
    ]


async def test_timestamps_of_parquet_are_instants_or_local_times(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    """The clocks of Madrid go from 02:00 to 03:00 on 29 March 2026 and from 03:00 to 02:00 on 25 October 2026."""
    texts = ["2026-01-31 13:00:00", "2026-03-29 02:30:00", "2026-10-25 02:30:00", "2026-07-01 00:00:00"]
    local = [datetime.fromisoformat(text) for text in texts]
    kinds: dict[str, Any] = {
        "naive": pa.array(local, pa.timestamp("us")),
        "seconds": pa.array(local, pa.timestamp("s")),
        "text": pa.array(texts),
    }
    for name, column in kinds.items():
        file = write_parquet(tmp_path / f"{name}.parquet", {"timestamp": column, name: [1, 2, 3, 4]})
        done = await load(database_url, file, "--machine", name, "--timezone", "Europe/Madrid")
        assert "4 rows: 2 accepted, 0 duplicates, 0 conflicts, 2 rejected." in done.stdout, done.stderr
        assert done.stderr.count("given with its offset, since the clocks of this time zone change then.") == 2
    assert [row[:2] for row in await stored(connection)] == [
        (name, instant) for name in sorted(kinds) for instant in (second(0), datetime(2026, 6, 30, 22, tzinfo=UTC))
    ]
    await connection.execute("TRUNCATE raw_measurements")
    nanoseconds = (NOON - EPOCH) // timedelta(microseconds=1) * 1000
    exact: dict[str, Any] = {
        "ns": pa.array([nanoseconds + 1999, -1, 2**63 - 1], pa.timestamp("ns", "UTC")),
        "millis": pa.array([1_769_860_800_000, 1, 20_260_131], pa.int64()),
        "date": pa.array([date(2026, 1, 31), date(1969, 12, 31), date(9999, 1, 1)]),
    }
    for name, column in exact.items():
        file = write_parquet(tmp_path / f"{name}.parquet", {"timestamp": column, "a": [1, 2, 3]})
        done = await load(database_url, file, "--machine", name)
        assert "3 rows: 1 accepted, 0 duplicates, 0 conflicts, 2 rejected." in done.stdout, done.stderr
    assert [row[:2] for row in await stored(connection)] == [
        ("date", datetime(2026, 1, 31, tzinfo=UTC)),
        ("millis", second(0)),
        ("ns", second(0.000001)),
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"timestamp": [NOON], "a": [[1.0]]}, "The column 'a' is of type list<element: double>, and can't be a metric"),
        ({"timestamp": [NOON], "a": ["warm"]}, "The column 'a' is of type string, and can't be a metric"),
        ({"timestamp": [1.5], "a": [1]}, "The column 'timestamp' is of type double, and can't be a timestamp"),
        (
            {"timestamp": [NOON], "metric": [1.5], "value": [1]},
            "The column 'metric' is of type double, and can't be a name",
        ),
    ],
)
async def test_types_that_say_something_else_are_refused(
    database_url: str, tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    done = await load(database_url, write_parquet(tmp_path / "a.parquet", columns), "--machine", "A")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert message in done.stderr
    assert "A column is ignored by --columns" in done.stderr


async def test_a_parquet_file_that_is_cut_off_or_none_is_refused(database_url: str, tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", {"timestamp": [NOON] * 1000, "a": list(range(1000))})
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"timestamp,a\n", b""):
        file.write_bytes(content)
        done = await load(database_url, file, "--machine", "A")
        assert (done.returncode, "Traceback" in done.stderr) == (1, False)
        assert "is not a whole Parquet file" in done.stderr
    file.write_bytes(whole[:200] + bytes(500) + whole[700:])
    done = await load(database_url, file, "--machine", "A")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "is damaged after row" in done.stderr
    assert (await load(database_url, tmp_path / "none.parquet", "--machine", "A")).returncode == 1


async def test_files_without_rows_are_no_error(database_url: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("timestamp,a\n\n")
    none: dict[str, Any] = {"timestamp": pa.array([], pa.timestamp("us", "UTC")), "a": pa.array([], pa.float64())}
    for file in (empty, write_parquet(tmp_path / "empty.parquet", none)):
        done = await load(database_url, file, "--machine", "A")
        assert (done.returncode, "0 rows: 0 accepted" in done.stdout) == (0, True), done.stderr


# --- Cut off, and large --------------------------------------------------------------------------------------------

ROWS = 200_000
METRICS = ("temperature", "pressure", "rpm", "vibration")


def make_value(row: int) -> float:
    return (row * 7919 % 100_003) / 8


def write_large(file: Path) -> None:
    """A long file of ROWS rows, four to a reading, of five machines; each 1,000th row is refused."""
    rows = range(ROWS)
    instants = [NOON - timedelta(seconds=row // 20) for row in rows]
    names = ["1st" if row % 1000 == 999 else METRICS[row % 4] for row in rows]
    machines = [f"M{row // 4 % 5}" for row in rows]
    values = [make_value(row) for row in rows]
    if file.suffix == ".parquet":
        columns = {"machine": machines, "timestamp": instants, "metric": names, "value": values}
        write_parquet(file, columns, row_group_size=30_000)
        return
    with file.open("w", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(["machine", "timestamp", "metric", "value"])
        writer.writerows(zip(machines, (each.isoformat() for each in instants), names, values, strict=True))


async def check_large(connection: Connection, file: Path) -> None:
    kept = [row for row in range(ROWS) if row % 1000 != 999]
    found = await connection.fetchrow(
        "SELECT count(*) AS values, sum(value::float8) AS sum, count(DISTINCT (machine_id, timestamp)) AS readings "
        "FROM raw_measurements, jsonb_each_text(metrics) AS metric (name, value)"
    )
    assert found is not None
    assert dict(found) == {"values": len(kept), "sum": sum(map(make_value, kept)), "readings": ROWS // 4}
    _, *refused = read_refused(file)
    first = 2 if file.suffix == ".csv" else 1
    assert [int(row[4]) for row in refused] == [row + first for row in range(ROWS) if row % 1000 == 999]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
async def test_a_load_that_is_killed_goes_on_where_it_was(
    database_url: str, connection: Connection, tmp_path: Path, suffix: str
) -> None:
    file = tmp_path / f"large{suffix}"
    write_large(file)
    chance = random.Random(11)
    command = [find_program("invoke"), "load-csv" if suffix == ".csv" else "load-parquet", "--file", str(file)]
    reached = 0
    for _ in range(3):
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            env=make_environ(DATABASE_URL=database_url),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        await wait_for_rows(connection, reached + chance.randrange(1, 4) * MOST_ROWS)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        reached = await count_done(connection)
    assert reached < ROWS
    done = await load(database_url, file)
    progress = await connection.fetchval("SELECT progress FROM file_loads WHERE finished_at IS NOT NULL")
    counts = msgspec.json.decode(progress)
    assert f"Went on after {'line' if suffix == '.csv' else 'row'} " in done.stdout, done.stdout + done.stderr
    assert counts["accepted"] + counts["duplicates"] == ROWS - ROWS // 1000
    # What was committed and not yet remembered when it was killed is a duplicate now: at most a batch for each time.
    assert counts["duplicates"] <= 3 * MOST_ROWS
    assert counts["refused"] == {"BAD_METRIC": ROWS // 1000}
    await check_large(connection, file)


@pytest.mark.timeout(900)
async def test_a_load_outlives_every_loss_of_the_database(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    file = tmp_path / "large.csv"
    write_large(file)
    loading = asyncio.create_task(load(database_url, file))
    cut = 0
    for goal in range(MOST_ROWS, 6 * MOST_ROWS, MOST_ROWS):
        await wait_for_rows(connection, goal)
        cut += await connection.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()"
        )
    done = await loading
    assert cut >= 5
    assert (
        f"{ROWS:,} rows: {ROWS - ROWS // 1000:,} accepted, 0 duplicates, 0 conflicts, 200 rejected." in done.stdout
    ), done.stderr
    await check_large(connection, file)


async def wait_for_rows(connection: Connection, goal: int) -> None:
    async with asyncio.timeout(180):
        while await count_done(connection) < goal:  # noqa: ASYNC110 - a database tells nobody of a row
            await asyncio.sleep(0.005)


async def count_done(connection: Connection) -> int:
    stored = await connection.fetchval("SELECT progress FROM file_loads")
    if stored is None:
        return 0
    counts = msgspec.json.decode(stored)
    return int(counts["accepted"] + counts["duplicates"])


async def test_a_changed_file_is_loaded_from_its_beginning(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    file = tmp_path / "long.csv"
    file.write_text(LONG)
    await load(database_url, file)
    await connection.execute(
        "UPDATE file_loads SET finished_at = NULL"
    )  # as if it had been cut off behind its last batch
    assert "Went on after line 12" in (await load(database_url, file)).stdout
    await connection.execute("UPDATE file_loads SET finished_at = NULL")
    status = file.stat()
    file.write_text(LONG.replace("1501", "1502"))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    done = await load(database_url, file)
    assert "Went on" not in done.stdout
    assert "11 rows: 0 accepted, 3 duplicates, 3 conflicts, 5 rejected." in done.stdout


async def test_two_loads_of_one_file_do_not_meet(database_url: str, connection: Connection, tmp_path: Path) -> None:
    file = tmp_path / "large.csv"
    write_large(file)
    loads = [asyncio.create_task(load(database_url, file)) for _ in range(2)]
    async with connection.transaction():
        # While this lock is held, neither comes to an end before the other begins.
        await connection.execute("LOCK TABLE raw_measurements IN SHARE MODE")
        await asyncio.wait(loads, return_when=asyncio.FIRST_COMPLETED)
    answers = await asyncio.gather(*loads)
    refused = [done for done in answers if "is being loaded already, by another process." in done.stderr]
    assert len(refused) == 1
    await check_large(connection, file)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
async def test_memory_does_not_grow_with_the_file(database_url: str, tmp_path: Path, suffix: str) -> None:
    """The peak over 200,000 rows beside that over 20,000."""
    peaks = []
    for rows in (20_000, ROWS):
        file = tmp_path / f"{rows}{suffix}"
        values: Sequence[float] = [make_value(row) for row in range(rows)]
        instants = [NOON - timedelta(seconds=row) for row in range(rows)]
        if suffix == ".parquet":
            write_parquet(file, {"timestamp": instants, "a": values, "b": values, "c": values}, row_group_size=rows)
        else:
            lines = (
                f"{instant.isoformat()},{value},{value},{value}\n"
                for instant, value in zip(instants, values, strict=True)
            )
            file.write_text("timestamp,a,b,c\n" + "".join(lines))
        peaks.append(await asyncio.to_thread(measure_peak, database_url, file))
    assert peaks[1] - peaks[0] < 40 * 1024


def measure_peak(database_url: str, file: Path) -> int:
    """The most memory that loading it took, in KiB."""
    task = "load-parquet" if file.suffix == ".parquet" else "load-csv"
    command = [find_program("invoke"), task, "--file", str(file), "--machine", file.stem]
    # From a small process: the kernel counts the memory of whoever starts a program as a peak of the program.
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command],
        cwd=ROOT,
        env=make_environ(DATABASE_URL=database_url),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
