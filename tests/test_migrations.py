"""The migrations, run as users run them, on the server of the tests and on TimescaleDB Community."""

from __future__ import annotations

import asyncio
import sys
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from app.migrations.state import list_migrations
from app.piccolo_app import APP_CONFIG
from app.timescale.autogenerate import draft_migration
from app.timescale.declared import find_hypertables
from app.timescale.statements import ENABLE_TIMESCALE
from app.timescale.transitions import plan_transition
from tests.conftest import ROOT, make_database, read_database, replace_database, run_command, run_sql
from tests.ports import find_free_port
from tests.timescale.catalogue import look

TABLES = [
    "alert_transitions",
    "alerts",
    "allowances",
    "api_keys",
    "audit",
    "esg_records",
    "features",
    "file_loads",
    "machine_pulses",
    "machines",
    "outbox",
    "outbox_readers",
    "predictions",
    "raw_measurements",
    "rollup_changes",
    "rollup_cover",
    "rollups",
]
HYPERTABLES = {"esg_records": 7, "features": 7, "predictions": 7, "raw_measurements": 1}  # days of a chunk


async def fetch(url: str, query: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def run(url: str, *command: str, **variables: str) -> str:
    done = await asyncio.to_thread(run_command, *command, database_url=url, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def list_tables(url: str) -> list[str]:
    return [
        row[0] for row in await fetch(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    ]


async def has_extension(url: str) -> bool:
    return await fetch(url, "SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'") != []


async def read_hypertables(url: str) -> dict[Any, Any]:
    if not await has_extension(url):
        return {}
    rows = await fetch(
        url,
        "SELECT hypertable_name::text, extract(day FROM time_interval)::int FROM timescaledb_information.dimensions "
        "WHERE hypertable_schema = 'public' AND column_name = 'timestamp'",
    )
    return dict(rows)


async def test_telemetry_is_keyed_by_machine_and_time(url: str) -> None:
    await run(url, "piccolo", "migrations", "forwards", "app")
    keys = await fetch(
        url,
        "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE contype = 'p' AND connamespace = 'public'::regnamespace ORDER BY 1",
    )
    assert keys == [
        ("alert_transitions", "PRIMARY KEY (id)"),
        ("alerts", "PRIMARY KEY (id)"),
        ("allowances", "PRIMARY KEY (holder)"),
        ("api_keys", "PRIMARY KEY (id)"),
        ("audit", "PRIMARY KEY (id)"),
        ("esg_records", 'PRIMARY KEY (machine_id, "timestamp")'),
        ("features", 'PRIMARY KEY (machine_id, "timestamp")'),
        ("file_loads", "PRIMARY KEY (fingerprint)"),
        ("machine_pulses", "PRIMARY KEY (machine_id)"),
        ("machines", "PRIMARY KEY (machine_id)"),
        ("migration", "PRIMARY KEY (id)"),
        ("migration_journal", "PRIMARY KEY (id)"),
        ("outbox", "PRIMARY KEY (id)"),
        ("outbox_readers", "PRIMARY KEY (name)"),
        ("predictions", 'PRIMARY KEY (machine_id, "timestamp", model_version)'),
        ("raw_measurements", 'PRIMARY KEY (machine_id, "timestamp")'),
        ("rollup_changes", "PRIMARY KEY (id)"),
        ("rollup_cover", "PRIMARY KEY (id)"),
        ("rollups", "PRIMARY KEY (machine_id, metric, bucket)"),
    ]


async def test_running_them_again_changes_nothing(url: str) -> None:
    await run(url, "piccolo", "migrations", "forwards", "app")
    before = await look(url)
    assert "No migrations need to be run" in await run(url, "piccolo", "migrations", "forwards", "app")
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(ENABLE_TIMESCALE)
        for table, declared in find_hypertables(APP_CONFIG.table_classes).items():
            for step in plan_transition(table, None, declared):
                await connection.execute(step.sql)
    finally:
        await connection.close()
    assert await look(url) == before


async def test_timescale_off_leaves_the_extension_alone(url: str) -> None:
    await run(url, "piccolo", "migrations", "forwards", "app", AURUM_TIMESCALE="off")
    assert await list_tables(url) == sorted([*TABLES, "migration", "migration_journal"])
    assert not await has_extension(url)


async def test_a_database_that_gains_timescale_later_is_brought_up_with_its_rows(url: str) -> None:
    await run(url, "piccolo", "migrations", "forwards", "app", AURUM_TIMESCALE="off")
    await run_sql(
        url,
        "INSERT INTO machines (machine_id, machine_type, location) VALUES ('A', 'press', 'x')",
        "INSERT INTO raw_measurements (machine_id, timestamp, metrics) "
        "SELECT 'A', '2026-01-01'::timestamptz + n * interval '1 hour', jsonb_build_object('n', n) FROM generate_series(1, 240) n",
    )
    rows = "SELECT count(*)::int, sum((metrics ->> 'n')::int)::int FROM raw_measurements"
    before = await fetch(url, rows)
    available = await fetch(url, "SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb'") != []
    for _ in range(2):
        said = (await run(url, "invoke", "timescale-apply")).splitlines()
        if available:
            assert said[0] == "esg_records: timestamp in chunks of 7 days, 0:00:00"
            assert said[-1] == "The database has what its edition of TimescaleDB can do."
        else:
            assert said == [
                "Nothing to do: the server has no TimescaleDB for this database, or AURUM_TIMESCALE is off."
            ]
        assert await fetch(url, rows) == before == [(240, 28920)]
        assert await read_hypertables(url) == (HYPERTABLES if available else {})
        assert "in step" in await run(url, "invoke", "migrate-check")


async def test_a_failed_migration_leaves_nothing_behind(url: str) -> None:
    await run_sql(url, "CREATE TABLE raw_measurements (mine int)")
    done = await asyncio.to_thread(run_command, "invoke", "migrate", database_url=url)
    assert done.returncode == 1
    assert (
        f"MIGRATION_FAILED: {list_migrations()[0]} was refused by the database, and all is as it was before it: "
        'relation "raw_measurements" already exists.' in done.stderr
    )
    assert "Traceback" not in done.stderr
    assert await list_tables(url) == ["raw_measurements"]


async def test_invoke_migrate_gives_the_same_database_as_piccolo(server_url: str) -> None:
    async with make_database(server_url) as first, make_database(server_url) as second:
        await run(first, "piccolo", "migrations", "forwards", "app")
        await run(second, "invoke", "migrate")
        assert await look(first) == await look(second)
        assert await read_hypertables(first) == await read_hypertables(second)


async def test_two_runners_at_once_migrate_once(empty_database_url: str) -> None:
    done = await asyncio.gather(
        *(asyncio.to_thread(run_command, "invoke", "migrate", database_url=empty_database_url) for _ in range(3))
    )
    assert [each.returncode for each in done] == [0, 0, 0], [each.stderr for each in done]
    assert sum("Nothing to apply" in each.stdout for each in done) == 2
    assert await fetch(empty_database_url, "SELECT count(*)::int FROM migration") == [(len(list_migrations()),)]


async def test_require_refuses_a_server_without_timescale(empty_database_url: str) -> None:
    if await fetch(empty_database_url, "SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb'"):
        pytest.skip("this server has TimescaleDB")
    done = await asyncio.to_thread(
        run_command, "invoke", "migrate", database_url=empty_database_url, AURUM_TIMESCALE="require"
    )
    assert done.returncode == 1
    assert "AURUM_TIMESCALE=require, but TimescaleDB is not enabled" in done.stderr
    assert await list_tables(empty_database_url) == []


async def test_going_back_asks_before_it_drops_rows(url: str) -> None:
    await run(url, "invoke", "migrate")
    # Features become a plain table, and nothing is lost.
    await run(url, "invoke", "migrate-to", "--id", list_migrations()[0])
    await run_sql(
        url, "INSERT INTO machines (machine_id, machine_type, location) VALUES ('A', 'press', 'x'), ('B', 'press', 'x')"
    )
    await run_sql(url, "INSERT INTO outbox (topic, payload) VALUES ('measurements', '{}')")
    done = await asyncio.to_thread(run_command, "invoke", "migrate-rollback", database_url=url)
    assert done.returncode == 1
    assert done.stderr == (
        "MIGRATION_REFUSED: Going back drops 3 rows or values (2 of machines, 1 of outbox). If they may go, add --yes.\n"
    )
    assert len(await list_tables(url)) == 9
    await run(url, "invoke", "migrate-to", "--id", "base", "--yes")
    assert await list_tables(url) == ["migration", "migration_journal"]
    assert "base: no migration is applied." in await run(url, "invoke", "migrate-current")
    newest = list_migrations()[-1]
    assert f"{newest}  pending" in await run(url, "invoke", "migrate-history")
    await run(url, "invoke", "migrate-to", "--id", newest)
    assert (await run(url, "invoke", "migrate-current")).strip() == newest


async def test_going_to_a_migration_that_is_not_there_names_those_that_are(empty_database_url: str) -> None:
    done = await asyncio.to_thread(run_command, "invoke", "migrate-to", "--id", "x", database_url=empty_database_url)
    assert done.returncode == 1
    assert f"There is no migration x: choose base or one of {', '.join(list_migrations())}." in done.stderr


async def test_without_a_change_no_migration_is_written_and_no_database_asked() -> None:
    files = sorted((ROOT / "piccolo_migrations").glob("*.py"))  # beside them Python keeps what it has compiled
    done = await asyncio.to_thread(
        run_command, "invoke", "migration", "--msg", "nothing", database_url="postgresql://127.0.0.1:1/nowhere"
    )
    assert done.stdout == "Nothing changed: the migrations say all that the tables do.\n", done.stderr
    assert sorted((ROOT / "piccolo_migrations").glob("*.py")) == files


async def test_the_migrations_say_all_that_the_tables_do(monkeypatch: pytest.MonkeyPatch) -> None:
    # Piccolo looks into piccolo_conf.py for the kind of engine, and connects to nothing.
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/nowhere")
    monkeypatch.delitem(sys.modules, "piccolo_conf", raising=False)
    assert await draft_migration(APP_CONFIG, "nothing", renames=None) is None


async def test_features_become_a_hypertable_with_the_rows_they_hold(url: str) -> None:
    first = list_migrations()[0]
    await run(url, "invoke", "migrate-to", "--id", first)
    await run_sql(
        url,
        "INSERT INTO machines (machine_id, machine_type, location) VALUES ('A', 'press', 'x')",
        "INSERT INTO features SELECT 'A', '2026-01-01'::timestamptz + n * interval '1 day', jsonb_build_object('n', n) "
        "FROM generate_series(1, 100) AS n",
    )
    rows = "SELECT count(*)::int, sum((features ->> 'n')::int)::int, min(created_at) = max(created_at) FROM features"
    before = await fetch(url, rows)
    assert before == [(100, 5050, True)]
    for command in (["migrate"], ["migrate-to", "--id", first, "--yes"], ["migrate"]):
        await run(url, "invoke", *command)
        assert await fetch(url, rows) == before
    if await has_extension(url):
        assert await read_hypertables(url) == HYPERTABLES
        chunks = "SELECT num_chunks::int FROM timescaledb_information.hypertables WHERE hypertable_name = 'features'"
        assert (await fetch(url, chunks))[0][0] >= 15


async def test_a_database_ahead_of_the_code_is_left_alone(server_url: str, template: str) -> None:
    async with make_database(server_url, template) as url:
        await run_sql(url, "INSERT INTO migration (name, app_name) VALUES ('2999-01-01T00:00:00:000000', 'app')")
        for command in (["migrate"], ["migrate-rollback", "--yes"], ["migrate-to", "--id", "base", "--yes"]):
            done = await asyncio.to_thread(run_command, "invoke", *command, database_url=url)
            assert done.returncode == 3, done.stdout + done.stderr
            assert "SCHEMA_AHEAD: The database is ahead of this code" in done.stderr
            assert "Traceback" not in done.stderr


async def test_a_file_that_sorts_before_an_applied_one_is_refused(server_url: str, template: str) -> None:
    first, newest = list_migrations()[0], list_migrations()[-1]
    async with make_database(server_url, template) as url:
        await run_sql(url, f"DELETE FROM migration WHERE name = '{first}'")
        done = await asyncio.to_thread(run_command, "invoke", "migrate", database_url=url)
        assert done.returncode == 1
        assert f"MIGRATION_REFUSED: The migration {first} comes before {newest}, which is applied" in done.stderr


async def test_commands_say_why_the_database_cannot_be_used(empty_database_url: str) -> None:
    expected = {
        f"postgresql://a:pa55word@127.0.0.1:{find_free_port()}/a": (
            "DATABASE_UNAVAILABLE: The database of DATABASE_URL can't be reached: "
        ),
        replace_database(empty_database_url, "nowhere"): (
            'DATABASE_UNAVAILABLE: The database refuses the role of DATABASE_URL: database "nowhere" does not exist.'
        ),
    }
    for url, message in expected.items():
        for command in ("migrate", "migrate-current"):
            done = await asyncio.to_thread(run_command, "invoke", command, database_url=url)
            assert done.returncode == 1
            assert message in done.stderr
            assert "Traceback" not in done.stderr
            assert "pa55word" not in done.stdout + done.stderr


async def test_a_role_without_rights_is_told_so(server_url: str, template: str) -> None:
    admin = await asyncpg.connect(server_url)
    try:
        if not await admin.fetchval("SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user"):
            pytest.skip("the role of this server may not create others")
        async with make_database(server_url, template) as url:
            name = f"role_of_{read_database(url)}"
            await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'pa55word'")
            try:
                parts = urlsplit(url)
                limited = urlunsplit(parts._replace(netloc=f"{name}:pa55word@{parts.netloc.rpartition('@')[2]}"))
                done = await asyncio.to_thread(run_command, "invoke", "migrate-current", database_url=limited)
                assert done.returncode == 1
                assert "refuses the role of DATABASE_URL: permission denied for table migration." in done.stderr
                await admin.execute(f"REVOKE CONNECT ON DATABASE {read_database(url)} FROM PUBLIC")
                done = await asyncio.to_thread(run_command, "invoke", "migrate-current", database_url=limited)
                assert done.returncode == 1
                assert "refuses the role of DATABASE_URL: permission denied for database" in done.stderr
                assert "Traceback" not in done.stderr
            finally:
                await admin.execute(f"DROP ROLE {name}")
    finally:
        await admin.close()
