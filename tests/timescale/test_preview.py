"""`migrate-preview`: every statement that would run, what it locks and how much of it there is; and nothing is changed."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from app.errors import MigrationRefused, SchemaAhead
from app.migrations.preview import Preview, preview_migrations
from app.migrations.sheet import describe_preview
from app.migrations.state import list_migrations
from app.timescale.autogenerate import draft_data
from app.timescale.files import list_files
from app.timescale.journal import Event
from app.timescale.leftovers import CREATE_STEPS
from tests.conftest import make_database, read_database, run_command, run_sql
from tests.test_migrations import fetch
from tests.timescale.project import (
    COMPRESSION,
    DOUBLE,
    MEAN,
    PEAK,
    RETENTION,
    ROWS,
    Project,
    daily,
    declare,
    is_community,
    step,
)

FULL = COMPRESSION + RETENTION + MEAN
RAW = """
    async def raw():
        from piccolo.apps.migrations.tables import Migration
        await Migration.raw("UPDATE machines SET machine_id = machine_id WHERE machine_id = 'nobody'")
    manager.add_raw(raw)
    manager.run_after_commit("ANALYZE machines", "ANALYZE readings")
"""
# What a run asks and writes down besides the statements of its migrations.
BOOKKEEPING = re.compile(
    r'SELECT |SET LOCAL|BEGIN|COMMIT|CREATE TABLE IF NOT EXISTS "?migration|(INSERT INTO|DELETE FROM|DROP TABLE) migration'
)
# All that defines a database, without the figures that autovacuum keeps.
CATALOGUES = [
    "pg_class",
    "pg_attribute",
    "pg_constraint",
    "pg_index",
    "pg_proc",
    "pg_type",
    "pg_extension",
    "pg_namespace",
]
FIGURES = "'{relpages,reltuples,relallvisible,relallfrozen,relfrozenxid,relminmxid}'::text[]"


async def preview(project: Project, to: str | None = None) -> Preview:
    return await preview_migrations(project.engine, project.app, to)


async def show(project: Project, to: str | None = None) -> list[str]:
    return "\n".join(describe_preview(await preview(project, to))).splitlines()


def add_code(project: Project, migration_id: str, code: str) -> None:
    path = list_files(project.folder)[migration_id]
    path.write_text(path.read_text().replace("    return manager", f"{code}    return manager"))
    project.forget_files()


async def log_run(project: Project, run: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that the run sent, without the bookkeeping."""
    sent: list[str] = []
    connect = project.engine.get_new_connection

    async def connect_logged() -> Any:
        connection: Any = await connect()
        connection.add_query_logger(lambda query: sent.append(query.query))
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(project.engine, "get_new_connection", connect_logged)
        await run
    return [sql.strip().rstrip(";") for sql in sent if not BOOKKEEPING.match(sql.strip())]


def list_statements(shown: Preview) -> list[str]:
    """All that would run, in order; the place of a value that is only known then is cut off."""
    steps = [each for migration in shown.migrations for each in migration.steps if not (each.left_out and each.values)]
    return [each.statement.split(" :first")[0] for each in steps]


async def test_what_is_shown_is_what_runs_forwards_and_back(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await step(project, declare(daily()))
    await project.fetch("INSERT INTO machines VALUES ('A')")
    await project.fetch(ROWS)
    project.declare(declare(daily(FULL)))
    assert await project.generate() is not None
    project.declare(declare(daily(COMPRESSION + RETENTION + PEAK), DOUBLE))
    newest = await project.generate()
    assert newest is not None
    add_code(project, newest.migration_id, RAW)

    def cut(statements: list[str]) -> list[str]:
        return [re.sub(r"(CALL refresh.*?,) '.*", r"\1", sql) for sql in statements]

    shown = await preview(project)
    assert cut(await log_run(project, project.forwards(), monkeypatch)) == list_statements(shown)
    assert "UPDATE machines SET machine_id = machine_id WHERE machine_id = 'nobody'" in list_statements(shown)
    assert list_statements(shown)[-1] == "ANALYZE machines"

    shown = await preview(project, first)
    assert [migration.event for migration in shown.migrations] == [Event.REVERSED] * 2
    second = shown.migrations[-1].migration
    assert cut(await log_run(project, project.backwards(second), monkeypatch)) == list_statements(shown)
    assert "ANALYZE readings" in list_statements(shown)


async def read_everything(project: Project) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for table in CATALOGUES:
        rows = f"SELECT md5((to_jsonb(t) - {FIGURES})::text) AS row FROM {table} AS t"
        found[table] = await project.fetch(
            f"SELECT count(*), md5(string_agg(row, '' ORDER BY row)) FROM ({rows}) AS found"
        )
    return found


async def test_nothing_is_changed_by_looking(project: Project) -> None:
    project.declare(declare(daily(FULL)))
    await project.generate()
    for to in (None, "base"):
        before = await read_everything(project)
        shown = await preview(project, to)
        assert bool(shown.migrations) is (to is None)
        assert await read_everything(project) == before
    assert await project.fetch("SELECT to_regclass('migration')::text, to_regclass('migration_journal')::text") == [
        (None, None)
    ]
    await project.forwards()
    kept = "SELECT (SELECT jsonb_agg(m) FROM migration m)::text, (SELECT jsonb_agg(j) FROM migration_journal j)::text"
    before, rows = await read_everything(project), await project.fetch(kept)
    await preview(project, "base")
    assert await read_everything(project) == before
    assert await project.fetch(kept) == rows


async def test_a_session_that_may_only_read_can_look(server_url: str) -> None:
    async with make_database(server_url) as url:
        await run_sql(server_url, f"ALTER DATABASE {read_database(url)} SET default_transaction_read_only = on")
        done = await asyncio.to_thread(run_command, "invoke", "migrate-preview", "--json", database_url=url)
        assert done.returncode == 0, done.stderr
        assert [migration["migration"] for migration in json.loads(done.stdout)["migrations"]] == list(
            list_migrations()
        )
        assert await fetch(url, "SELECT count(*)::int FROM pg_class WHERE relnamespace = 'public'::regnamespace") == [
            (0,)
        ]


async def test_each_lock_is_shown_with_the_rows_bytes_and_chunks_that_wait_behind_it(project: Project) -> None:
    await step(project, declare(daily()))
    await project.fetch("INSERT INTO machines VALUES ('A')")
    await project.fetch(ROWS)
    await project.fetch("ANALYZE")
    project.declare(declare("None", DOUBLE))
    await project.generate()
    shown = await preview(project)
    hypertables = await project.fetch("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'") != []
    size = (
        await project.fetch("SELECT hypertable_size('readings')")
        if hypertables
        else await project.fetch("SELECT pg_total_relation_size('readings')")
    )
    (altered,) = [each for each in shown.migrations[0].steps if "TYPE DOUBLE" in each.statement]
    (readings,) = altered.locks
    assert (readings.table, readings.lock) == ("readings", "ACCESS EXCLUSIVE (reads and writes wait)")
    assert readings.extent is not None
    assert (readings.extent.rows, readings.extent.size_bytes) == (1000, size[0][0])
    assert readings.extent.chunks == (7 if hypertables else None)
    assert altered.notes == ["writes every row anew, unless they can stay as they are stored"]
    lines = await show(project)
    kilobytes = round(size[0][0] / 1024)
    extent = f"about 1,000 rows, {kilobytes} kB{' in 7 chunks' if hypertables else ''}"
    assert f"-- readings: ACCESS EXCLUSIVE (reads and writes wait): {extent}" in lines
    assert ("-- left out here: needs TimescaleDB" in lines) is not hypertables
    if hypertables:
        # The new table gets the old one's foreign key, and the old one's is dropped.
        assert "-- machines: ACCESS EXCLUSIVE (reads and writes wait): about 1 row, 32 kB" in lines


async def test_chunks_that_were_never_counted_are_not_taken_for_empty(project: Project) -> None:
    await step(project, declare(daily()))
    if not await project.fetch("SELECT FROM pg_extension WHERE extname = 'timescaledb'"):
        pytest.skip("this edition has no chunks")
    await project.fetch("ALTER TABLE readings SET (autovacuum_enabled = off)")  # which would count at a time of its own
    await project.fetch("INSERT INTO machines VALUES ('A')")
    await project.fetch(ROWS)
    counting = "SELECT DISTINCT reloptions FROM pg_class WHERE oid IN (SELECT show_chunks('readings'))"
    assert await project.fetch(counting) == [(["autovacuum_enabled=off"],)]
    project.declare(declare(daily(), DOUBLE))
    await project.generate()

    async def find_rows() -> str:
        found = re.search(
            r"-- readings: ACCESS EXCLUSIVE \(.*\): (.*), [\d,]+ kB in 7 chunks", "\n".join(await show(project))
        )
        assert found
        return found[1]

    assert await find_rows() == "rows that were never counted"
    ((first, rows),) = await project.fetch(
        "SELECT tableoid::regclass::text, count(*)::int FROM readings GROUP BY 1 ORDER BY 1 LIMIT 1"
    )
    await project.fetch(f"ANALYZE {first}")
    assert await find_rows() == f"about {rows} rows and those of 6 chunks that were never counted"
    await project.fetch("ANALYZE readings")
    assert await find_rows() == "about 1,000 rows"


async def test_what_this_server_leaves_out_is_said_and_locks_nothing(project: Project) -> None:
    await step(project, declare(daily()))
    project.declare(declare(daily(FULL)))
    await project.generate()
    community = await is_community(project)
    (migration,) = (await preview(project)).migrations
    assert {each.left_out for each in migration.steps} == {not community}
    lines = await show(project)
    assert lines.count("-- left out here: needs TimescaleDB Community") == (0 if community else len(migration.steps))
    locked = "-- readings: SHARE ROW EXCLUSIVE (reads go on, writes wait): about 0 rows, "
    assert any(line.startswith(locked) for line in lines) is community
    assert ("-- in no transaction, by itself" in lines) is community
    assert any(line.startswith("PERFORM add_retention_policy(") for line in lines)


async def test_what_was_left_over_is_shown_first(project: Project) -> None:
    await step(project, declare("None"))
    await project.fetch(CREATE_STEPS)
    await project.fetch(
        "INSERT INTO migration_step (migration, statement, query, cleanup) VALUES "
        "('x', 'CREATE INDEX CONCURRENTLY i ON readings (value)', NULL, NULL), "
        "('x', 'CALL refresh_continuous_aggregate(''\"hourly\"'', :first, NULL)', "
        "'SELECT quote_literal(''2026-01-31'') AS first', 'SELECT NULL')"
    )
    assert await show(project) == [
        f"-- {(await preview(project)).server}, at {(await preview(project)).at}. Nothing of this is run.",
        "",
        "-- ==== Left over from a migration that was cut off: runs first, each step by itself",
        "",
        "-- readings: SHARE UPDATE EXCLUSIVE (reads and writes go on): rows that were never counted, 24 kB",
        "-- builds an index over every row",
        "-- in no transaction, by itself",
        "CREATE INDEX CONCURRENTLY i ON readings (value);",
        "",
        "-- hourly: EXCLUSIVE (reads go on, writes wait)",
        "-- its time grows with the rows",
        "-- in no transaction, by itself",
        "-- after what an attempt that was cut off may have left is cleared away",
        "-- with what is found when it comes to it",
        "CALL refresh_continuous_aggregate('\"hourly\"', '2026-01-31', NULL);",
        "",
        "-- Nothing to apply or to reverse.",
    ]


async def test_what_is_left_of_a_migration_that_goes_back_is_not_done_first(project: Project) -> None:
    first = await step(project, declare("None"))
    await project.fetch(CREATE_STEPS)
    await project.fetch("INSERT INTO migration_step (migration, statement) VALUES ($1, 'ANALYZE')", first)
    assert len((await preview(project)).leftovers) == 1
    assert (await preview(project, "base")).leftovers == []


async def test_a_declared_index_is_shown_as_it_is_built_here(project: Project) -> None:
    await step(project, declare(daily()))
    project.declare(declare(daily()).replace("hypertable=", 'indexes=(Index("by_value", ("value",)),), hypertable='))
    await project.generate()
    hypertable = await project.fetch("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'") != []
    lines = await show(project)
    statement = 'CREATE INDEX {}IF NOT EXISTS "by_value" ON "readings" USING btree ("value"){};'
    way = ("", " WITH (timescaledb.transaction_per_chunk)") if hypertable else ("CONCURRENTLY ", "")
    assert lines[-1] == statement.format(*way)
    lock = "SHARE (reads go on, writes wait)" if hypertable else "SHARE UPDATE EXCLUSIVE (reads and writes go on)"
    assert lines[-6].startswith(f"-- readings: {lock}: ")
    assert lines[-5:-1] == [
        "-- builds an index over every row",
        "-- in no transaction, by itself",
        "-- after what an attempt that was cut off may have left is cleared away",
        "-- with what is found when it comes to it",
    ]


async def test_a_constraint_that_goes_is_dropped_once(project: Project) -> None:
    await step(project, declare("None"))
    project.declare(declare("None").replace('    readings_value_known = Check("value >= 0")\n', ""))
    await project.generate()
    assert list_statements(await preview(project)) == [
        'ALTER TABLE "readings" DROP CONSTRAINT IF EXISTS readings_value_known'
    ]
    await project.forwards()
    constraint = "SELECT count(*)::int FROM pg_constraint WHERE conname = 'readings_value_known'"
    assert await project.fetch(constraint) == [(0,)]
    await project.backwards("1")
    assert await project.fetch(constraint) == [(1,)]


async def test_a_data_migration_is_shown_with_how_far_it_is(project: Project) -> None:
    await step(project, declare("None"))
    draft = await draft_data(project.app, "Double the values")
    move = (
        "manager.move_rows('readings', ('machine_id', 'timestamp'), 'UPDATE readings SET value = 2 WHERE {batch}', '')"
    )
    draft.path.write_text(draft.text.replace("    return manager", f"    {move}\n    return manager"))
    project.forget_files()
    lines = await show(project)
    assert "-- readings: ROW EXCLUSIVE (reads and writes go on, but for writes to the same rows): " in "\n".join(lines)
    assert lines[-1] == "-- and the bookkeeping in migration and migration_journal when all of it is done"
    await project.fetch(
        "CREATE TABLE migration_progress (migration text, event text, move int, position text, rows_done bigint)"
    )
    await project.fetch("INSERT INTO migration_progress VALUES ($1, 'applied', 0, '', 20000)", draft.migration_id)
    assert "-- It was cut off with 20,000 rows behind it, and goes on from there." in await show(project)
    assert (await preview(project)).migrations[0].rows_done == 20000


async def test_going_back_shows_what_it_would_lose(project: Project) -> None:
    await step(project, declare("None"))
    await project.fetch("INSERT INTO machines VALUES ('A')")
    await project.fetch(ROWS)
    shown = await preview(project, "base")
    assert shown.losses == {"machines": 1, "readings": 1000}
    lines = await show(project, "base")
    assert lines[2].endswith("  a change: to be reversed")
    assert (
        lines[-1] == "-- Going back drops 1,001 rows or values (1 of machines, 1,000 of readings), and only with --yes."
    )
    assert await project.fetch("SELECT count(*)::int FROM readings") == [(1000,)]


async def test_a_question_is_marked_and_a_raw_step_that_needs_the_answer_is_named(project: Project) -> None:
    await step(project, declare("None"))
    project.declare(declare(daily()))
    second = await project.generate()
    project.declare(declare(daily(RETENTION)))
    third = await project.generate()
    assert second is not None
    assert third is not None
    ask = """
    async def raw():
        from piccolo.apps.migrations.tables import Migration
        rows = await Migration.raw("SELECT count(*) AS many FROM readings")
{}    manager.add_raw(raw)
"""
    add_code(project, second.migration_id, ask.format(""))
    lines = await show(project)
    assert "-- a question: what comes after it may depend on the answer" in lines
    add_code(project, second.migration_id, ask.format("        print(rows[0]['many'])\n"))
    shown = await preview(project)
    assert [migration.refusal is None for migration in shown.migrations] == [False, True]
    assert shown.migrations[0].steps == []
    refusal = f"A raw step of the migration {second.migration_id} reads the database (IndexError without an answer)"
    assert any(line.startswith(f"-- {refusal}") for line in await show(project))


async def test_what_a_run_would_refuse_is_refused(project: Project) -> None:
    first = await step(project, declare("None"))
    project.declare(declare(daily()))
    second = await project.generate()
    assert second is not None
    path = list_files(project.folder)[first]
    kept = path.read_text()
    path.write_text(kept + "# a thought\n")
    with pytest.raises(MigrationRefused, match=r"^Edited since it was applied: "):
        await preview(project)
    path.write_text(kept)
    await project.forwards()
    await project.fetch("DELETE FROM migration WHERE name = $1", first)
    with pytest.raises(MigrationRefused, match=f"^The migration {first} comes before {second.migration_id}"):
        await preview(project)
    await project.fetch("INSERT INTO migration (name, app_name) VALUES ($1, 'app'), ('2999', 'app')", first)
    with pytest.raises(SchemaAhead):
        await preview(project)


async def test_the_command_goes_both_ways_and_names_the_migrations_there_are(server_url: str, template: str) -> None:
    first, second, *_ = known = list_migrations()
    async with make_database(server_url, template) as url:

        async def run(*options: str) -> tuple[int, str]:
            done = await asyncio.to_thread(run_command, "invoke", "migrate-preview", *options, database_url=url)
            return done.returncode, done.stdout or done.stderr

        code, output = await run()
        assert (code, output.splitlines()[-1]) == (0, "-- Nothing to apply or to reverse.")
        code, output = await run("--to", first)
        assert code == 0
        assert f"-- ==== {second}  Keep features in a hypertable: to be reversed" in output
        assert 'CREATE TABLE "features__plain" (' in output
        assert "DO $aurum$" not in output
        assert await run("--to", "x") == (
            1,
            f"BAD_USER_INPUT: There is no migration x: choose base or one of {', '.join(list_migrations())}.\n",
        )
        code, output = await run("--to", "base", "--json")
        shown = json.loads(output)
        assert (shown["at"], [each["migration"] for each in shown["migrations"]]) == (known[-1], [*reversed(known)])
        (dropped,) = [each for each in shown["migrations"][-1]["steps"] if each["statement"] == 'DROP TABLE "outbox"']
        assert dropped["locks"][0]["lock"] == "ACCESS EXCLUSIVE (reads and writes wait)"
        assert dropped["locks"][0]["extent"]["chunks"] is None


async def test_enabling_timescaledb_is_foretold(server_url: str) -> None:
    async with make_database(server_url) as url:
        available = await fetch(url, "SELECT 1 FROM pg_settings WHERE name LIKE 'timescaledb.%'") != []
        for setting, outcome in {
            "auto": None if available else "left out here: it can't be had, or AURUM_TIMESCALE=off",
            "off": "left out here: it can't be had, or AURUM_TIMESCALE=off",
            "require": None if available else "fails here: AURUM_TIMESCALE=require, and it can't be had",
        }.items():
            done = await asyncio.to_thread(
                run_command, "invoke", "migrate-preview", "--json", database_url=url, AURUM_TIMESCALE=setting
            )
            steps = json.loads(done.stdout)["migrations"][0]["steps"]
            assert steps[0]["shown"] == "CREATE EXTENSION timescaledb"
            assert steps[0]["notes"] == ([outcome] if outcome else [])
            assert steps[-1]["shown"].startswith("PERFORM create_hypertable(")
            assert steps[-1]["left_out"] is not (available and setting != "off")
