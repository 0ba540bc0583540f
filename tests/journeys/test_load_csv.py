"""`invoke load-csv`, on a file of our own and, where it's there, on NAB's machine temperature."""

from __future__ import annotations

import asyncio
import csv
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.conftest import ROOT, run_command, run_service

NAB = ROOT.parent / "shared" / "data" / "nab" / "machine_temperature_system_failure.csv"


async def load(database_url: str, file: Path, *options: str) -> CompletedProcess[str]:
    command = ["invoke", "load-csv", "--file", str(file), "--machine", "PRESS-1", *options]
    return await asyncio.to_thread(run_command, *command, database_url=database_url)


async def ask_series(database_url: str, start: str, end: str) -> Any:
    query = """
        query ($from: DateTime!, $to: DateTime!) {
          series(machineIds: ["PRESS-1"], from: $from, to: $to, maxPoints: 100000) { metric timestamps values sourceRows }
        }
    """
    async with run_service(database_url) as service:
        return (await service.ask(query, **{"from": start, "to": end}))["series"]


async def test_a_file_is_loaded_and_each_bad_row_named_with_its_line(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "press.csv"
    file.write_text(
        "timestamp,value,rpm\n"
        "2026-01-31 12:00:00,1.5,\n"
        "2026-01-31 12:00:01,2.5,900\n"
        "not a time,3,1\n"
        "2026-01-31 12:00:02,warm,1\n"
        "2026-01-31 12:00:03,4\n"
        "\n"
        '2026-01-31 12:00:04,"5,1\n'
        "2026-01-31 12:00:05,nan,1\n"
        "2026-01-31 12:00:06,,\n"
        "2026-01-31 12:00:01,2.5,900\n"
        "2026-01-31 12:00:01,2.6,900\n"
        "2026-01-31T12:00:07+01:00,7,7\n"
        "9999-12-31 23:59:59,1,1\n"
    )
    done = await load(database_url, file, "--timezone", "America/Santiago")
    assert done.returncode == 1
    assert "Registered PRESS-1, which was new." in done.stdout
    assert "12 rows: 3 accepted, 1 duplicates, 1 conflicts, 7 rejected." in done.stdout
    assert "Timestamps without an offset were taken as America/Santiago." in done.stdout
    lines = done.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "line 4",
        "line 5",
        "line 6",
        "line 8",
        "line 9",
        "line 10",
        "line 14",
    ]
    assert (
        lines[0]
        == "line 4: timestamp is 'not a time': it must be an ISO 8601 date and time, or 11 to 14 digits of milliseconds since 1970."
    )
    assert lines[1] == "line 5: value is 'warm': it must be a number, such as 12.5."
    assert lines[2] == "line 6: 2 columns, but the first line names 3."
    assert lines[4] == "line 9: value is 'nan': it must be a number, such as 12.5."
    assert lines[5] == "line 10: metrics is empty: send at least one."

    rpm, value = await ask_series(database_url, "2026-01-31T00:00:00Z", "2026-02-01T00:00:00Z")
    assert value["timestamps"] == [
        "2026-01-31T11:00:07.000000Z",
        "2026-01-31T15:00:00.000000Z",
        "2026-01-31T15:00:01.000000Z",
    ]
    assert value["values"] == [7.0, 1.5, 2.5]
    assert rpm["values"] == [7.0, 900.0]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (None, [], "can't be read: No such file or directory."),
        ("", [], "press.csv is empty: it must name the columns"),
        (
            "a,b\n1,2\n",
            [],
            "There is no column `timestamp`: say which it is with --timestamp-column. The columns are 'a', 'b'.",
        ),
        ("timestamp\n1\n", [], "No column is a metric. The columns are 'timestamp'."),
        ("timestamp,a,a\n1,2,3\n", [], "There are two columns 'a': each must have a name of its own."),
        ("timestamp,a,\n1,2,3\n", [], "A column has no name: name it with --columns =NAME, or ignore it"),
        ("timestamp,Temp (°C)\n1,2\n", [], "The columns can't be metrics: metrics has the name 'Temp (°C)'"),
        (
            "timestamp," + ",".join(f"m{n}" for n in range(257)),
            [],
            "metrics has 257 names, more than AURUM_MAX_METRICS, which is 256",
        ),
        ("timestamp,machine,a\n1,A,3\n", [], "leave --machine out, or ignore the column with --columns machine=."),
        ("timestamp,metric,value,unit\n1,a,3,C\n", [], "Ignore them with --columns 'unit=', or say --layout wide."),
        (
            "timestamp,a\n",
            ["--layout", "long"],
            "A long file has a column `metric`: say which it is with --columns OLD=metric.",
        ),
        ("timestamp,a\n", ["--layout", "broad"], "--layout is 'broad': choose one of auto, wide, long."),
        ("timestamp,a\n", ["--on-conflict", "maybe"], "--on-conflict is 'maybe': choose one of keep, overwrite."),
        (
            "timestamp,a\n",
            ["--columns", "b=c"],
            "--columns names 'b', which isn't there. The columns are 'timestamp', 'a'.",
        ),
        ("timestamp,a\n", ["--columns", "a"], "--columns has 'a': write OLD=NEW"),
        ("timestamp,a,b\n", ["--columns", "a=b"], "--columns gives two columns the name 'b'."),
        ("timestamp,a\n", ["--timestamp-column", "time"], "--timestamp-column is 'time', which isn't there."),
        ("timestamp,m,a\n", ["--machine-column", "m"], "Give --machine or --machine-column, not both."),
        (
            "timestamp,a\n",
            ["--timezone", "Mars/Olympus"],
            "--timezone is 'Mars/Olympus': give an IANA name, such as UTC or Europe/Madrid.",
        ),
        ("timestamp,a\n", ["--timezone", "../../etc/passwd"], "--timezone is '../../etc/passwd': give an IANA name"),
        ("timestamp;a\n", [], "parts its columns by ';': part them by commas"),
        ("timestamp,a\n", ["--machine-type", " "], "--machine-type must be 1 to 200 printable characters."),
        ("timestamp,a\n", ["--location", ""], "--location must be 1 to 200 printable characters."),
    ],
)
async def test_a_file_that_cannot_be_read_is_refused_in_a_sentence(
    database_url: str, tmp_path: Path, text: str | None, options: list[str], message: str
) -> None:
    file = tmp_path / "press.csv"
    if text is not None:
        file.write_text(text)
    done = await load(database_url, file, *options)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    async with run_service(database_url) as service:
        assert (await service.ask("{ fleet { machines } }"))["fleet"] == {"machines": 0}


async def test_cells_that_could_be_read_in_two_ways_are_refused(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "press.csv"
    rows = [
        "20240101,1",
        "1704067200,1",
        "1704067200000,1",
        "2026-01-31T12:00:00Z,1_000",
        "2026-01-31T12:00:00Z,\uff11",
    ]
    clocks = ["2026-03-29 02:30:00,1", "2026-10-25 02:30:00,1", "2026-10-25 02:30:00+01:00,1", "2026-03-29 03:30:00,1"]
    file.write_text("\n".join(["timestamp,value", *rows, *clocks]) + "\n", encoding="utf-8")
    done = await load(database_url, file, "--timezone", "Europe/Madrid")
    assert "9 rows: 3 accepted, 0 duplicates, 0 conflicts, 6 rejected." in done.stdout
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == [f"line {n}" for n in (2, 3, 5, 6, 7, 8)]
    assert "given with its offset, since the clocks of this time zone change then." in done.stderr


@pytest.mark.skipif(not NAB.exists(), reason="NAB's data is not beside this checkout")
async def test_nab_answers_value_by_value(database_url: str) -> None:
    with NAB.open(newline="") as file:
        rows = [
            (datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC), float(row["value"]))
            for row in csv.DictReader(file)
        ]
    expected: dict[datetime, float] = {}
    for instant, value in rows:
        expected.setdefault(instant, value)
    repeated = Counter("same" if expected[instant] == value else "other" for instant, value in rows)
    same, other = repeated["same"] - len(expected), repeated["other"]
    assert (len(rows), same + other) == (22_695, 12)

    done = await load(database_url, NAB)
    assert done.returncode == 0, done.stderr
    assert f"22,695 rows: {len(expected):,} accepted, {same} duplicates, {other} conflicts, 0 rejected." in done.stdout
    assert "Timestamps without an offset were taken as UTC." in done.stdout

    (series,) = await ask_series(database_url, "2013-12-01T00:00:00Z", "2014-03-01T00:00:00Z")
    assert series["metric"] == "value"
    assert series["sourceRows"] == len(expected) == 22_683
    instants = sorted(expected)
    assert series["timestamps"] == [instant.strftime("%Y-%m-%dT%H:%M:%S.%fZ") for instant in instants]
    assert series["values"] == [expected[instant] for instant in instants]

    again = await load(database_url, NAB)
    assert (
        f"22,695 rows: 0 accepted, {len(expected) + same:,} duplicates, {other} conflicts, 0 rejected." in again.stdout
    )
