"""Backup and restore on real servers: what comes back is what was there, and nothing half-done passes for done."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import stat
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit, urlunsplit

import asyncpg
import msgspec
import pytest

from app.database import EditionName, probe_edition
from app.embedded import open_embedded
from app.embedded.installations import list_installations
from app.errors import (
    BackupDamaged,
    BackupFailed,
    DatabaseNotEmpty,
    ProgramsMissing,
    RestoreFailed,
    RestoreRefused,
)
from app.migrations.state import list_migrations
from app.ops import backup as backup_room
from app.ops import restore as restore_room
from app.ops.backup import back_up
from app.ops.contents import Contents, read_contents
from app.ops.draft import open_draft
from app.ops.dump import finish_draft, list_backup
from app.ops.manifest import Backup, Manifest, name_manifest, read_manifest, write_manifest, write_return_command
from app.ops.programs import NAMES, choose_programs
from app.ops.restore import restore
from app.ops.session import make_environment, open_session
from app.timescale.definitions import read_catalogue
from app.timescale.statements import ENABLE_TIMESCALE
from tests.conftest import (
    ROOT,
    find_program,
    make_database,
    make_environ,
    read_database,
    replace_database,
    run_command,
    run_service,
    run_sql,
)
from tests.timescale.community import CommunityServer
from tests.timescale.project import (
    COMPRESSION,
    MEAN,
    RETENTION,
    ROWS,
    Project,
    daily,
    declare,
    is_community,
    step,
    stop_jobs,
)

PROGRAMS = choose_programs(None, 18, "the tests")

MACHINES = ["PRESS-1", "MILL-2", "mill-2", "7:x_y.z"]

EXTREMES = (
    r"""
    INSERT INTO machines (machine_id, machine_type, location, operational, created_at, updated_at)
    VALUES (E'Fräse "№7" 🏭, \\N', E'\\.', E'tab\there\nand a line\\', false, '9999-12-31 23:59:59.999999Z', '0001-01-01Z'),
           (' ', '', 'NULL', true, '2026-03-29 01:59:59.999999+01', now())
    """,
    """
    INSERT INTO alerts (machine_id, timestamp, alert_type, severity, cause, title, description, evidence, cleared_at,
                        acknowledged_at, resolved_at, shelved_at, shelved_until, created_at)
    VALUES ('PRESS-1', '2026-01-31 12:00:00.000001Z', 'ANOMALY', 'HIGH', '', 'Überhitzung 🔥', NULL,
            '{"deep": [{"a": "\\u00e9\\n\\"\\\\"}, 1e-300, 123456789012345678901234567890.5, null, true]}',
            'infinity', '-infinity', '4713-01-01 00:00:00 BC', '294276-12-31 23:59:59.999999Z', NULL, 'epoch')
    """,
    "INSERT INTO alerts (machine_id, timestamp, alert_type, severity, cause, title, evidence, created_at) "
    "SELECT 'PRESS-1', now(), 'SILENCE', 'LOW', 'c', repeat('long ', 100000), '{}', now() FROM generate_series(1, 3)",
    "DELETE FROM alerts WHERE id = 4",  # so that the sequence is ahead of the rows
    """
    INSERT INTO predictions (prediction_id, machine_id, timestamp, risk_score, failure_probability, maintenance_hours,
                             failure_type, confidence, model_version, features_used, created_at)
    VALUES ('00000000-0000-0000-0000-000000000000', 'PRESS-1', '1970-01-01 00:00:00Z', 5e-324, 1, 'NaN', NULL, 0, '', '{}', now()),
           ('ffffffff-ffff-ffff-ffff-ffffffffffff', 'PRESS-1', '2099-12-31 23:59:59.999999Z', '-0', 0.1, 'Infinity', '', NULL,
            'v', '[]', now())
    """,
    """
    INSERT INTO esg_records (machine_id, timestamp, instant_co2eq_kg, cumulative_co2eq_kg, fuel_rate_lh, factors, created_at)
    SELECT 'PRESS-1', '2026-01-01'::timestamptz + n * interval '1 day', 1.7976931348623157e308, 0.1 + 0.2, -1e-320, '{}', now()
    FROM generate_series(1, 60) AS n
    """,
)


async def fill(url: str) -> None:
    """Readings by the service, and what it wouldn't take by SQL."""
    async with run_service(url) as service:
        await service.register(*MACHINES)
        readings: list[dict[str, Any]] = [
            {"machine_id": machine, "timestamp": f"2026-01-{day:02}T12:00:00.{day:06}Z", "metrics": metrics}
            for machine in MACHINES
            for day, metrics in enumerate(
                ({"a": 5e-324, "b": 1.7976931348623157e308}, {"a": -0.0, "a.b_c": 0.1}, {"a": 1e15 + 0.3}), start=1
            )
        ]
        readings.append({"machine_id": "PRESS-1", "timestamp": 0, "metrics": {f"m{n}": n / 7 for n in range(256)}})
        assert (await service.ingest(readings))["accepted"] == 13
    await run_sql(url, *EXTREMES)


async def find_environment(url: str) -> dict[str, str]:
    session = await open_session(url)
    try:
        return make_environment(session, url)
    finally:
        await session.close()


async def read_everything(url: str) -> Counter[str]:
    """Every line that pg_dump has of a database: definitions, rights, values of sequences, and rows, of chunks too."""
    environment = await find_environment(url)
    done = await asyncio.to_thread(
        subprocess.run, [PROGRAMS["pg_dump"]], env=environment, capture_output=True, text=True, check=True
    )
    return Counter(
        line for line in done.stdout.splitlines() if not line.startswith(("--", "\\restrict", "\\unrestrict"))
    )


async def read_definitions(url: str) -> dict[tuple[str, str], str]:
    connection = await asyncpg.connect(url)
    try:
        edition = await probe_edition(connection, timescale="auto")
        return await read_catalogue(connection, "public", hypertables=edition.has_hypertables)
    finally:
        await connection.close()


async def fetch(url: str, query: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def read_all_contents(url: str) -> Contents:
    """What a manifest says of a database, of one that nobody writes to."""
    session = await open_session(url)
    try:
        return await read_contents(session, await probe_edition(session, timescale="auto"), lambda *_: None)
    finally:
        await session.close()


async def wait_until(check: Callable[[], Awaitable[object]], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while True:
            if await check():
                return
            await asyncio.sleep(0.02)


async def count_objects(url: str) -> int:
    ((count,),) = await fetch(
        url,
        "SELECT count(*) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = 'public'",
    )
    return int(count)


async def invoke(url: str, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    done = await asyncio.to_thread(run_command, "invoke", *command, database_url=url, **variables)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def change_manifest(path: Path, **changes: Any) -> None:
    """What somebody would write who knows how a manifest is sealed."""
    manifest = read_manifest(path)
    contents = msgspec.structs.replace(manifest.contents, **changes)
    name_manifest(path).write_bytes(write_manifest(Manifest(contents, manifest.dump)))


@pytest.fixture
async def backup(database_url: str, tmp_path: Path) -> Backup:
    """A backup of a database with a machine."""
    async with run_service(database_url) as service:
        await service.register("PRESS-1")
    return await back_up(database_url, tmp_path / "a.dump")


# --- There and back -----------------------------------------------------------------------------------------------


@pytest.fixture
async def other_role(database_url: str, empty_database_url: str) -> AsyncIterator[str | None]:
    """A role that may do little; None where the tests' role may not make one."""
    if not (await fetch(database_url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"))[0][0]:
        yield None
        return
    name = f"reader_{read_database(database_url)}"
    await run_sql(database_url, f"CREATE ROLE {name} LOGIN PASSWORD '{name}'")
    try:
        yield name
    finally:
        for url in (database_url, empty_database_url):
            await run_sql(url, f"DROP OWNED BY {name}")
        await run_sql(database_url, f"DROP ROLE {name}")


@pytest.mark.parametrize("enabled", [False, True], ids=["empty", "with the extension"])
async def test_the_whole_database_comes_back(
    database_url: str, empty_database_url: str, other_role: str | None, tmp_path: Path, enabled: bool
) -> None:
    await fill(database_url)
    if other_role is not None:
        await run_sql(
            database_url,
            f"GRANT SELECT ON alerts TO {other_role}",
            f"GRANT SELECT (machine_id) ON machines TO {other_role}",
            f"CREATE TABLE notes AS SELECT 'kept' AS text; ALTER TABLE notes OWNER TO {other_role}",
        )
    if enabled and await fetch(empty_database_url, "SELECT FROM pg_available_extensions WHERE name = 'timescaledb'"):
        await run_sql(empty_database_url, "CREATE EXTENSION timescaledb")
    file = tmp_path / "whole.dump"
    before = await read_everything(database_url)

    made = await invoke(database_url, "backup", "--file", str(file))
    assert made.returncode == 0, made.stderr
    assert re.search(r"whole\.dump: \d+ tables with \d+ rows in 0\.\d MB\.\n", made.stdout)
    done = await invoke(empty_database_url, "restore", "--file", str(file))
    assert done.returncode == 0, done.stderr
    assert "every table has the rows and the checksum that it had." in done.stdout

    assert await read_everything(empty_database_url) == before
    assert await read_definitions(empty_database_url) == await read_definitions(database_url)
    sums = {table.name: table.rows for table in read_manifest(file).contents.tables}
    assert (sums["public.raw_measurements"], sums["public.alerts"], sums["public.machines"]) == (13, 3, 6)
    newest = (await fetch(empty_database_url, "SELECT max(id) FROM outbox"))[0][0]
    async with run_service(empty_database_url) as service:
        data = await service.ask("{ machines { nodes { machineId } } fleet { machines } }")
        assert {node["machineId"] for node in data["machines"]["nodes"]} > set(MACHINES)
        assert (await service.ingest({"machine_id": MACHINES[1], "timestamp": 1, "metrics": {"a": 1}}))["accepted"] == 1
    assert (await fetch(empty_database_url, "SELECT max(id) FROM outbox"))[0][0] > newest
    await run_sql(
        empty_database_url,
        "INSERT INTO alerts (machine_id, timestamp, alert_type, severity, cause, title, created_at) "
        "VALUES ('PRESS-1', now(), 'SILENCE', 'LOW', 'c', 't', now())",
    )
    assert await fetch(empty_database_url, "SELECT id FROM alerts ORDER BY id") == [(1,), (2,), (3,), (5,)]


async def test_only_a_superuser_restores_timescaledb(
    backup: Backup, empty_database_url: str, other_role: str | None
) -> None:
    if backup.manifest.contents.timescale_version is None or other_role is None:
        pytest.skip("needs TimescaleDB and a role that may make others")
    await run_sql(empty_database_url, f"GRANT CREATE ON SCHEMA public TO {other_role}")
    parts = urlsplit(empty_database_url)
    url = urlunsplit(parts._replace(netloc=f"{other_role}:{other_role}@{parts.netloc.rpartition('@')[2]}"))
    with pytest.raises(RestoreRefused, match=r"TimescaleDB lets only a superuser restore, so name one in DATABASE_URL"):
        await restore(url, backup.path)
    assert await count_objects(empty_database_url) == 0


async def fill_project(project: Project) -> bool:
    """A hypertable with all that the edition can do, four of its seven chunks compressed; whether that is everything."""
    await project.fetch(ENABLE_TIMESCALE)
    await stop_jobs(project)
    await step(project, declare(daily(COMPRESSION + RETENTION + MEAN)))
    # No job may come between what is compared, in the database that it is restored into either.
    if whole := await is_community(project):
        await project.fetch(
            "SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs WHERE job_id >= 1000"
        )
    await project.fetch("INSERT INTO machines VALUES ('A')")
    await project.fetch(ROWS)
    if whole:
        await project.fetch("CALL refresh_continuous_aggregate('readings_hourly', NULL, NULL)")
        await project.fetch(
            "SELECT compress_chunk(chunk) FROM (SELECT chunk FROM show_chunks('readings') AS chunk ORDER BY 1 LIMIT 4) AS oldest"
        )
    return whole


async def test_a_hypertable_comes_back_with_all_that_the_server_can_do(
    server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_database(server_url) as url, make_database(server_url) as other:
        whole = await fill_project(Project(tmp_path, url, monkeypatch))
        before, definitions = await read_everything(url), await read_definitions(url)
        backup = await back_up(url, tmp_path / "a.dump")
        await restore(other, backup.path)
        assert await read_everything(other) == before
        assert await read_definitions(other) == definitions
        shown = "SELECT * FROM readings ORDER BY timestamp"
        assert await fetch(other, shown) == await fetch(url, shown)
        if backup.manifest.contents.hypertables is not None:
            assert backup.manifest.contents.hypertables.chunks == (9 if whole else 7)
            assert backup.manifest.contents.hypertables.compressed_chunks == (4 if whole else 0)


async def test_compressed_chunks_aggregates_and_policies_come_back(
    community: CommunityServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    community.reset()
    assert await fill_project(Project(tmp_path, community.dsn, monkeypatch))

    # A server with one session can't hold a snapshot for pg_dump; nobody writes to this one, so it isn't needed.
    with monkeypatch.context() as patience:
        # pg_dump's alone: the session itself may take its time.
        patience.setattr(
            backup_room,
            "make_environment",
            lambda session, dsn: {**make_environment(session, dsn), "PGCONNECT_TIMEOUT": "2"},
        )
        with pytest.raises(
            BackupFailed, match=r"^pg_dump \S+ failed: connection to server .* failed: timeout expired\.$"
        ):
            await back_up(community.dsn, tmp_path / "refused.dump")
    assert list_names(tmp_path) == ["migrations"]
    contents = await read_all_contents(community.dsn)
    file = tmp_path / "community.dump"
    with open_draft(file) as draft:
        command = [PROGRAMS["pg_dump"], "--format=custom"]
        await asyncio.to_thread(
            subprocess.run, command, env=await find_environment(community.dsn), stdout=draft.file, check=True
        )
        await finish_draft(draft, contents, PROGRAMS)
    assert msgspec.to_builtins(contents.hypertables) == {
        "chunks": 9,
        "compressed_chunks": 4,
        "aggregates": 1,
        "policies": 3,
    }
    rows = {table.name: table.rows for table in contents.tables}
    assert rows["public.readings"] == 1000
    assert [count for name, count in rows.items() if "_materialized_" in name] == [167]
    before, definitions = await read_everything(community.dsn), await read_definitions(community.dsn)
    shown = "SELECT machine_id, bucket, readings, mean FROM readings_hourly ORDER BY bucket"
    hours = await fetch(community.dsn, shown)

    community.reset()
    restored = await restore(community.dsn, file)

    # Its migrations are the test's own.
    assert restored.remaining == (
        "The backup is older than this code: run invoke migrate.",
        "The backup is of a later release than this code, which refuses the database: run that release.",
    )
    assert await read_everything(community.dsn) == before
    assert await read_definitions(community.dsn) == definitions
    assert await fetch(community.dsn, shown) == hours
    ((job,),) = await fetch(
        community.dsn, "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'policy_compression'"
    )
    await run_sql(community.dsn, "INSERT INTO readings VALUES ('A', '2026-01-02 00:00:01Z', 7)", f"CALL run_job({job})")
    assert await fetch(community.dsn, "SELECT count(*) FROM readings") == [(1001,)]
    assert await fetch(
        community.dsn,
        "SELECT count(*) FILTER (WHERE is_compressed), count(*) FROM timescaledb_information.chunks "
        "WHERE hypertable_name = 'readings'",
    ) == [(7, 7)]


async def test_a_backup_is_of_one_moment_while_the_service_writes(
    database_url: str, empty_database_url: str, tmp_path: Path
) -> None:
    written = 0
    some, stopping = asyncio.Event(), asyncio.Event()

    async with run_service(database_url) as service:
        await service.register("PRESS-1")

        async def write() -> None:
            nonlocal written
            while not stopping.is_set():
                first = written * 50
                readings = [
                    {"machine_id": "PRESS-1", "timestamp": 1_000_000_000_000 + n * 1000, "metrics": {"n": n}}
                    for n in range(first, first + 50)
                ]
                assert (await service.ingest(readings))["accepted"] == 50
                written += 1
                if written == 5:
                    some.set()

        writing = asyncio.create_task(write())
        await some.wait()
        before = written
        backup = await back_up(database_url, tmp_path / "a.dump")
        after = written + 1  # one may be stored that is not answered yet
        stopping.set()
        await writing

    await restore(empty_database_url, backup.path)
    rows = {table.name: table.rows for table in backup.manifest.contents.tables}["public.raw_measurements"]
    assert before * 50 <= rows <= after * 50
    # A reading and the event that tells of it are committed together.
    assert await fetch(
        empty_database_url, "SELECT count(*), max((metrics->>'n')::float8) + 1 FROM raw_measurements"
    ) == [(rows, rows)]
    ((told,),) = await fetch(empty_database_url, "SELECT count(*) FROM outbox WHERE topic = 'measurements'")
    assert told == rows / 50


async def test_what_is_committed_while_the_backup_waits_for_a_table_is_in_it(database_url: str, tmp_path: Path) -> None:
    """Locks come before the snapshot: else a table that is emptied in between would be backed up empty."""
    other = await asyncpg.connect(database_url)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("LOCK TABLE machines IN ACCESS EXCLUSIVE MODE")
    backing_up = asyncio.create_task(back_up(database_url, tmp_path / "a.dump"))
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
    await wait_until(lambda: other.fetchval(waiting))
    await other.execute(
        "INSERT INTO machines VALUES ('LATE-1', 'press', 'Hall 2', true, now(), now()), "
        "('LATE-2', 'press', 'Hall 2', true, now(), now())"
    )
    await transaction.commit()
    await other.close()
    backup = await backing_up
    assert {table.name: table.rows for table in backup.manifest.contents.tables}["public.machines"] == 2


async def test_who_keeps_a_table_to_himself_is_not_waited_for_without_end(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_room, "LOCK_SECONDS", 1)
    other = await asyncpg.connect(database_url)
    try:
        await other.execute("BEGIN; LOCK TABLE machines IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(BackupFailed, match=r"^Somebody has had a table to themselves for 1 seconds"):
            await back_up(database_url, tmp_path / "a.dump")
    finally:
        await other.close()
    assert list_names(tmp_path) == []


async def test_an_older_server_takes_the_script_of_a_newer_pg_restore(tmp_path: Path) -> None:
    older = [one for one in list_installations(None) if one.major < 17]
    if not older:
        pytest.skip("there is no PostgreSQL older than 17 here")
    newer = choose_programs(None, 17, "this test").bin_dir
    with open_embedded(tmp_path / "older", older[0].bin_dir) as server:
        await run_sql(server.dsn, "CREATE TABLE one (n int)", "INSERT INTO one VALUES (1)")
        backup = await back_up(server.dsn, tmp_path / "a.dump", pg_bin=newer)
        assert backup.manifest.dump.pg_dump_version == choose_programs(newer, 17, "this test").version
        other = await restore_room.make_database(server.dsn, "other")
        await restore(other, backup.path, pg_bin=newer)
        assert await fetch(other, "SELECT n FROM one") == [(1,)]
        same = await back_up(server.dsn, tmp_path / "b.dump")
        assert same.manifest.dump.pg_dump_version == older[0].version
        with pytest.raises(
            ProgramsMissing, match=r"^A backup made with pg_dump \S+ asks for pg_dump, pg_restore and psql"
        ):
            await restore(other, backup.path, pg_bin=older[0].bin_dir)


async def test_plain_tables_become_hypertables_after_they_are_restored(
    empty_database_url: str, server_url: str, tmp_path: Path
) -> None:
    if not await fetch(server_url, "SELECT FROM pg_available_extensions WHERE name = 'timescaledb'"):
        pytest.skip("this server has no TimescaleDB")
    assert (await invoke(empty_database_url, "migrate", AURUM_TIMESCALE="off")).returncode == 0
    await fill(empty_database_url)
    backup = await back_up(empty_database_url, tmp_path / "a.dump")
    assert backup.manifest.contents.timescale_version is None
    async with make_database(server_url) as url:
        done = await invoke(url, "restore", "--file", str(backup.path))
        assert "run invoke timescale-apply." in done.stdout
        assert (await invoke(url, "timescale-apply")).returncode == 0
        assert (await invoke(url, "migrate-check")).returncode == 0
        contents = await read_all_contents(url)
        # Whose rows are moved into chunks are taken for new, and rolled up anew.
        saved = [each for each in backup.manifest.contents.tables if each.name != "public.rollup_cover"]
        assert [each for each in contents.tables if each.name != "public.rollup_cover"] == saved
        assert contents.hypertables is not None
        assert contents.hypertables.chunks > 10


async def test_the_embedded_server_is_backed_up_and_restored_into_a_new_one(tmp_path: Path) -> None:
    def run(*command: str, data_dir: str) -> str:
        done = subprocess.run(
            [find_program("invoke"), "--search-root", str(ROOT), *command],
            cwd=tmp_path,
            env=make_environ(AURUM_DATA_DIR=data_dir, PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    await asyncio.to_thread(run, "migrate", data_dir=".aurum")
    output = await asyncio.to_thread(run, "backup", data_dir=".aurum")
    told = re.search(r"AURUM_DATA_DIR=(\.aurum-\d{14}) uv run invoke restore --file (\S+)\n", output)
    assert told is not None
    file = Path(told[2])
    assert re.fullmatch(r"aurumai-aurum-\d{8}T\d{6}Z\.dump", file.name)
    assert list_names(tmp_path / "backups") == [file.name, f"{file.name}.json"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, name_manifest(file), file.parent)] == [
        0o600,
        0o600,
        0o700,
    ]
    restored = await asyncio.to_thread(run, "restore", "--file", told[2], data_dir=told[1])
    assert re.search(
        r"^Restored \d+ tables with \d+ rows in 0\.\d MB; every table has the rows", restored, re.MULTILINE
    )


async def test_the_command_to_go_back_makes_a_database_of_its_own(backup: Backup, database_url: str) -> None:
    command = write_return_command(backup, embedded=False)
    name = f"{read_database(database_url)}_{backup.manifest.contents.taken_at:%Y%m%d%H%M%S}"
    assert command == f"uv run invoke restore --file {backup.path} --database {name}"
    try:
        done = await invoke(database_url, *command.split()[3:])
        assert done.returncode == 0, done.stderr
        assert f"Set DATABASE_URL to the database {name} to use it." in done.stdout
        assert await read_everything(replace_database(database_url, name)) == await read_everything(database_url)
        again = await invoke(database_url, *command.split()[3:])
        assert "DATABASE_NOT_EMPTY: " in again.stderr
    finally:
        await run_sql(database_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


# --- Refusals -----------------------------------------------------------------------------------------------------


async def test_a_database_with_anything_in_it_is_refused_and_stays(backup: Backup, empty_database_url: str) -> None:
    for statement, named in (
        ("CREATE TABLE mine (n int)", "table public.mine"),
        ("CREATE FUNCTION mine() RETURNS int LANGUAGE sql RETURN 1", "function public.mine()"),
        ("CREATE TYPE mood AS ENUM ('good')", "type public.mood"),
        ("CREATE SCHEMA mine", "schema mine"),
    ):
        await run_sql(empty_database_url, statement)
        with pytest.raises(DatabaseNotEmpty) as refused:
            await restore(empty_database_url, backup.path)
        assert named in str(refused.value)
    assert await fetch(empty_database_url, "SELECT count(*) FROM mine") == [(0,)]


async def test_a_file_that_is_not_a_whole_backup_is_refused(backup: Backup, empty_database_url: str) -> None:
    dump, manifest = backup.path, name_manifest(backup.path)
    whole, described = dump.read_bytes(), manifest.read_bytes()

    async def refuse() -> str:
        with pytest.raises(BackupDamaged) as refused:
            await restore(empty_database_url, dump)
        assert await count_objects(empty_database_url) == 0
        dump.write_bytes(whole)
        manifest.write_bytes(described)
        return str(refused.value)

    dump.unlink()
    assert await refuse() == f"{dump} can't be read: No such file or directory."
    manifest.unlink()
    assert await refuse() == f"{manifest} isn't there: a restore is compared with it, so it has to lie beside its dump."
    dump.write_bytes(whole[:-1])
    assert (
        await refuse()
        == f"{dump} has {len(whole) - 1:,} bytes, and had {len(whole):,} when it was made: it isn't whole."
    )
    dump.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    assert await refuse() == f"{dump} isn't as it was made: its SHA-256 differs."
    manifest.write_bytes(described.replace(b'"rows": 1,', b'"rows": 2,', 1))
    assert await refuse() == f"{manifest} isn't as it was written: take both files from another copy of the backup."
    manifest.write_bytes(b"{}")
    assert (await refuse()).startswith(f"{manifest} isn't the description of a backup: ")
    manifest.write_bytes(described.replace(b'"format":1', b'"format":2', 1))
    assert "is of the kind 2, and this code knows 1" in await refuse()
    assert (await list_backup(dump)).manifest == backup.manifest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"postgres_version": "99.1"}, "The backup is of PostgreSQL 99.1 and this server is"),
        ({"encoding": "LATIN9"}, "The backup is in LATIN9 and this database in UTF8: make one with CREATE DATABASE"),
        ({"roles": ("nobody_here",)}, "roles that this server lacks (nobody_here): make them with CREATE ROLE"),
        (
            {"timescale_version": "9.9.9", "edition": "community"},
            "The backup is of a database with TimescaleDB 9.9.9 (community), and this server ",
        ),
    ],
)
async def test_a_backup_that_the_server_has_no_place_for_is_refused(
    backup: Backup, empty_database_url: str, changes: dict[str, Any], message: str
) -> None:
    if "edition" in changes:
        changes = {**changes, "edition": EditionName(changes["edition"])}
    change_manifest(backup.path, **changes)
    with pytest.raises(RestoreRefused) as refused:
        await restore(empty_database_url, backup.path)
    assert message in str(refused.value)
    assert await count_objects(empty_database_url) == 0


async def test_a_backup_of_a_later_release_comes_back_and_says_which_code_it_needs(
    backup: Backup, empty_database_url: str
) -> None:
    migrations = (*backup.manifest.contents.migrations, "2999-01-01T00:00:00:000000")
    change_manifest(backup.path, migrations=migrations)
    restored = await restore(empty_database_url, backup.path)
    assert restored.remaining == (
        "The backup is of a later release than this code, which refuses the database: run that release.",
    )


async def test_rows_that_are_not_the_backup_s_are_told_and_never_pass(backup: Backup, empty_database_url: str) -> None:
    tables = [
        msgspec.structs.replace(table, rows=table.rows + 1) if table.name == "public.machines" else table
        for table in backup.manifest.contents.tables
    ]
    change_manifest(backup.path, tables=tuple(tables))
    with pytest.raises(
        RestoreFailed, match=r"the first is public\.machines with 1 rows with the checksum \S+ instead of 2"
    ):
        await restore(empty_database_url, backup.path)
    done = await invoke(empty_database_url, "migrate")
    assert (done.returncode, done.stderr.split(":")[0]) == (3, "RESTORE_UNFINISHED")


async def test_a_login_that_is_refused_is_told_without_the_password(backup: Backup, database_url: str) -> None:
    parts = urlsplit(database_url)
    wrong = urlunsplit(parts._replace(netloc="nobody_here:s3cret@" + parts.netloc.rpartition("@")[2]))
    for command in (["backup", "--file", str(backup.path) + "2"], ["restore", "--file", str(backup.path)]):
        done = await invoke(wrong, *command)
        assert done.returncode == 1
        assert done.stderr.startswith("DATABASE_UNAVAILABLE: The database refuses the role of DATABASE_URL: ")
        assert "s3cret" not in done.stdout + done.stderr


async def test_without_pg_dump_the_command_says_what_to_install(
    backup: Backup, database_url: str, tmp_path: Path
) -> None:
    done = await invoke(database_url, "backup", "--file", str(tmp_path / "b.dump"), AURUM_PG_BIN=str(tmp_path))
    assert done.returncode == 1
    assert re.match(
        r"PROGRAMS_MISSING: A backup of PostgreSQL (\d+)\.\d+ asks for pg_dump, pg_restore and psql of PostgreSQL \1 or later, "
        r"and here there is none: install PostgreSQL's client programs \(Debian: postgresql-client-\1\), or set AURUM_PG_BIN",
        done.stderr,
    )


async def test_nothing_is_ever_replaced(backup: Backup, database_url: str, tmp_path: Path) -> None:
    whole = backup.path.read_bytes()
    done = await invoke(database_url, "backup", "--file", str(backup.path))
    assert done.stderr == (
        f"BACKUP_FAILED: {backup.path} is there already, and a backup replaces nothing: name another file.\n"
    )
    assert backup.path.read_bytes() == whole
    missing = tmp_path / "nowhere" / "a.dump"
    with pytest.raises(BackupFailed, match=r"nowhere isn't there: make it, or name another file\.$"):
        await back_up(database_url, missing)
    with open_draft(tmp_path / "b.dump"), pytest.raises(BackupFailed, match=r"^Another backup is writing "):
        await back_up(database_url, tmp_path / "b.dump")


async def test_a_second_restore_waits_for_nobody(
    backup: Backup, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore_room, "LOCK_SECONDS", 1)
    other = await asyncpg.connect(empty_database_url)
    await other.execute(f"SELECT pg_advisory_lock({restore_room.LOCK})")
    with pytest.raises(RestoreRefused, match=r"^Another restore into this database is running: wait for it to end\.$"):
        await restore(empty_database_url, backup.path)
    await other.close()


# --- Cut off ------------------------------------------------------------------------------------------------------


def make_programs(folder: Path, **scripts: str) -> Path:
    """The real programs; before some of them a shell script, in which REAL is the program."""
    folder.mkdir()
    for name in NAMES:
        script = scripts.get(name, 'exec REAL "$@"').replace("REAL", PROGRAMS[name]).replace("FOLDER", str(folder))
        (folder / name).write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec {PROGRAMS[name]} --version\n{script}\n')
        (folder / name).chmod(0o755)
    return folder


async def kill_at_rest(folder: Path, url: str, *command: str) -> int:
    """Runs a command until a script says that it sleeps, and kills the command alone; the script's process."""
    process = await asyncio.create_subprocess_exec(
        find_program("invoke"),
        *command,
        cwd=ROOT,
        env=make_environ(DATABASE_URL=url, AURUM_PG_BIN=str(folder)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )

    async def is_asleep() -> bool:
        assert process.returncode is None
        return "asleep" in list_names(folder)

    try:
        await wait_until(is_asleep)
    finally:
        process.kill()
        await process.wait()
    return int((folder / "asleep").read_text())


REST = "echo $$ > FOLDER/pid; mv FOLDER/pid FOLDER/asleep; exec sleep 600"


async def test_a_backup_that_is_killed_leaves_nothing_under_its_name(database_url: str, tmp_path: Path) -> None:
    await fill(database_url)
    folder = make_programs(tmp_path / "bin", pg_dump=f'REAL "$@" | head -c 3000; {REST}')
    file = tmp_path / "backups" / "a.dump"
    file.parent.mkdir()
    sleeper = await kill_at_rest(folder, database_url, "backup", "--file", str(file))
    try:
        assert list_names(file.parent) == ["a.dump.unfinished"]
        # Its pg_dump may go on for a while.
        refused = await invoke(database_url, "backup", "--file", str(file))
        assert refused.stderr.startswith("BACKUP_FAILED: Another backup is writing ")
    finally:
        os.kill(sleeper, signal.SIGKILL)

    async def back_up_again() -> bool:
        return (await invoke(database_url, "backup", "--file", str(file))).returncode == 0

    await wait_until(back_up_again)
    assert list_names(file.parent) == ["a.dump", "a.dump.json"]
    assert (await list_backup(file)).manifest.contents.rows > 0


async def test_a_program_that_is_killed_is_not_said_to_have_spoken(database_url: str, tmp_path: Path) -> None:
    folder = make_programs(tmp_path / "bin", pg_dump='echo "pg_dump: dumping contents of table" >&2; kill -9 $$')
    with pytest.raises(
        BackupFailed, match=r"failed: it was ended by SIGKILL, for want of memory perhaps, or of room\.$"
    ):
        await back_up(database_url, tmp_path / "a.dump", pg_bin=folder)
    assert list_names(tmp_path) == ["bin"]


async def test_a_manifest_that_can_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    companion = tmp_path / "a.dump.json"
    companion.mkdir()  # no file takes its place
    with pytest.raises(OSError, match="directory"), open_draft(tmp_path / "a.dump") as draft:
        draft.publish(companion, b"{}")
    assert list_names(tmp_path) == ["a.dump.json"]


async def test_the_folder_for_backups_is_rid_of_what_was_killed(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(backup_room, "FOLDER", tmp_path / "backups")
    (tmp_path / "backups").mkdir()
    for left in ("dump.unfinished", "dump.json.unfinished"):
        (tmp_path / "backups" / f"aurumai-old-20260131T120000Z.{left}").write_bytes(b"half")
    with open_draft(tmp_path / "backups" / "other.dump"):
        backup = await back_up(database_url)
        assert list_names(tmp_path / "backups") == [
            backup.path.name,
            f"{backup.path.name}.json",
            "other.dump.unfinished",
        ]


async def test_a_restore_that_was_cut_off_passes_for_nothing_and_begins_anew(
    database_url: str, empty_database_url: str, tmp_path: Path
) -> None:
    await fill(database_url)
    backup = await back_up(database_url, tmp_path / "a.dump")
    half = backup.manifest.dump.script_size // 2
    folder = make_programs(tmp_path / "bin", psql=f'head -c {half} | REAL "$@"; {REST}')
    command = ("restore", "--file", str(backup.path))
    sleeper = await kill_at_rest(folder, empty_database_url, *command)
    os.kill(sleeper, signal.SIGKILL)

    assert await fetch(empty_database_url, "SELECT to_regclass('machines') IS NOT NULL") == [(True,)]
    serving = await asyncio.to_thread(
        run_command, "uvicorn", "--factory", "app.main:create_app", "--port", "0", database_url=empty_database_url
    )
    others = [
        await invoke(empty_database_url, *other)
        for other in (
            ["migrate"],
            ["migrate-current"],
            ["migrate-check"],
            ["backup", "--file", str(tmp_path / "b.dump")],
        )
    ]
    for done in (serving, *others):
        assert done.returncode == 3, done.stdout + done.stderr
        assert "RESTORE_UNFINISHED: A restore of a.dump at " in done.stdout + done.stderr
        assert "into this database was begun and is not finished" in done.stdout + done.stderr

    done = await invoke(empty_database_url, *command)
    assert done.returncode == 0, done.stderr
    assert "A restore that was cut off is begun anew." in done.stdout
    assert await read_everything(empty_database_url) == await read_everything(database_url)
    assert (await invoke(empty_database_url, "migrate-check")).returncode == 0


async def test_a_restore_gives_way_to_one_that_began_after_it(
    backup: Backup, empty_database_url: str, tmp_path: Path
) -> None:
    folder = make_programs(
        tmp_path / "bin", psql='REAL "$PGDATABASE" -qc "UPDATE restore_unfinished SET token = \'x\'" && exec REAL "$@"'
    )
    with pytest.raises(RestoreFailed, match=r"Another restore into this database has begun in the meantime"):
        await restore(empty_database_url, backup.path, pg_bin=folder)


async def test_a_database_that_goes_away_in_a_backup_leaves_nothing(database_url: str, tmp_path: Path) -> None:
    # Waits until they have ended. Autovacuum's processes are no clients, and not everybody may end them.
    end = (
        "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    folder = make_programs(
        tmp_path / "bin", pg_dump=f'REAL --version; {PROGRAMS["psql"]} -qc "{end}" >&2; exec REAL "$@"'
    )
    with pytest.raises(BackupFailed):
        await back_up(database_url, tmp_path / "a.dump", pg_bin=folder)
    assert list_names(tmp_path) == ["bin"]


# --- How the programs reach the server ----------------------------------------------------------------------------


async def test_no_program_has_the_password_among_its_arguments(
    database_url: str, empty_database_url: str, tmp_path: Path
) -> None:
    log = "{ tr '\\0' ' ' < /proc/$$/cmdline; echo; } >> FOLDER/log\nexec REAL \"$@\""
    folder = make_programs(tmp_path / "bin", pg_dump=log, pg_restore=log, psql=log)
    password = urlsplit(database_url).password or "s3cret"
    file = str(tmp_path / "a.dump")
    for url, command in ((database_url, "backup"), (empty_database_url, "restore")):
        parts = urlsplit(url)
        known = urlunsplit(parts._replace(netloc=f"{parts.username}:{password}@{parts.netloc.rpartition('@')[2]}"))
        done = await invoke(known, command, "--file", file, AURUM_PG_BIN=str(folder))
        assert done.returncode == 0, done.stderr
        assert password not in done.stdout + done.stderr
    said = (folder / "log").read_text()
    assert {name for name in NAMES if f"{folder}/{name}" in said} == set(NAMES)
    assert password not in said
    assert password not in name_manifest(Path(file)).read_text()


async def test_libpq_goes_where_asyncpg_went(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = urlsplit(database_url)
    given = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    whereabouts = {
        "user": parts.username or "",
        "password": parts.password or "",
        "host": given.get("host") or parts.hostname or "",
        "port": given.get("port") or str(parts.port),
        "database": parts.path[1:],
    }
    whereabouts = {name: value for name, value in whereabouts.items() if value}
    settings = {"work_mem": "7MB", "search_path": '"a b\\", public', "sslmode": "prefer", "sslrootcert": "/nowhere"}
    urls = [
        database_url,
        "postgresql://?" + urlencode({**whereabouts, **settings}, quote_via=quote),
        urlunsplit(parts._replace(query=urlencode({**given, **settings}, quote_via=quote))),
    ]
    # Neither is asyncpg's business.
    monkeypatch.setenv("PGHOSTADDR", "192.0.2.1")
    monkeypatch.setenv("PGSERVICE", "elsewhere")
    query = "SELECT current_database(), current_user, current_setting('port'), current_setting('work_mem'), current_setting('search_path')"
    for url in urls:
        session = await open_session(url)
        expected = [str(value) for value in (await session.fetch(query))[0]]
        environment = make_environment(session, url)
        await session.close()
        done = await asyncio.to_thread(
            subprocess.run,
            [PROGRAMS["psql"], "-XAtF", "|", "-c", query],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip().split("|") == expected, done.stderr
        assert (environment.get("PGSSLROOTCERT") == "/nowhere") == (url != database_url)
        assert "DATABASE_URL" not in environment


async def test_a_safe_migration_backs_up_first_and_says_how_to_go_back_when_it_fails(server_url: str) -> None:
    """The second migration fails: the first stays, and both printed commands do what they say."""
    first, second, *_ = list_migrations()
    async with make_database(server_url) as url:
        await run_sql(url, "CREATE TABLE kept AS SELECT n FROM generate_series(1, 100) n")
        await run_sql(
            url,
            "CREATE TABLE migration (id serial PRIMARY KEY, name varchar(200), app_name varchar(200), "
            f"ran_on timestamp DEFAULT now(), CHECK (name <> '{second}'))",
        )
        done = await asyncio.to_thread(run_command, "invoke", "migrate-safe", database_url=url)
        assert done.returncode == 1, done.stdout + done.stderr
        backed_up = re.search(
            r"^Backed up .* to (/\S+/backups/\S+\.dump), and it can be listed\.$", done.stdout, re.MULTILINE
        )
        assert backed_up, done.stdout
        try:
            lines = done.stderr.splitlines()
            assert f"Applied before it failed: {first}. To reverse that, keeping every other row:" in lines
            back = next(line.strip() for line in lines if "migrate-to" in line)
            assert back == "uv run invoke migrate-to --id base"
            restore = next(line.strip() for line in lines if "invoke restore" in line)
            assert f"--file {backed_up[1]} --database " in restore
            assert lines[-1].startswith("MIGRATION_FAILED: ")
            reversed_ = await asyncio.to_thread(
                run_command, *shlex.split(back.removeprefix("uv run ")), database_url=url
            )
            assert reversed_.returncode == 0, reversed_.stderr
            name = restore.rpartition(" ")[2]
            restored = await asyncio.to_thread(
                run_command, *shlex.split(restore.removeprefix("uv run ")), database_url=url
            )
            try:
                assert restored.returncode == 0, restored.stderr
                connection = await asyncpg.connect(replace_database(url, name))
                try:
                    assert await connection.fetchval("SELECT sum(n)::int FROM kept") == 5050
                    assert await connection.fetchval("SELECT to_regclass('machines')::text") is None
                finally:
                    await connection.close()
            finally:
                await run_sql(server_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        finally:
            for path in (ROOT / "backups").glob(f"{Path(backed_up[1]).name}*"):
                path.unlink()


async def test_a_safe_migration_of_a_database_in_step_backs_up_nothing(server_url: str, template: str) -> None:
    async with make_database(server_url, template) as url:
        done = await asyncio.to_thread(run_command, "invoke", "migrate-safe", database_url=url)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"Nothing to apply: the database is at {list_migrations()[-1]}.\n"
