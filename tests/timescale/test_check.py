"""`migrate-check`: its exit codes, what it says of runs that were cut off or go on, and where it can't be told."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec
import pytest

from app.embedded import open_embedded
from app.embedded.directory import make_directory
from app.embedded.installations import find_wheel
from app.errors import MigrationFailed, SchemaAhead
from app.migrations import rehearsal
from app.migrations.check import CheckResult, Unfinished, check_database
from app.migrations.state import list_migrations
from app.timescale import manager
from app.timescale.autogenerate import draft_data
from app.timescale.files import list_files
from app.timescale.journal import LOCK
from app.timescale.leftovers import has_leftovers
from app.timescale.statements import ENABLE_TIMESCALE
from tests.conftest import make_database, read_database, replace_database, run_command, run_sql
from tests.ports import find_free_port
from tests.timescale.project import MEAN, ROWS, Project, check, daily, declare, is_community, is_in_webassembly, step

ONE = """
class One(Declared, Table, tablename="one"):
    one_id = Integer(primary_key=True, default=None)
"""
TWO = """
class Two(Declared, Table, tablename="two"):
    two_id = Integer(primary_key=True, default=None)
"""
IN_STEP = "Migrations, database and tables are in step.\n"


async def invoke(url: str, *options: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `invoke migrate-check`."""
    done = await asyncio.to_thread(run_command, "invoke", "migrate-check", *options, database_url=url)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


async def look(project: Project) -> tuple[int, list[str]]:
    """The exit code and everything that is said."""
    result = await check_database(project.engine, project.app)
    return result.exit_code, list(result.describe())


async def write(project: Project, source: str) -> str:
    project.declare(source)
    draft = await project.generate()
    assert draft is not None
    return draft.migration_id


# --- exit codes ---------------------------------------------------------------------------------------------------


async def test_the_command_says_it_in_its_exit_code_and_in_json(empty_database_url: str) -> None:
    names = list_migrations()
    said = "".join(f"{name} is not applied: run invoke migrate.\n" for name in names)
    assert await invoke(empty_database_url) == (2, said, "")
    await asyncio.to_thread(run_command, "invoke", "migrate", database_url=empty_database_url)
    assert await invoke(empty_database_url) == (0, IN_STEP, "")
    await run_sql(empty_database_url, "ALTER TABLE alerts ADD COLUMN extra int")
    assert await invoke(empty_database_url) == (3, "column alerts.extra is not in the migrations: integer.\n", "")
    code, output, _ = await invoke(empty_database_url, "--json")
    assert (code, json.loads(output)) == (
        3,
        {
            "pending": [],
            "out_of_order": [],
            "unfinished": [],
            "running": [],
            "edited": [],
            "differences": [{"kind": "column", "name": "alerts.extra", "expected": None, "actual": "integer"}],
            "moved_on": None,
            "exit_code": 3,
        },
    )


async def test_what_is_to_be_applied_and_what_is_to_be_generated_are_told_apart(project: Project) -> None:
    await step(project, declare("None"))
    project.declare(declare(daily()))
    assert await look(project) == (4, ["The tables have changed since the newest migration: run invoke migration."])
    draft = await project.generate()
    assert draft is not None
    assert await look(project) == (2, [f"{draft.migration_id} is not applied: run invoke migrate."])
    await project.forwards()
    assert await look(project) == (0, [IN_STEP.strip()])
    await project.fetch("INSERT INTO migration (name, app_name) VALUES ('2999-01-01T00:00:00:000000', 'app')")
    with pytest.raises(SchemaAhead):
        await check(project)


def test_the_gravest_decides_the_exit_code() -> None:
    calm = CheckResult([], [], [], [], [], [], None)
    found: dict[str, Any] = {
        "moved_on": "It moved on.",
        "pending": ["b"],
        "unfinished": [Unfinished("a", "CALL refresh")],
        "running": ["somebody"],
        "edited": ["a"],
    }
    codes = []
    for name, value in found.items():
        calm = msgspec.structs.replace(calm, **{name: value})
        codes.append(calm.exit_code)
    assert codes == [4, 2, 2, 2, 3]
    assert msgspec.structs.replace(calm, edited=[], out_of_order=["b"]).exit_code == 3


async def test_an_edited_file_is_named_until_it_is_put_back(project: Project) -> None:
    first = await write(project, ONE)
    await project.forwards()
    path = list_files(project.folder)[first]
    kept = path.read_text()
    path.write_text(kept + "# a thought\n")
    assert await look(project) == (
        3,
        [f"{first} was edited since it was applied: put its file back, or run invoke migrate --accept-edited."],
    )
    assert (await check_database(project.engine, project.app)).edited == [first]
    path.write_text(kept)
    assert await check(project) == (0, [])


async def test_a_file_that_sorts_before_an_applied_one_is_named_before_migrate_refuses_it(project: Project) -> None:
    first, _ = await write(project, ONE), await write(project, ONE + TWO)
    await project.forwards()
    await project.fetch("DELETE FROM migration WHERE name = $1", first)
    await project.fetch("DROP TABLE one")
    assert await look(project) == (
        3,
        [f"{first} is not applied, and one that comes after it is: give the file an ID later than every other."],
    )
    result = await check_database(project.engine, project.app)
    assert (result.pending, result.out_of_order) == ([first], [first])


# --- runs that were cut off, or go on -----------------------------------------------------------------------------


async def cut_off(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrates as far as the steps that come after a migration's transaction."""

    async def crash(connection: asyncpg.Connection[asyncpg.Record]) -> None:
        if await has_leftovers(connection):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("app.migrations.runner.run_leftovers", crash)
        with pytest.raises(KeyboardInterrupt):
            await project.forwards()


async def test_an_aggregate_that_is_still_to_be_filled_is_to_be_migrated(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not await is_community(project):
        pytest.skip("this edition has no aggregates")
    await step(project, declare(daily()))
    await project.fetch("INSERT INTO machines VALUES ('A')")
    await project.fetch(ROWS)
    migration_id = await write(project, declare(daily(MEAN)))
    await cut_off(project, monkeypatch)
    assert await look(project) == (
        2,
        [f"{migration_id} is not finished: CALL refresh_continuous_aggregate is left. Run invoke migrate."],
    )
    assert (await check_database(project.engine, project.app)).unfinished == [
        Unfinished(migration_id, "CALL refresh_continuous_aggregate")
    ]
    await project.forwards()
    assert await look(project) == (0, [IN_STEP.strip()])


async def test_an_index_that_is_made_after_the_transaction_is_expected_once_it_was(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    if await is_in_webassembly(project):
        pytest.skip("TimescaleDB in WebAssembly has no CONCURRENTLY")
    first = await write(project, ONE + "    size = Integer()\n")
    path = list_files(project.folder)[first]
    statement = "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS one_size ON one (size) WHERE size > 0"
    line = f'    manager.run_after_commit("{statement}", "DROP INDEX CONCURRENTLY IF EXISTS one_size")\n'
    path.write_text(path.read_text().replace("    return manager", f"{line}    return manager"))
    project.forget_files()
    await cut_off(project, monkeypatch)
    left = "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS one_size ON one"
    unfinished = (2, [f"{first} is not finished: {left} is left. Run invoke migrate."])
    assert await look(project) == unfinished
    await project.fetch("INSERT INTO one VALUES (1, 5), (2, 5)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await project.fetch(statement)
    assert await look(project) == unfinished  # with the index that the failure left, which isn't valid
    await project.fetch("DROP INDEX one_size")
    await project.fetch("DELETE FROM one")
    await project.forwards()
    assert await look(project) == (0, [IN_STEP.strip()])
    await project.fetch("DROP INDEX one_size")
    shown = "CREATE UNIQUE INDEX one_size ON one USING btree (size) WHERE (size > 0)"
    assert await check(project) == (3, [f"index one.one_size is missing: {shown}"])


async def test_a_declared_index_that_is_still_to_be_built_is_to_be_migrated(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    if await is_in_webassembly(project):
        pytest.skip("TimescaleDB in WebAssembly has no CONCURRENTLY")
    await step(project, ONE)
    indexed = ONE.replace('"one")', '"one", indexes=(Index("one_falling", ("one_id DESC",)),))')
    migration_id = await write(project, f"from app.timescale.indexes import Index\n{indexed}")
    await cut_off(project, monkeypatch)
    left = 'CREATE INDEX IF NOT EXISTS "one_falling" ON "one" USING btree'
    assert await look(project) == (2, [f"{migration_id} is not finished: {left} is left. Run invoke migrate."])
    await project.forwards()
    assert await look(project) == (0, [IN_STEP.strip()])


async def test_a_data_migration_that_was_cut_off_is_told_with_its_rows(project: Project) -> None:
    await step(project, declare("None"))
    await project.fetch("INSERT INTO machines VALUES ('A')")
    await project.fetch(ROWS)
    draft = await draft_data(project.app, "Double the values")
    halfway = "UPDATE readings SET value = 500 - value WHERE {batch}"
    move = (
        f'    manager.move_rows("readings", ("machine_id", "timestamp"), "{halfway}", "", rows=200)\n    return manager'
    )
    draft.path.write_text(draft.text.replace("    return manager", move))
    with pytest.raises(MigrationFailed, match="readings_value_known"):
        await project.forwards()
    assert await look(project) == (
        2,
        [
            f"{draft.migration_id} is not applied: run invoke migrate.",
            f"{draft.migration_id} is not finished: a change of rows, 400 done so far, is left. Run invoke migrate.",
        ],
    )


async def test_a_run_that_is_under_way_is_named_and_not_waited_for(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(tmp_path, empty_database_url, monkeypatch)
    await step(project, ONE)
    runner = await asyncpg.connect(empty_database_url, server_settings={"application_name": "migrations of alice@host"})
    try:
        await runner.execute(f"SELECT pg_advisory_lock({LOCK})")
        # A migration that has changed a table and goes on: its locks are in nobody's way here.
        await runner.execute("BEGIN; ALTER TABLE one ADD COLUMN more int")
        code, said = await asyncio.wait_for(look(project), 60)
        assert code == 2
        assert len(said) == 1
        assert said[0].startswith("A run is under way: migrations of alice@host (")
        assert f"process {runner.get_server_pid()} for 00:0" in said[0]
    finally:
        await runner.close()
    assert await look(project) == (0, [IN_STEP.strip()])


async def test_checks_beside_runs_see_each_migration_wholly_or_not_at_all(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Neither is to give way to the other, also where one stands still for a while.
    monkeypatch.setattr(manager, "LOCK_TIMEOUT", timedelta(seconds=60))
    monkeypatch.setattr(
        rehearsal, "_WORDING", rehearsal._WORDING.replace("lock_timeout = 2000", "lock_timeout = 60000")
    )
    project = Project(tmp_path, empty_database_url, monkeypatch)
    await project.fetch(ENABLE_TIMESCALE)
    names = [await write(project, source) for source in (declare("None"), declare(daily()), declare(daily()) + ONE)]
    checked = asyncio.Event()

    async def migrate() -> None:
        while not checked.is_set():
            await project.forwards()
            await project.backwards(names[0])
        await project.forwards()

    async with asyncio.TaskGroup() as group:
        group.create_task(migrate())
        for _ in range(15):
            result = await check_database(project.engine, project.app)
            assert result.differences == []
            assert result.pending in [names[place:] for place in range(4)]
        checked.set()
    assert await check(project) == (0, [])


# --- where it can't be told: exit code 1 --------------------------------------------------------------------------


BUSY = "DATABASE_BUSY: What there is can't be read, for others have it locked: "
TRY_AGAIN = ". Try again when they are done.\n"


async def hear_who_is_busy(url: str) -> str:
    """What the command says of somebody in its way, once it sees who: it looks from beside, and on a busy machine too late."""
    said = unseen = f"{BUSY}canceling statement due to lock timeout{TRY_AGAIN}"
    while said == unseen:
        code, out, said = await invoke(url)
        assert (code, out) == (1, "")
    return said


async def test_who_has_a_table_locked_is_named_rather_than_waited_for(server_url: str, template: str) -> None:
    async with make_database(server_url, template) as url:
        holder = await asyncpg.connect(url, server_settings={"application_name": "a repair"})
        try:
            for table in ("migration", "machines"):
                await holder.execute(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
                said = await hear_who_is_busy(url)
                assert said.startswith(f"{BUSY}a repair (")
                assert f"process {holder.get_server_pid()}, idle in transaction for 00:0" in said
                assert said.endswith(f"){TRY_AGAIN}")
                await holder.execute("ROLLBACK")
            assert await invoke(url) == (0, IN_STEP, "")
        finally:
            await holder.close()


async def test_a_database_that_cannot_be_reached_has_none_of_the_codes_that_tell_something(
    empty_database_url: str,
) -> None:
    for url, reason in {
        f"postgresql://a:pa55word@127.0.0.1:{find_free_port()}/a": (
            "DATABASE_UNAVAILABLE: The database of DATABASE_URL can't be reached: "
        ),
        replace_database(empty_database_url, "nowhere"): (
            'DATABASE_UNAVAILABLE: The database refuses the role of DATABASE_URL: database "nowhere" does not exist.\n'
        ),
    }.items():
        code, output, error = await invoke(url, "--json")
        assert (code, output) == (1, "")
        assert error.startswith(reason)
        assert "pa55word" not in error


READ_ONLY = (
    "MIGRATION_REFUSED: The database of DATABASE_URL is read-only, a replica most likely. What the migrations make is found "
    "by running them again in a transaction that is rolled back, which only the primary allows.\n"
)


async def test_a_replica_is_told_to_be_one(tmp_path: Path) -> None:
    wheel = find_wheel().bin_dir
    with open_embedded(tmp_path, wheel) as server:
        await asyncio.to_thread(run_command, "invoke", "migrate", database_url=server.dsn)
        assert (await invoke(server.dsn))[0] == 0
    cluster = make_directory(tmp_path).cluster
    while (cluster / "postmaster.pid").exists():  # noqa: ASYNC110 - the keeper has no event for it
        await asyncio.sleep(0.05)
    (cluster / "standby.signal").touch()
    with open_embedded(tmp_path, wheel) as replica:
        assert await invoke(replica.dsn) == (1, "", READ_ONLY)


async def test_a_database_that_only_lets_read_is_told_to_do_so(server_url: str, template: str) -> None:
    async with make_database(server_url, template) as url:
        await run_sql(server_url, f"ALTER DATABASE {read_database(url)} SET default_transaction_read_only = on")
        assert await invoke(url) == (1, "", READ_ONLY)


async def test_a_role_that_may_not_create_a_schema_is_told_what_to_ask_for(server_url: str, template: str) -> None:
    admin = await asyncpg.connect(server_url)
    try:
        if not await admin.fetchval("SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user"):
            pytest.skip("the role of this server may not create others")
        async with make_database(server_url, template) as url:
            name = read_database(url)
            role = f"role_of_{name}"
            await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'pa55word'")
            await run_sql(url, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
            try:
                parts = urlsplit(url)
                limited = urlunsplit(parts._replace(netloc=f"{role}:pa55word@{parts.netloc.rpartition('@')[2]}"))
                grant = f"GRANT CREATE ON DATABASE {name} TO {role}"
                assert await invoke(limited) == (
                    1,
                    "",
                    f"MIGRATION_REFUSED: The role {role} may not create a schema in the database {name}. What the migrations "
                    "make is found by running them again in a schema of their own, which is rolled back: let the owner of "
                    f"the database run {grant}.\n",
                )
                await run_sql(url, grant)
                assert await invoke(limited) == (0, IN_STEP, "")
            finally:
                await run_sql(url, f"DROP OWNED BY {role}")
                await admin.execute(f"DROP ROLE {role}")
    finally:
        await admin.close()


async def test_a_version_of_timescaledb_that_the_server_lacks_is_named(server_url: str, template: str) -> None:
    async with make_database(server_url, template) as url:
        connection = await asyncpg.connect(url)
        try:
            if not await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'"):
                pytest.skip("this server has no TimescaleDB")
            await connection.execute("UPDATE pg_extension SET extversion = '2.0.0' WHERE extname = 'timescaledb'")
        finally:
            await connection.close()
        for command in (["migrate-check"], ["migrate"], ["migrate-current"]):
            done = await asyncio.to_thread(run_command, "invoke", *command, database_url=url)
            assert (done.returncode, done.stdout, done.stderr) == (
                1,
                "",
                "DATABASE_UNAVAILABLE: The server doesn't have the version of an extension that this database uses, "
                'TimescaleDB\'s most likely: could not access file "$libdir/timescaledb-2.0.0": '
                "No such file or directory.\n",
            )
