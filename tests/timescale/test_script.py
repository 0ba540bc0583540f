"""`migrate-sql`: psql runs it, cut off or not, beside our own runner or alone, and the database is the same."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from piccolo.apps.migrations.tables import Migration

from app.database import probe_edition
from app.embedded.installations import find_wheel
from app.errors import MigrationFailed, MigrationRefused
from app.migrations.script import write_script, write_statement
from app.migrations.state import list_migrations
from app.timescale.autogenerate import draft_data
from app.timescale.definitions import read_catalogue
from app.timescale.files import compute_checksum, list_files
from app.timescale.journal import LOCK
from app.timescale.leftovers import CREATE_STEPS
from app.timescale.statements import ENABLE_TIMESCALE
from tests.conftest import ROOT, make_database, make_environ, read_database, run_command, run_sql
from tests.test_migrations import fetch
from tests.timescale.project import (
    COMPRESSION,
    DOUBLE,
    MEAN,
    PEAK,
    RETENTION,
    Project,
    check,
    daily,
    declare,
    is_community,
)
from tests.timescale.project import ROWS as READINGS

PSQL = find_wheel().bin_dir / "psql"


def run_psql(url: str, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Pipes a script into psql, as libpq's settings of this machine are left aside."""
    return subprocess.run(
        [PSQL, "--no-psqlrc", *options, url],
        input=script,
        env={name: value for name, value in make_environ().items() if not name.startswith("PG")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


async def run(url: str, script: str, *options: str) -> str:
    done = await asyncio.to_thread(run_psql, url, script, *options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


async def read_all(url: str) -> dict[str, Any]:
    """The catalogue, our bookkeeping's too, and what was recorded; on Community a connection after the other."""
    connection = await asyncpg.connect(url)
    try:
        edition = await probe_edition(connection, timescale="auto")
        columns = await connection.fetch(
            "SELECT attrelid::regclass::text, attname, atttypid::regtype::text, atttypmod, attnotnull, "
            "pg_get_expr(adbin, adrelid) FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum "
            "WHERE attnum > 0 AND attrelid::regclass::text LIKE 'migration%' ORDER BY attrelid::regclass::text, attnum"
        )
        return {
            "catalogue": await read_catalogue(connection, "public", hypertables=edition.has_hypertables),
            "bookkeeping": [tuple(row) for row in columns],
            "migration": await connection.fetch("SELECT id, name, app_name FROM migration ORDER BY id"),
            "journal": await connection.fetch(
                "SELECT id, migration, event, checksum, role FROM migration_journal ORDER BY id"
            ),
        }
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def script() -> str:
    done = run_command("invoke", "migrate-sql", database_url="postgresql://127.0.0.1:1/nowhere")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


async def test_the_script_gives_the_same_database_as_the_runner(server_url: str, script: str) -> None:
    async with make_database(server_url) as first, make_database(server_url) as second:
        await asyncio.to_thread(run_command, "invoke", "migrate", database_url=first)
        said = await run(second, script)
        assert said.splitlines()[-1] == f"The database is at {list_migrations()[-1]}."
        assert await read_all(second) == await read_all(first)
        journal = await fetch(
            second, "SELECT by, took > interval '0', at > now() - interval '1 hour' FROM migration_journal"
        )
        assert journal == [(None, True, True)] * len(list_migrations())
        before = await read_all(second)
        await run(second, script)
        assert await read_all(second) == before
        for command, outcome in {
            "migrate": "Nothing to apply",
            "migrate-check": "in step",
            "migrate-preview": "-- Nothing to apply or to reverse.",
            "migrate-history": " by a script, took ",
        }.items():
            done = await asyncio.to_thread(run_command, "invoke", command, database_url=second)
            assert done.returncode == 0, done.stderr
            assert outcome in done.stdout


async def test_the_script_gives_the_same_community_database(community: Any, script: str) -> None:
    community.reset()
    done = await asyncio.to_thread(run_command, "invoke", "migrate", database_url=community.dsn)
    assert done.returncode == 0, done.stderr
    expected = await read_all(community.dsn)
    community.reset()
    await run(community.dsn, script)
    assert await read_all(community.dsn) == expected
    done = await asyncio.to_thread(run_command, "invoke", "migrate-check", database_url=community.dsn)
    assert (done.returncode, done.stdout) == (0, "Migrations, database and tables are in step.\n")


# --- a project with everything ------------------------------------------------------------------------------------

FULL = COMPRESSION + RETENTION + MEAN
# What psql would take for its own, if it weren't told otherwise: a slice, a backslash, a comment at the end.
AWKWARD = r"""
    async def raw():
        from piccolo.apps.migrations.tables import Migration
        await Migration.raw("INSERT INTO machines VALUES ('A'), (E'it''s \\:n; \\\\')")
        await Migration.raw(
            "INSERT INTO readings SELECT 'A', '2026-01-01'::timestamptz + n * interval '10 minutes', "
            "(SELECT max(v) FROM unnest((ARRAY[n, 0])[1:n]) AS v) FROM generate_series(1, 999) AS n -- that's all; \\q"
        )
        await Migration.raw("INSERT INTO machines VALUES ({})", "$1 \\n :n")
    manager.add_raw(raw)
"""
AFTER = """
    manager.run_after_commit(
        "ANALYZE readings; -- by itself\\n", "ANALYZE machines"
    )
    manager.run_after_commit(" -- nothing", "")
"""
ROWS = "SELECT count(*)::int, sum(value)::int FROM readings"
HOURS = "SELECT count(*)::int, sum(readings)::int FROM readings_hourly"


async def write_migrations(project: Project) -> str:
    """Tables, then rows, compression and an aggregate, then another type and another aggregate; the script of it all."""
    sources = [declare(daily()), declare(daily(FULL)), declare(daily(COMPRESSION + RETENTION + PEAK), DOUBLE)]
    for source, code in zip(sources, ["", AWKWARD, AFTER], strict=True):
        project.declare(source)
        draft = await project.generate()
        assert draft is not None
        draft.path.write_text(draft.path.read_text().replace("    return manager", f"{code}    return manager"))
    project.forget_files()
    return await write_script(project.app)


BORDER = re.compile(r"BEGIN;|COMMIT;|DROP TABLE .*;|VALUES .*;|INSERT INTO migration .*;|PERFORM .*;|\\g(set|exec)")


def find_cuts(script: str) -> list[str]:
    """The script from its first transaction on, up to each border: of a transaction, of our bookkeeping, of a step after it."""
    lines = script.splitlines(keepends=True)
    begun = lines.index("BEGIN;\n")
    return ["".join(lines[: end + 1]) for end in range(begun, len(lines)) if BORDER.fullmatch(lines[end].strip())]


async def clear(project: Project) -> None:
    for name in (
        "readings",
        "machines",
        "migration",
        "migration_journal",
        "migration_step",
        "readings_hourly__archive",
    ):
        await project.fetch(f"DROP TABLE IF EXISTS {name} CASCADE")


async def read_project(project: Project, url: str) -> dict[str, Any]:
    found = await read_all(url)
    found["rows"] = await project.fetch(ROWS)
    has_hours = await project.fetch("SELECT FROM pg_class WHERE oid = to_regclass('readings_hourly')") != []
    found["hours"] = await project.fetch(HOURS) if has_hours else None
    found["machines"] = await project.fetch("SELECT machine_id FROM machines ORDER BY 1")
    # An attempt that was cut off has used up a number.
    for name in ("migration", "journal"):
        found[name] = [tuple(row)[1:] for row in found[name]]
    return found


async def test_a_project_with_everything_is_the_same_by_either_way(project: Project) -> None:
    url = project.url
    script = await write_migrations(project)
    await project.forwards()
    expected = await read_project(project, url)
    assert expected["rows"] == [(999, 499500)]
    assert expected["hours"] in (None, [(167, 999)])
    assert expected["machines"] == [("$1 \\n :n",), ("A",), ("it's :n; \\",)]
    await clear(project)
    # A variable that the person has set for something else.
    await run(url, script, "--set", "n=7", "--set", "first=x")
    assert await read_project(project, url) == expected
    assert await project.fetch("SELECT to_regclass('migration_step')::text") == [(None,)]
    assert (await project.forwards())[-1].startswith("Nothing to apply")
    await run(url, script)
    assert await read_project(project, url) == expected


async def test_cut_off_anywhere_it_goes_on_from_there_and_so_does_the_runner(project: Project) -> None:
    url = project.url
    script = await write_migrations(project)
    await run(url, script)
    expected = await read_project(project, url)
    cuts = find_cuts(script)
    assert len(cuts) > 20
    for number, cut in enumerate(cuts[-12:] if await is_community(project) else cuts):
        await clear(project)
        await asyncio.to_thread(run_psql, url, cut)
        if number % 2:
            await run(url, script)
        else:
            await project.forwards()
        assert await read_project(project, url) == expected, cut[-200:]
        assert await project.fetch("SELECT to_regclass('migration_step')::text") == [(None,)]


async def test_what_any_other_run_left_over_is_done_first(project: Project) -> None:
    url = project.url
    script = await write_migrations(project)
    await project.forwards()
    await project.fetch(CREATE_STEPS)
    await project.fetch(
        "INSERT INTO migration_step (migration, statement, query) VALUES "
        "('x', 'COMMENT ON TABLE machines IS :one', 'SELECT quote_literal(''it''''s'') AS one'), "
        "('x', 'DROP TABLE machines', 'SELECT 1 AS one WHERE false'), "
        "('x', 'COMMENT ON TABLE readings IS ''x''', NULL)"
    )
    await run(url, script)
    assert await project.fetch(
        "SELECT obj_description('machines'::regclass), obj_description('readings'::regclass), "
        "to_regclass('migration_step')::text"
    ) == [("it's", "x", None)]


async def test_a_foreign_key_that_changes_is_the_same_by_either_way(
    server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = declare("None")
    async with make_database(server_url) as url:
        project = Project(tmp_path, url, monkeypatch)
        for text in (source, source.replace("null=False", "on_delete=OnDelete.restrict, null=False")):
            project.declare(text)
            assert await project.generate() is not None
        script = await write_script(project.app)
        await project.forwards()
        expected = await read_project(project, url)
        assert " ON DELETE RESTRICT" in expected["catalogue"]["constraint", "readings.readings_machine_id_fkey"]
        await clear(project)
        await run(url, script)
        assert await read_project(project, url) == expected


# --- rows and indexes ---------------------------------------------------------------------------------------------

DOUBLE_IT = "UPDATE readings SET value = value * 2 WHERE {batch}"
SUM = "SELECT count(*)::int, sum(value)::int FROM readings"


async def write_move(project: Project) -> str:
    """Tables with a thousand readings, and a data migration that must not go over any of them twice."""
    project.declare(declare(daily()))
    assert await project.generate() is not None
    await project.forwards()
    await project.fetch("INSERT INTO machines VALUES ('A')")
    await project.fetch(READINGS)
    draft = await draft_data(project.app, "Double the values")
    move = f"manager.move_rows('readings', ('machine_id', 'timestamp'), {DOUBLE_IT!r}, '', rows=70)"
    draft.path.write_text(draft.text.replace("    return manager", f"    {move}\n    return manager"))
    project.forget_files()
    return draft.migration_id


async def test_rows_are_changed_batch_by_batch_and_counted_once_wherever_it_was_cut_off(project: Project) -> None:
    migration_id = await write_move(project)
    script = await write_script(project.app)
    refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''not this one''; END'"
    await project.fetch(refuse)
    for value in (300, 700):
        await project.fetch(
            f"CREATE TRIGGER refuse BEFORE UPDATE ON readings FOR EACH ROW WHEN (old.value = {value}) EXECUTE FUNCTION refuse()"
        )
        if value == 300:
            done = await asyncio.to_thread(run_psql, project.url, script)
            assert done.returncode == 3
            assert "not this one" in done.stderr
            assert await project.fetch("SELECT move, rows_done::int FROM migration_progress") == [(0, 280)]
        else:
            with pytest.raises(MigrationFailed):
                await project.forwards()
            assert await project.fetch("SELECT move, rows_done::int FROM migration_progress") == [(0, 700)]
        await project.fetch("DROP TRIGGER refuse ON readings")
    assert await project.fetch("SELECT count(*)::int FROM migration WHERE name = $1", migration_id) == [(0,)]
    await run(project.url, script)
    assert await project.fetch(SUM) == [(1000, 999_000)]
    assert await project.fetch("SELECT to_regclass('migration_progress')::text") == [(None,)]
    assert (await project.forwards())[-1] == f"Nothing to apply: the database is at {migration_id}."
    await run(project.url, script)
    assert await project.fetch(SUM) == [(1000, 999_000)]


PLACES = """
class Machine(Declared, Table, tablename="machines"):
    machine_id = Text(primary_key=True, default=None)
    location = Text(default="")

class Alert(Declared, Table, tablename="alerts"):
    alert_id = Text(primary_key=True, default=None)
"""
# What would be read as SQL, or as a place in it, by whoever put texts into a statement one after the other.
NAMES = [
    "{next}",
    "||null) or true; delete from alerts; --",
    "{first}",
    "%1$s and %2$s",
    "$query$ $aurum$",
    "it's",
    "C:\\plant\\1",
    ":first",
    '"quoted"',
]
ODD = "'+{first}{next} %s%% %1$s $query$ $aurum$ C:\\1 :n'"


@pytest.mark.parametrize("text", ["'+'", ODD], ids=["plain", "odd"])
@pytest.mark.parametrize("by", ["script", "runner"])
async def test_no_row_and_no_statement_of_a_data_migration_is_taken_for_something_else(
    project: Project, by: str, text: str
) -> None:
    project.declare(PLACES)
    assert await project.generate() is not None
    await project.forwards()
    await project.fetch("INSERT INTO alerts VALUES ('one'), ('two')")
    await project.fetch("INSERT INTO machines SELECT unnest($1::text[]), ''", NAMES)
    draft = await draft_data(project.app, "Mark the locations")
    forwards = f"UPDATE machines SET location = location || {text} WHERE {{batch}} -- all"
    move = f"manager.move_rows('machines', ('machine_id',), {forwards!r}, '', rows=1)"
    draft.path.write_text(draft.text.replace("    return manager", f"    {move}\n    return manager"))
    project.forget_files()
    if by == "script":
        await run(project.url, await write_script(project.app))
    else:
        await project.forwards()
    assert await project.fetch("SELECT location, count(*)::int FROM machines GROUP BY 1") == [(text[1:-1], len(NAMES))]
    assert await project.fetch("SELECT alert_id FROM alerts ORDER BY 1") == [("one",), ("two",)]
    assert (await project.forwards())[-1] == f"Nothing to apply: the database is at {draft.migration_id}."


async def test_no_expression_or_name_of_an_aggregate_is_taken_for_something_else(project: Project) -> None:
    odd = """("loud", "count(*) FILTER (WHERE machine_id <> '$fill$ $aurum$ %s :first')")"""
    named = daily(FULL).replace('("readings", "count(*)"),', f'("readings", "count(*)"), {odd},')
    for source in (declare(daily(FULL)), declare(named), declare(named.replace("avg(", "max(")), declare(daily())):
        project.declare(source)
        assert await project.generate() is not None
        await project.forwards()
        assert await check(project) == (0, [])
        await project.fetch("INSERT INTO machines VALUES ('A') ON CONFLICT DO NOTHING")
        await project.fetch(READINGS.strip() + " ON CONFLICT DO NOTHING")
        if '"loud' in source and await is_community(project):
            assert await project.fetch("SELECT sum(loud)::int FROM readings_hourly") == [(1000,)]
    url = project.url
    script = await write_script(project.app)
    await project.backwards(min(list_files(project.folder)))
    await run(url, script)
    assert await check(project) == (0, [])


async def test_declared_indexes_are_the_same_by_either_way(
    server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_database(server_url) as url:
        project = Project(tmp_path, url, monkeypatch)
        await project.fetch(ENABLE_TIMESCALE)
        plain, indexed = (
            "Declared, Table, tablename",
            'Declared, Table, indexes=(Index("by_id", ("machine_id",)),), tablename',
        )
        readings, many = "hypertable=", 'indexes=(Index("high", ("value DESC",), where="value > 5"),), hypertable='
        for source in (
            declare(daily()),
            declare(daily()).replace(plain, indexed).replace(readings, many),
            declare(daily()).replace(readings, many.replace("5", "7")),
        ):
            project.declare(source)
            assert await project.generate() is not None
        script = await write_script(project.app)
        await project.forwards()
        expected = await read_project(project, url)
        assert "WHERE (value > (7)::double precision)" in expected["catalogue"]["index", "readings.high"]
        await clear(project)
        await run(url, script)
        assert await read_project(project, url) == expected


# --- others, and what is refused ----------------------------------------------------------------------------------


async def test_a_psql_that_is_killed_leaves_the_rest_to_the_next(empty_database_url: str, script: str) -> None:
    blocker = await asyncpg.connect(empty_database_url)
    try:
        await blocker.execute("BEGIN; CREATE TABLE migration (id serial PRIMARY KEY)")
        process = await asyncio.create_subprocess_exec(
            PSQL,
            "--no-psqlrc",
            empty_database_url,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin
        process.stdin.write(script.encode())
        waiting = "SELECT count(*)::int FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted AND datname = current_database()"
        while await fetch(empty_database_url, waiting) != [(1,)]:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    finally:
        await blocker.close()
    await run(empty_database_url, script)
    done = await asyncio.to_thread(run_command, "invoke", "migrate-check", database_url=empty_database_url)
    assert done.returncode == 0, done.stdout


async def test_it_gives_way_to_a_long_reader_and_changes_nothing(server_url: str, template: str, script: str) -> None:
    async with make_database(server_url, template) as url:
        await asyncio.to_thread(run_command, "invoke", "migrate-rollback", database_url=url)
        newest = list_migrations()[-1]
        reader = await asyncpg.connect(url)
        try:
            await reader.execute("BEGIN; LOCK TABLE migration_journal IN SHARE MODE")
            done = await asyncio.to_thread(run_psql, url, script)
        finally:
            await reader.close()
        assert done.returncode == 3
        assert "ERROR:  canceling statement due to lock timeout" in done.stderr
        assert await fetch(url, f"SELECT count(*)::int FROM migration WHERE name = '{newest}'") == [(0,)]
        await run(url, script)
        assert await fetch(url, f"SELECT count(*)::int FROM migration WHERE name = '{newest}'") == [(1,)]


async def test_it_waits_for_another_run_and_says_so(empty_database_url: str, script: str) -> None:
    holder = await asyncpg.connect(empty_database_url)
    try:
        await holder.execute(f"SELECT pg_advisory_lock({LOCK})")
        process = await asyncio.create_subprocess_exec(
            PSQL, "--no-psqlrc", empty_database_url, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin
        assert process.stdout
        process.stdin.write(script.encode())
        process.stdin.close()
        line = await asyncio.wait_for(process.stdout.readline(), 120)
        assert line == b"Another run is under way on this database, and this one waits for it.\n"
    finally:
        await holder.close()
    await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0
    assert await fetch(empty_database_url, "SELECT count(*)::int FROM migration") == [(len(list_migrations()),)]


async def test_a_crash_between_a_migration_and_piccolos_bookkeeping_is_made_up_for(
    server_url: str, template: str, script: str
) -> None:
    async with make_database(server_url, template) as url:
        await run_sql(url, f"DELETE FROM migration WHERE name = '{list_migrations()[-1]}'")
        await run(url, script)
        assert await fetch(url, "SELECT name FROM migration ORDER BY name") == [(name,) for name in list_migrations()]
        assert await fetch(url, "SELECT count(*)::int FROM migration_journal") == [(len(list_migrations()),)]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("INSERT INTO migration (name, app_name) VALUES ('2999', 'app')", "SCHEMA_AHEAD: .*the newest is 2999"),
        (
            f"DELETE FROM migration WHERE name = '{list_migrations()[0]}'",
            f"The migration {list_migrations()[0]} comes before",
        ),
        (
            "UPDATE migration_journal SET checksum = 'x'",
            f"Edited since it was applied: the file of {list_migrations()[0]}",
        ),
        ("DROP TABLE migration; CREATE TABLE migration (mine int)", "SCHEMA_FOREIGN: "),
    ],
)
async def test_what_the_runner_refuses_is_refused(
    server_url: str, template: str, script: str, statement: str, said: str
) -> None:
    async with make_database(server_url, template) as url:
        await run_sql(url, statement)
        done = await asyncio.to_thread(run_psql, url, script)
        assert done.returncode == 3
        assert re.search(f"ERROR:  .*{said}", done.stderr), done.stderr


async def test_a_replica_is_refused(server_url: str, script: str) -> None:
    async with make_database(server_url) as url:
        await run_sql(server_url, f"ALTER DATABASE {read_database(url)} SET default_transaction_read_only = on")
        done = await asyncio.to_thread(run_psql, url, script)
        assert done.returncode == 3
        assert "MIGRATION_REFUSED: The database is read-only, a replica most likely" in done.stderr


async def test_options_that_would_break_it_are_refused(empty_database_url: str, script: str) -> None:
    for options, said in {
        ("--single-transaction", "--file=-"): "run this without --single-transaction",
        ("--set", "timescale=of"): "The variable timescale is auto, require or off",
    }.items():
        done = await asyncio.to_thread(run_psql, empty_database_url, script, *options)
        assert done.returncode == 3
        assert f"ERROR:  MIGRATION_REFUSED: {said}" in done.stderr or said in done.stderr
        assert await fetch(empty_database_url, "SELECT to_regclass('migration')::text") == [(None,)]


async def test_settings_of_a_person_change_nothing(empty_database_url: str, script: str) -> None:
    await run(
        empty_database_url,
        r"\set AUTOCOMMIT off" + "\n" + r"\set ON_ERROR_ROLLBACK on" + "\n" + script,
        *("--set", "FETCH_COUNT=1", "--set", "pending=x", "--set", "ON_ERROR_STOP=0", "--expanded", "--html"),
    )
    done = await asyncio.to_thread(run_command, "invoke", "migrate-check", database_url=empty_database_url)
    assert done.returncode == 0, done.stdout


async def test_the_variable_timescale_says_what_aurum_timescale_would(empty_database_url: str, script: str) -> None:
    available = await fetch(empty_database_url, "SELECT 1 FROM pg_settings WHERE name LIKE 'timescaledb.%'") != []
    extension = "SELECT count(*)::int FROM pg_extension WHERE extname = 'timescaledb'"
    if not available:
        done = await asyncio.to_thread(run_psql, empty_database_url, script, "--set", "timescale=require")
        assert done.returncode == 3
        assert "AURUM_TIMESCALE=require, but TimescaleDB is not enabled" in done.stderr
    await run(empty_database_url, script, "--set", "timescale=off")
    assert await fetch(empty_database_url, extension) == [(0,)]


def test_it_is_written_to_a_file_where_one_is_named(tmp_path: Path, script: str) -> None:
    path = tmp_path / "migrations.sql"
    done = run_command("invoke", "migrate-sql", "--file", str(path), database_url="postgresql://127.0.0.1:1/nowhere")
    assert done.stdout == f"Wrote {path}: run it with psql --no-psqlrc --file {path} DATABASE_URL.\n"
    assert path.read_text() == script
    for name, file in list_files(ROOT / "piccolo_migrations").items():
        assert f"'{name}', 'applied', '{compute_checksum(file)}'" in script


async def test_a_raw_step_that_asks_the_database_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(tmp_path, "postgresql://localhost/nobody_connects", monkeypatch)
    project.declare(declare("None"))
    draft = await project.generate()
    assert draft is not None
    for query, refused in {
        "SELECT count(*) FROM readings": True,
        "SELECT to_regclass('x')": True,
        "SELECT setval('x', (SELECT max(value) FROM readings))": False,
        "INSERT INTO machines VALUES ('A') RETURNING machine_id": False,
    }.items():
        code = f"""
    async def raw():
        from piccolo.apps.migrations.tables import Migration
        await Migration.raw("{query}")
    manager.add_raw(raw)
"""
        draft.path.write_text(draft.text.replace("    return manager", f"{code}    return manager"))
        project.forget_files()
        if refused:
            with pytest.raises(
                MigrationRefused, match=f"^A raw step of the migration {draft.migration_id} asks the database "
            ):
                await write_script(project.app)
        else:
            assert query in await write_script(project.app)
    assert Migration._meta.db is project.engine


def test_psql_is_told_what_is_not_for_it() -> None:
    assert write_statement("SELECT a[1:n], b::int, ':x', \":y\", f(c := $$:z$$) -- :no") == (
        "SELECT a[1\\:n], b::int, ':x', \":y\", f(c := $$:z$$) -- :no\n;"
    )
    with pytest.raises(
        MigrationRefused, match=r"^psql would take the backslash in this for a command of its own: \\copy a"
    ):
        write_statement("\\copy a from b")
