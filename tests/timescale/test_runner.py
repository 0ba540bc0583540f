"""The runner: migrations that fail, wait, are cut off or edited; each is applied wholly or not at all."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from piccolo.apps.migrations.commands.forwards import run_forwards

from app.console import show_progress
from app.engine import Engine
from app.errors import MigrationFailed, MigrationRefused
from app.migrations import runner
from app.migrations.preview import preview_migrations
from app.migrations.runner import Terminal, apply_migrations, reverse_migrations
from app.migrations.state import list_migrations
from app.migrations.watch import watch
from app.timescale import manager
from app.timescale.files import compute_checksum, list_files, load_modules
from app.timescale.journal import LOCK, name_user
from app.timescale.leftovers import CREATE_STEPS
from app.timescale.manager import load_own_manager
from tests.conftest import ROOT, find_program, make_database, make_environ, read_database, run_command, run_sql
from tests.test_migrations import fetch
from tests.timescale.project import Project, is_in_webassembly

ONE = """
class One(Declared, Table, tablename="one"):
    one_id = Integer(primary_key=True, default=None)
"""
TWO = """
class Two(Declared, Table, tablename="two"):
    two_id = Integer(primary_key=True, default=None)
"""
APPLIED = "SELECT name FROM migration ORDER BY name"


async def write(project: Project, source: str) -> str:
    project.declare(source)
    draft = await project.generate()
    assert draft is not None
    return draft.migration_id


async def test_what_came_before_a_migration_that_fails_stays_and_the_rest_is_as_it_was(project: Project) -> None:
    first, second = await write(project, ONE), await write(project, ONE + TWO)
    await project.fetch("CREATE TABLE two (mine int)")
    with pytest.raises(MigrationFailed) as failed:
        await project.forwards()
    assert str(failed.value) == (
        f'{second} was refused by the database, and all is as it was before it: relation "two" already exists.'
    )
    assert await project.fetch(APPLIED) == [(first,)]
    assert await project.fetch("SELECT migration, event FROM migration_journal") == [(first, "applied")]
    await project.fetch("DROP TABLE two")
    said = await project.forwards()
    assert len(said) == 1
    assert said[0].startswith(f"{second}  a change: applied in ")
    assert await project.fetch(APPLIED) == [(first,), (second,)]


async def test_a_migration_gives_way_to_a_long_reader_and_comes_again(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(tmp_path, empty_database_url, monkeypatch)
    monkeypatch.setattr(runner, "LONGEST_PAUSE", 0.1)
    await write(project, ONE)
    await project.forwards()
    await write(project, ONE + "    more = Text(default=None, null=True)\n")
    reader = await asyncpg.connect(empty_database_url, server_settings={"application_name": "a report"})
    holding = reader.transaction()
    await holding.start()
    await reader.fetch("SELECT * FROM one")
    gave_way = asyncio.Event()
    said: list[str] = []

    def warn(text: str) -> None:
        said.append(text)
        # On a busy machine the first attempts may be over before they see to whom.
        if " gave way to a report (" in text:
            gave_way.set()

    running = asyncio.create_task(
        apply_migrations(project.engine, project.app, Terminal(said.append, warn, show_progress))
    )
    await gave_way.wait()
    told = next(text for text in said if " gave way to a report (" in text)
    # Everyone else goes on: nobody stands in a queue behind the migration.
    assert await asyncio.wait_for(project.fetch("SELECT count(*)::int FROM one"), 30) == [(0,)]
    await holding.rollback()
    await reader.close()
    await running
    user = await project.fetch("SELECT current_user::text")
    assert f" gave way to a report ({user[0][0]}" in told
    assert "idle in transaction for 00:0" in told
    assert f": attempt {said.index(told) + 2} of 15 in 0." in told
    assert ": applied in " in said[-1]
    assert await project.fetch("SELECT more FROM one") == []


async def test_a_migration_that_another_session_overtakes_in_the_catalogue_comes_again(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a policy of TimescaleDB at work meets the migration that drops its aggregate."""
    project = Project(tmp_path, empty_database_url, monkeypatch)
    monkeypatch.setattr(runner, "LONGEST_PAUSE", 0.1)
    function = "CREATE OR REPLACE FUNCTION tell() RETURNS int LANGUAGE sql AS 'SELECT {}'"
    await project.fetch(function.format(1))
    migration = await project.write_raw(function.format(3))
    other = await asyncpg.connect(empty_database_url)
    try:
        await other.execute("BEGIN")
        await other.execute(function.format(2))
        running = asyncio.create_task(project.forwards())
        waiting = (
            "SELECT count(*)::int FROM pg_locks WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid)) AND NOT granted"
        )
        while not running.done() and await other.fetchval(waiting) == 0:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.02)
        await other.execute("COMMIT")
        said = await running
    finally:
        await other.close()
    assert said[0].startswith(f"{migration} gave way to ")
    assert said[-1].startswith(f"{migration}  by hand: applied in ")
    assert await project.fetch("SELECT tell()") == [(3,)]


async def test_a_reader_that_never_ends_is_named_and_nothing_is_changed(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(tmp_path, empty_database_url, monkeypatch)
    monkeypatch.setattr(runner, "LONGEST_PAUSE", 0.1)
    await write(project, ONE)
    await project.forwards()
    second = await write(project, ONE + "    more = Text(default=None, null=True)\n")
    # Once it is known who is in the way there is one more attempt, which is over before anybody can look.
    attempts = 0

    def warn(text: str) -> None:
        nonlocal attempts
        attempts += 1
        if " gave way to a report (" in text:
            monkeypatch.setattr(runner, "ATTEMPTS", attempts + 1)
            monkeypatch.setattr(manager, "LOCK_TIMEOUT", timedelta(milliseconds=1))

    reader = await asyncpg.connect(empty_database_url, server_settings={"application_name": "a report"})
    try:
        await reader.execute("BEGIN; SELECT * FROM one")
        with pytest.raises(MigrationFailed) as failed:
            await apply_migrations(project.engine, project.app, Terminal(print, warn, show_progress))
    finally:
        await reader.close()
    assert str(failed.value).startswith(
        f"{second} did not get its locks in {attempts + 1} attempts, and all is as it was "
    )
    assert ". In its way: a report (" in str(failed.value)
    assert len(await project.fetch(APPLIED)) == 1


async def test_two_runners_at_once_for_twenty_rounds(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(tmp_path, empty_database_url, monkeypatch)
    names = [await write(project, ONE), await write(project, ONE + TWO)]
    for _ in range(20):
        outcomes = await asyncio.gather(project.forwards(), project.forwards())
        # One applied both; the other waited, said for whom, and found nothing to do.
        idle, busy = sorted(outcomes, key=lambda said: any(": applied in " in line for line in said))
        assert sum(": applied in " in line for line in busy) == 2
        assert idle[-1] == f"Nothing to apply: the database is at {names[-1]}."
        for line in idle[:-1]:
            assert line.startswith("Another run is under way on this database, and this one waits for it: ")
            assert f"migrations of {name_user()}" in line
        assert await project.fetch(APPLIED) == [(name,) for name in names]
        await project.backwards(names[0])
        assert await project.fetch(APPLIED) == []


async def test_a_runner_waits_for_another_says_for_whom_and_finds_nothing_to_do(empty_database_url: str) -> None:
    holder = await asyncpg.connect(empty_database_url, server_settings={"application_name": "migrations of alice@host"})
    try:
        await holder.execute(f"SELECT pg_advisory_lock({LOCK})")
        process = await asyncio.create_subprocess_exec(
            find_program("invoke"),
            "migrate",
            cwd=ROOT,
            env=make_environ(DATABASE_URL=empty_database_url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stderr
        line = (await asyncio.wait_for(process.stderr.readline(), 120)).decode()
        assert line.startswith(
            "Another run is under way on this database, and this one waits for it: migrations of alice@host ("
        )
        assert f"process {holder.get_server_pid()}" in line
    finally:
        await holder.close()
    out, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0
    assert out.decode().count(": applied in ") == len(list_migrations())


async def test_piccolos_command_and_invoke_at_once_apply_each_migration_once(empty_database_url: str) -> None:
    # Piccolo makes its table before our code is asked, and two of its commands at once would meet there.
    for command in (("invoke", "migrate"), ("invoke", "migrate-to", "--id", "base")):
        await asyncio.to_thread(run_command, *command, database_url=empty_database_url)
    commands = [("invoke", "migrate"), ("piccolo", "migrations", "forwards", "app")] * 2
    done = await asyncio.gather(
        *(asyncio.to_thread(run_command, *command, database_url=empty_database_url) for command in commands)
    )
    assert not any(each.returncode for each in done), "\n".join(each.stdout + each.stderr for each in done)
    names = [(name,) for name in list_migrations()]
    assert await fetch(empty_database_url, "SELECT DISTINCT name FROM migration ORDER BY name") == names
    applied = "SELECT migration FROM migration_journal WHERE event = 'applied' ORDER BY migration"
    assert await fetch(empty_database_url, applied) == [name for name in names for _ in range(2)]


async def test_a_migration_stays_recorded_while_piccolo_finds_that_another_run_has_applied_it(
    project: Project,
) -> None:
    first = await write(project, ONE)
    await project.forwards()
    # As Piccolo's command does with what was pending when it began, before it records it.
    await (await load_own_manager(project.app, first, load_modules(project.app)[first])).run()
    assert await project.fetch(APPLIED) == [(first,)]
    assert await project.fetch("SELECT count(*)::int FROM migration_journal") == [(1,)]


async def test_a_crash_between_piccolos_migration_and_its_bookkeeping_is_made_up_for(server_url: str) -> None:
    async with make_database(server_url) as url:
        for command in (("piccolo", "migrations", "forwards", "app"), ("invoke", "migrate")):
            await asyncio.to_thread(run_command, "piccolo", "migrations", "forwards", "app", database_url=url)
            await run_sql(url, f"DELETE FROM migration WHERE name = '{list_migrations()[-1]}'")
            done = await asyncio.to_thread(run_command, *command, database_url=url)
            assert done.returncode == 0, done.stdout + done.stderr
            assert await fetch(url, APPLIED) == [(name,) for name in list_migrations()]
            assert await fetch(url, "SELECT count(*)::int FROM migration_journal") == [(len(list_migrations()),)]


async def test_the_history_says_who_did_what_when_and_from_which_file(server_url: str, template: str) -> None:
    newest = list_migrations()[-1]
    files = list_files(ROOT / "piccolo_migrations")
    async with make_database(server_url, template) as url:
        await asyncio.to_thread(run_command, "invoke", "migrate-rollback", database_url=url)
        role = (await fetch(url, "SELECT session_user::text"))[0][0]
        done = await asyncio.to_thread(run_command, "invoke", "migrate-history", "--json", database_url=url)
        lines: list[dict[str, Any]] = json.loads(done.stdout)
        assert [(line["migration"], line["state"]) for line in lines] == [
            *((name, "applied") for name in list_migrations()[:-1]),
            (newest, "pending"),
        ]
        assert lines[0]["description"] == "The first tables"
        assert [(entry["event"], entry["checksum"], entry["role"], entry["by"]) for entry in lines[-1]["log"]] == [
            (event, compute_checksum(files[newest]), role, name_user()) for event in ("applied", "reversed")
        ]
        shown = await asyncio.to_thread(run_command, "invoke", "migrate-history", database_url=url)
        assert f"{newest}  pending  " in shown.stdout
        assert re.search(rf" UTC by {re.escape(name_user())} as {role}, took \d+\.\d\d s, file ", shown.stdout)
        current = await asyncio.to_thread(run_command, "invoke", "migrate-current", "--json", database_url=url)
        assert json.loads(current.stdout) == {
            "migration": list_migrations()[-2],
            "pending": [newest],
            "unknown": [],
        }


async def test_an_edited_file_is_named_until_it_is_put_back_or_accepted(project: Project) -> None:
    first = await write(project, ONE)
    await project.forwards()
    path = list_files(project.folder)[first]
    kept = path.read_bytes()
    path.write_bytes(kept.replace(b"\n", b"\r\n"))  # git may end lines differently elsewhere
    await project.forwards()
    path.write_bytes(kept + b"# a thought\n")
    with pytest.raises(MigrationRefused, match=f"^Edited since it was applied: {path.name}\\. .* add --accept-edited"):
        await project.forwards()
    said: list[str] = []
    await apply_migrations(
        project.engine, project.app, Terminal(said.append, said.append, show_progress), accept_edited=True
    )
    await project.forwards()
    await preview_migrations(project.engine, project.app, "base")
    path.write_bytes(kept)
    with pytest.raises(MigrationRefused, match=f"^Edited since it was applied: {path.name}"):
        await project.forwards()


async def test_an_edited_file_is_not_gone_back_over_until_it_is_accepted(project: Project) -> None:
    first, second = await write(project, ONE), await write(project, ONE + TWO)
    await project.forwards()
    path = list_files(project.folder)[second]
    kept = path.read_text()
    path.write_text(kept.replace('"two"', '"one"'))  # whose way back would drop another table
    project.forget_files()
    terminal = Terminal(print, print, show_progress)
    refusal = f"^Edited since it was applied: {path.name}\\. .* add --accept-edited"
    with pytest.raises(MigrationRefused, match=refusal):
        await reverse_migrations(project.engine, project.app, [second], terminal, may_lose=True)
    with pytest.raises(MigrationRefused, match=refusal):
        await preview_migrations(project.engine, project.app, first)
    assert await project.fetch("SELECT to_regclass('one')::text, to_regclass('two')::text") == [("one", "two")]
    path.write_text(f"{kept}# a thought\n")
    project.forget_files()
    await reverse_migrations(project.engine, project.app, [second], terminal, may_lose=True, accept_edited=True)
    assert await project.fetch("SELECT to_regclass('one')::text, to_regclass('two')::text") == [("one", None)]
    events = "SELECT event FROM migration_journal WHERE migration = $1 ORDER BY id"
    assert await project.fetch(events, second) == [("applied",), ("accepted",), ("reversed",)]


async def test_a_file_that_cannot_be_read_is_named_with_its_line(project: Project) -> None:
    first = await write(project, ONE)
    path = list_files(project.folder)[first]
    kept = path.read_text()
    for broken, reason in {
        kept.replace(
            "async def forwards():", "async def forwards(:"
        ): f"The migration {path.name} can't be read: line ",
        f"import nothing_like_it\n{kept}": (
            f"A migration can't be imported: {path.name}, line 1: ModuleNotFoundError: No module named 'nothing_like_it'."
        ),
        kept.replace("    return manager", "    raise RuntimeError('not today')"): (
            f"The forwards() of the migration {first} fails: {path.name}, line "
        ),
        kept.replace("    return manager", "    return None"): (
            f"The forwards() of the migration {first} must return its manager."
        ),
    }.items():
        path.write_text(broken)
        project.forget_files()
        with pytest.raises(MigrationRefused) as refused:
            await project.forwards()
        assert str(refused.value).startswith(reason)
        assert await project.fetch("SELECT to_regclass('migration')::text") == [(None,)]


async def test_a_file_that_is_broken_is_found_before_those_ahead_of_it_are_applied(project: Project) -> None:
    first, second, third = [
        await write(project, source) for source in (ONE, ONE + TWO, ONE + TWO + TWO.replace("wo", "ree"))
    ]
    path = list_files(project.folder)[third]
    kept = path.read_text()
    path.write_text(kept.replace("    return manager", "    raise RuntimeError('not today')"))
    project.forget_files()
    with pytest.raises(
        MigrationRefused, match=f"^The forwards\\(\\) of the migration {third} fails: {path.name}, line "
    ):
        await project.forwards()
    assert await project.fetch("SELECT to_regclass('one')::text") == [(None,)]
    terminal = Terminal(print, print, show_progress)
    await apply_migrations(project.engine, project.app, terminal, until=first)  # which doesn't come to it
    path.write_text(kept)
    project.forget_files()
    await project.forwards()
    path = list_files(project.folder)[second]
    path.write_text(path.read_text().replace("    return manager", "    raise RuntimeError('not today')"))
    project.forget_files()
    with pytest.raises(
        MigrationRefused, match=f"^The forwards\\(\\) of the migration {second} fails: {path.name}, line "
    ):
        await reverse_migrations(
            project.engine, project.app, [first, second, third], terminal, may_lose=True, accept_edited=True
        )
    assert await project.fetch(APPLIED) == [(first,), (second,), (third,)]


@pytest.mark.parametrize("line", ["id = {}", "  ID = {}", "ID: str = {}", ""])
async def test_a_file_without_its_id_is_named_rather_than_left_out(project: Project, line: str) -> None:
    first = await write(project, ONE)
    path = list_files(project.folder)[first]
    kept = path.read_text()
    path.write_text(kept.replace(f'ID = "{first}"', line.format(f'"{first}"')))
    project.forget_files()
    with pytest.raises(MigrationRefused) as refused:
        await project.forwards()
    assert str(refused.value) == (
        f'The migration {path.name} has no line ID = "...", by which it would be known: say it as the others do, or move the '
        "file elsewhere if it is no migration."
    )
    path.write_text(kept.replace(f'ID = "{first}"', f"ID='{first}'  # as it was"))
    for name in ("__init__.py", "readings.py"):
        (project.folder / name).write_text("")
    project.forget_files()
    await project.forwards()
    assert await project.fetch(APPLIED) == [(first,)]


async def test_two_files_with_one_id_are_refused(project: Project) -> None:
    first = await write(project, ONE)
    path = list_files(project.folder)[first]
    (project.folder / "app_zz.py").write_text(path.read_text())
    with pytest.raises(MigrationRefused, match=f"^The migrations {path.name} and app_zz.py have the same ID, {first}:"):
        await project.forwards()


async def test_a_statement_after_the_transaction_runs_by_itself_and_again_when_it_was_cut_off(project: Project) -> None:
    if await is_in_webassembly(project):
        pytest.skip("TimescaleDB in WebAssembly has no CONCURRENTLY")
    first = await write(project, ONE + "    size = Integer()\n")
    path = list_files(project.folder)[first]
    path.write_text(
        path.read_text().replace(
            "    return manager",
            '    manager.run_after_commit("CREATE INDEX CONCURRENTLY IF NOT EXISTS one_size ON one (size)", '
            '"DROP INDEX CONCURRENTLY IF EXISTS one_size")\n    return manager',
        )
    )
    project.forget_files()
    index = "SELECT to_regclass('one_size')::text, to_regclass('migration_step')::text"
    await project.forwards()
    assert await project.fetch(index) == [("one_size", None)]
    await project.backwards("1")
    assert await project.fetch(index) == [(None, None)]


@pytest.mark.parametrize("empty", ["", " ;\n", "-- nothing to undo"])
async def test_a_statement_after_the_transaction_that_is_empty_is_no_step(project: Project, empty: str) -> None:
    first = await write(project, ONE)
    path = list_files(project.folder)[first]
    path.write_text(
        path.read_text().replace(
            "    return manager",
            f'    manager.run_after_commit("VACUUM (ANALYZE) one", {empty!r})\n'
            f'    manager.run_after_commit({empty!r}, "ANALYZE migration_journal")\n    return manager',
        )
    )
    project.forget_files()
    for _ in range(2):
        await project.forwards()
        assert await project.fetch("SELECT to_regclass('one')::text, to_regclass('migration_step')::text") == [
            ("one", None)
        ]
        await project.backwards("1")
        assert await project.fetch("SELECT to_regclass('one')::text, to_regclass('migration_step')::text") == [
            (None, None)
        ]
    # As an earlier version wrote it down.
    await project.fetch(CREATE_STEPS)
    await project.fetch("INSERT INTO migration_step (migration, statement) VALUES ('x', $1)", empty)
    await project.forwards()
    assert await project.fetch("SELECT to_regclass('migration_step')::text") == [(None,)]


RUNNING = (
    "SELECT {} FROM pg_stat_activity WHERE datname = current_database() "
    "AND application_name LIKE 'migrations of %' AND wait_event_type = 'Lock'"
)


@asynccontextmanager
async def run_blocked(url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A run in the middle of its first migration, which waits there until the block ends."""
    blocker = await asyncpg.connect(url)
    try:
        await blocker.execute("BEGIN; CREATE TABLE migration (id serial PRIMARY KEY)")
        process = await asyncio.create_subprocess_exec(
            find_program("invoke"),
            "migrate",
            cwd=ROOT,
            env=make_environ(DATABASE_URL=url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        while await fetch(url, RUNNING.format("count(*)::int")) != [(1,)]:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.05)
        yield process
    finally:
        await blocker.close()


async def finish(url: str) -> None:
    done = await asyncio.to_thread(run_command, "invoke", "migrate", database_url=url)
    assert done.returncode == 0, done.stderr
    assert await fetch(url, APPLIED) == [(name,) for name in list_migrations()]


async def test_a_run_that_is_killed_leaves_the_lock_and_the_database_to_the_next(empty_database_url: str) -> None:
    async with run_blocked(empty_database_url) as process:
        process.send_signal(signal.SIGKILL)
        await process.wait()
    await finish(empty_database_url)


async def test_a_run_that_is_interrupted_ends_at_once_and_without_a_trace(empty_database_url: str) -> None:
    async with run_blocked(empty_database_url) as process:
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert (process.returncode, out, err) == (128 + signal.SIGINT, b"", b"")
        # Its session was told to end, and does when its process comes to it; nobody else would wake it before the block ends.
        async with asyncio.timeout(30):
            while await fetch(empty_database_url, RUNNING.format("pid")) != []:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
    await finish(empty_database_url)


async def test_a_watch_that_does_not_hear_of_the_end_is_told_again(empty_database_url: str) -> None:
    """A cancellation is lost where what was waited for is there at the same moment, as a new connection may be."""
    asked = asyncio.Event()

    class Deaf(Engine):
        async def get_new_connection(self) -> Any:
            asked.set()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            return await super().get_new_connection()

    engine = Deaf(config={"dsn": empty_database_url})
    async with watch(engine, 0, print):
        await asked.wait()


async def test_a_run_that_loses_its_connection_does_not_claim_to_know_the_outcome(empty_database_url: str) -> None:
    async with run_blocked(empty_database_url) as process:
        await fetch(empty_database_url, RUNNING.format("pg_terminate_backend(pid)"))
        _, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 1
        assert err.decode() == (
            f"MIGRATION_FAILED: The connection to the database was lost during {list_migrations()[0]}, which is done wholly or "
            "not at all: run this again to see, and to go on.\n"
        )
    await finish(empty_database_url)


async def test_a_read_only_server_and_a_role_without_rights_are_told_apart(server_url: str) -> None:
    async with make_database(server_url) as url:
        name = read_database(url)
        await run_sql(server_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        done = await asyncio.to_thread(run_command, "invoke", "migrate", database_url=url)
        assert done.returncode == 1
        assert done.stderr == (
            "MIGRATION_REFUSED: The database of DATABASE_URL is read-only, a replica most likely: "
            "migrations run on the primary.\n"
        )
        await run_sql(server_url, f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await run_sql(url, "DROP SCHEMA public")
        done = await asyncio.to_thread(run_command, "invoke", "migrate", database_url=url)
        assert done.returncode == 1
        role = (await fetch(url, "SELECT current_user::text"))[0][0]
        assert done.stderr == (
            'MIGRATION_REFUSED: There is no schema to create tables in: of search_path, which is "$user", public, none is there '
            f"that the role {role} may use. Create one and grant it USAGE and CREATE, or set another search_path.\n"
        )


async def test_a_role_that_may_not_read_what_was_applied_is_told_so_by_every_command(
    server_url: str, template: str
) -> None:
    async with make_database(server_url, template) as url:
        admin = await asyncpg.connect(url)
        role = f"reader_of_{read_database(url)}"
        try:
            if not await admin.fetchval("SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user"):
                role = ""
                pytest.skip("the role of this server may not create others")
            await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'pa55word'")
            await admin.execute(f"GRANT CREATE ON DATABASE {read_database(url)} TO {role}")
            await admin.execute(f"GRANT CREATE ON SCHEMA public TO {role}")
            parts = urlsplit(url)
            limited = urlunsplit(parts._replace(netloc=f"{role}:pa55word@{parts.netloc.rpartition('@')[2]}"))
            for command in ("preview", "check", "current", "history", "rollback", "safe"):
                done = await asyncio.to_thread(run_command, "invoke", f"migrate-{command}", database_url=limited)
                assert (done.returncode, done.stdout, done.stderr) == (
                    1,
                    "",
                    "DATABASE_UNAVAILABLE: The database refuses the role of DATABASE_URL: permission denied for table "
                    "migration.\n",
                )
            done = await asyncio.to_thread(run_command, "invoke", "migrate", database_url=limited)
            assert done.stderr.endswith("refuses the role of DATABASE_URL: permission denied for table migration.\n")
        finally:
            if role:
                await admin.execute(f"DROP OWNED BY {role}")
                await admin.execute(f"DROP ROLE {role}")
            await admin.close()


async def test_piccolos_command_can_wait_for_a_runner_that_builds_an_index(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CREATE INDEX CONCURRENTLY waits for whoever has a snapshot: who waits for its session in a query would wait for good."""
    project = Project(tmp_path, empty_database_url, monkeypatch)
    first = await write(project, ONE)
    await project.forwards()
    second = await write(project, ONE + "    size = Integer()\n")
    path = list_files(project.folder)[second]
    path.write_text(
        path.read_text().replace(
            "    return manager",
            '    manager.run_after_commit("CREATE INDEX CONCURRENTLY IF NOT EXISTS one_size ON one (size)", "")\n    return manager',
        )
    )
    project.forget_files()
    reader = await asyncpg.connect(empty_database_url)
    sessions = "SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND query LIKE $1"
    try:
        await reader.execute("BEGIN; SELECT FROM one")
        running = asyncio.create_task(project.forwards())
        while await project.fetch(sessions, "ALTER TABLE%") != [(1,)]:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)
        other = asyncio.create_task(run_forwards("app"))
        while await project.fetch(sessions, "%pg_try_advisory_lock%") != [(1,)]:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
        await reader.execute("COMMIT")
        await running
        assert (await other).success
    finally:
        await reader.close()
    assert await project.fetch("SELECT migration FROM migration_journal ORDER BY id") == [(first,), (second,)]
    assert await project.fetch("SELECT indisvalid FROM pg_index WHERE indexrelid = 'one_size'::regclass") == [(True,)]
