"""The pool and its transactions when the server is slow, full, or goes away."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, cast

import asyncpg
import pytest
from asyncpg.pool import PoolConnectionProxy
from piccolo.columns import Integer
from piccolo.engine.exceptions import TransactionError
from piccolo.table import Table

import app.database
from app.database import (
    Connection,
    Database,
    Edition,
    EditionName,
    connect,
    probe_edition,
)
from app.engine import UNREACHABLE, Engine, make_engine
from app.errors import DatabaseBusy, DatabaseUnavailable, EditionMissing, InvalidInput, QueryTimeout, StartupRefused
from tests.conftest import replace_database

AGAIN = "The database can't be reached just now: try again in a moment."
SLOW = "The database took too long and was stopped: ask for less, or raise AURUM_STATEMENT_TIMEOUT."
BAD_TEXT = "A text has a character that can't be stored or looked for, such as NUL."

DEFERRED = """
    CREATE TABLE parts (id int PRIMARY KEY, part_of int REFERENCES parts (id) DEFERRABLE INITIALLY DEFERRED)
"""
ORPHAN = "INSERT INTO parts VALUES (1, 2)"
MY_PID = "SELECT pg_backend_pid()"
KILL_ME = "SELECT pg_terminate_backend(pg_backend_pid())"


@asynccontextmanager
async def open_engine(url: str, **options: Any) -> AsyncIterator[Engine]:
    """An engine with a pool of one connection, whose loss every test would notice."""
    engine = make_engine(url, timescale="auto")
    await engine.start_connection_pool(min_size=1, max_size=1, **options)
    try:
        yield engine
    finally:
        await asyncio.wait_for(engine.close_connection_pool(), 30)


@pytest.fixture
async def engine(empty_database_url: str) -> AsyncIterator[Engine]:
    async with open_engine(empty_database_url) as opened:
        yield opened


@asynccontextmanager
async def open_database(
    url: str, *, timescale: str = "auto", statement_timeout: timedelta = timedelta(seconds=30)
) -> AsyncIterator[Database]:
    """A database with a pool of one connection, whose loss every test would notice."""
    database = Database(timescale=timescale, pool_size=1, statement_timeout=statement_timeout)
    await database.open(url)
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
def unused_url() -> Iterator[str]:
    """A URL with a port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and so nobody else's, but not listening
        yield f"postgresql://aurum:pa55w0rd@127.0.0.1:{taken.getsockname()[1]}/aurum"


@pytest.fixture
async def database(empty_database_url: str) -> AsyncIterator[Database]:
    async with open_database(empty_database_url) as opened:
        yield opened


async def fetch(engine: Engine, statement: str) -> Any:
    """The first value of a statement run as Piccolo runs them: in the transaction there is, else on a connection of the
    pool, for which nobody waits long."""
    async with asyncio.timeout(30):
        rows = await engine.run_ddl(statement)
    return rows[0][0] if rows else None


async def fail_after(*doings: Awaitable[Any]) -> None:
    """Does all that and raises ZeroDivisionError."""
    for doing in doings:
        await doing
    raise ZeroDivisionError


async def test_a_commit_that_fails_gives_the_connection_back(engine: Engine) -> None:
    await fetch(engine, DEFERRED)
    for _ in range(3):
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            async with engine.transaction():
                await fetch(engine, ORPHAN)
        assert engine.transaction_exists() is False
        assert await fetch(engine, "SELECT count(*) FROM parts") == 0


async def test_a_connection_that_is_killed_in_a_transaction_is_replaced(engine: Engine) -> None:
    for _ in range(3):
        with pytest.raises(UNREACHABLE):
            async with engine.transaction():
                await fetch(engine, KILL_ME)
        assert engine.transaction_exists() is False
        assert await fetch(engine, "SELECT 7") == 7


async def test_a_connection_that_is_killed_before_commit_is_replaced(engine: Engine, empty_database_url: str) -> None:
    await fetch(engine, DEFERRED)
    killer = await asyncpg.connect(empty_database_url)

    async def kill(pid: int) -> None:
        assert await killer.fetchval("SELECT pg_terminate_backend($1, 30000)", pid) is True

    try:
        # The last of these where the server's farewell has been read, and its hanging up has not.
        with pytest.raises((*UNREACHABLE, asyncpg.InterfaceError, asyncpg.InternalClientError)):
            async with engine.transaction():
                await kill(await fetch(engine, MY_PID))
    finally:
        await killer.close()
    assert engine.transaction_exists() is False
    assert await fetch(engine, "SELECT 7") == 7


async def test_a_begin_that_fails_gives_the_connection_back(empty_database_url: str) -> None:
    broken = False

    async def spoil(connection: PoolConnectionProxy[asyncpg.Record]) -> None:
        if broken:
            await connection.execute("BEGIN")  # within which asyncpg begins no other

    async with open_engine(empty_database_url, setup=spoil) as engine:
        broken = True
        for _ in range(3):
            with pytest.raises(asyncpg.InterfaceError, match="manually started transaction"):
                async with asyncio.timeout(30), engine.transaction():
                    raise AssertionError("the transaction never began")
        broken = False
        assert engine.transaction_exists() is False
        assert await fetch(engine, "SELECT 7") == 7


async def test_what_is_raised_inside_is_raised_and_rolled_back(engine: Engine) -> None:
    await fetch(engine, DEFERRED)
    with pytest.raises(ZeroDivisionError):
        async with engine.transaction():
            await fail_after(fetch(engine, "INSERT INTO parts VALUES (1, 1)"))
    assert await fetch(engine, "SELECT count(*) FROM parts") == 0


async def test_a_nested_transaction_is_part_of_the_outer_one(engine: Engine) -> None:
    await fetch(engine, DEFERRED)

    async def insert_nested(row: str) -> None:
        outer = engine.current_transaction.get()
        async with engine.transaction() as inner:
            await fetch(engine, f"INSERT INTO parts VALUES {row}")
        assert inner is outer
        assert await fetch(engine, "SELECT count(*) FROM parts") == 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with engine.transaction():
            await insert_nested("(1, 1)")
    assert await fetch(engine, "SELECT count(*) FROM parts") == 0
    async with engine.transaction():
        with pytest.raises(ZeroDivisionError):
            await insert_nested("(2, 2)")
        await fetch(engine, "INSERT INTO parts VALUES (3, 2)")
    assert await fetch(engine, "SELECT array_agg(id ORDER BY id) FROM parts") == [2, 3]


async def test_a_nested_transaction_can_be_forbidden(engine: Engine) -> None:
    async with engine.transaction():
        with pytest.raises(TransactionError):
            engine.transaction(allow_nested=False)
    assert await fetch(engine, "SELECT 7") == 7


async def test_a_transaction_that_was_ended_by_hand_is_left_alone(engine: Engine) -> None:
    await fetch(engine, DEFERRED)
    async with engine.transaction() as transaction:
        await fetch(engine, "INSERT INTO parts VALUES (1, 1)")
        await transaction.commit()  # type: ignore[no-untyped-call]  # Piccolo's has no annotations
    with pytest.raises(ZeroDivisionError):
        async with engine.transaction() as transaction:
            await fail_after(fetch(engine, "INSERT INTO parts VALUES (2, 2)"), transaction.rollback())  # type: ignore[no-untyped-call]  # as above
    assert await fetch(engine, "SELECT array_agg(id) FROM parts") == [1]


async def test_without_a_pool_a_transaction_closes_its_connection_whatever_happens(empty_database_url: str) -> None:
    engine = make_engine(empty_database_url, timescale="auto")
    await fetch(engine, DEFERRED)
    async with engine.transaction() as good:
        assert await fetch(engine, "SELECT 7") == 7
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        async with engine.transaction() as bad:
            await fetch(engine, ORPHAN)
    assert (good.connection.is_closed(), bad.connection.is_closed()) == (True, True)


async def test_a_session_is_in_utc_with_our_settings(empty_database_url: str) -> None:
    async with (
        open_database(
            empty_database_url, timescale="off", statement_timeout=timedelta(milliseconds=61_500)
        ) as database,
        database.connection() as connection,
    ):
        names = ["timezone", "jit", "plan_cache_mode", "aurum.timescale", "statement_timeout", "application_name"]
        shown = [await connection.fetchval("SELECT current_setting($1)", name) for name in names]
    assert shown == ["UTC", "off", "force_custom_plan", "off", "61500ms", "aurumai"]


async def test_a_session_is_as_new_for_the_next_unless_it_was_only_read_from(empty_database_url: str) -> None:
    shown = "SELECT current_setting('work_mem')"
    async with open_engine(empty_database_url) as engine:
        database = Database(timescale="auto", pool_size=1, statement_timeout=timedelta(seconds=30))
        database._engine = engine
        async with database.connection() as connection:
            usual = await connection.fetchval(shown)
            await connection.execute("SET work_mem = '3MB'")
        async with database.reading() as connection:
            assert await connection.fetchval(shown) == usual
            # What nobody should do there: it stays for as long as others only read.
            await connection.execute("SET work_mem = '5MB'")
        async with database.reading() as connection:
            assert await connection.fetchval(shown) == "5MB"
            with pytest.raises(asyncpg.DivisionByZeroError):
                await connection.fetchval("SELECT 1 / 0")
        with pytest.raises(asyncpg.DivisionByZeroError):
            async with database.reading() as connection:
                await connection.fetchval("SELECT 1 / 0")
        async with database.reading() as connection:
            assert await connection.fetchval(shown) == usual


async def test_a_statement_that_another_session_overtakes_in_the_catalogue_may_be_tried_again(
    database: Database, empty_database_url: str
) -> None:
    """As while TimescaleDB is upgraded: it is nothing that the service has done wrong."""
    function = "CREATE OR REPLACE FUNCTION tell() RETURNS int LANGUAGE sql AS 'SELECT {}'"
    other = await asyncpg.connect(empty_database_url)
    try:
        await other.execute(function.format(1))
        await other.execute("BEGIN")
        await other.execute(function.format(2))

        async def replace() -> None:
            async with database.connection() as connection:
                await connection.execute(function.format(3))

        replacing = asyncio.create_task(replace())
        waiting = (
            "SELECT count(*)::int FROM pg_locks WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid)) AND NOT granted"
        )
        while not replacing.done() and await other.fetchval(waiting) == 0:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.02)
        await other.execute("COMMIT")
        with pytest.raises(
            DatabaseBusy, match=r"^Others changed the same rows at the same time: try again in a moment\.$"
        ):
            await replacing
    finally:
        await other.close()


async def test_a_statement_that_runs_too_long_is_stopped(database: Database) -> None:
    for enter in (database.connection, database.transaction):
        with pytest.raises(QueryTimeout) as caught:
            async with enter() as connection:
                # The limit of a session, but no other statement of it is to be so quick. It goes with what fails.
                await connection.execute("SET statement_timeout = 50; SELECT pg_sleep(30)")
        assert str(caught.value) == SLOW
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT 7") == 7
        assert await connection.fetchval("SHOW statement_timeout") == "30s"


@pytest.mark.parametrize(
    ("kind", "argument"),
    [
        ("text", "\0"),
        ("text", "\ud800"),
        ("text", "fine \udfff not"),
        ("text[]", ["fine", "\0"]),
        ("text[]", ["fine", "\ud800"]),
        ("jsonb", '{"a": "\\u0000"}'),
        ("jsonb", '{"a": "\ud800"}'),
    ],
)
async def test_a_text_that_postgres_cannot_hold_is_bad_input(database: Database, kind: str, argument: object) -> None:
    for enter in (database.connection, database.transaction):
        with pytest.raises(InvalidInput) as caught:
            async with enter() as connection:
                await connection.fetchval(f"SELECT $1::{kind}", argument)
        assert (str(caught.value), caught.value.field) == (BAD_TEXT, None)
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT $1::text", "größe") == "größe"


@pytest.mark.parametrize(
    ("statement", "argument"), [("SELECT $1::text", 7), ("SELECT $1::int4", 2**40), ("SELECT $1::int", "x")]
)
async def test_a_bug_of_ours_is_not_passed_off_as_something_else(
    database: Database, statement: str, argument: object
) -> None:
    with pytest.raises(asyncpg.DataError):
        async with database.connection() as connection:
            await connection.fetchval(statement, argument)


async def test_a_connection_that_is_killed_is_an_outage_and_the_next_one_works(database: Database) -> None:
    for enter in (database.connection, database.transaction):
        with pytest.raises(DatabaseUnavailable) as caught:
            async with enter() as connection:
                await connection.fetchval(KILL_ME)
        assert str(caught.value) == AGAIN
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT 7") == 7


async def test_a_constraint_that_fails_at_commit_is_told_as_it_is(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(DEFERRED)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        async with database.transaction() as connection:
            await connection.execute(ORPHAN)
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM parts") == 0


async def test_a_transaction_is_kept_at_its_end_and_undone_by_an_exception(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(DEFERRED)
        await connection.execute("INSERT INTO parts VALUES (1, 1)")
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as connection:
            await fail_after(connection.execute("INSERT INTO parts VALUES (2, 2)"))
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT array_agg(id) FROM parts") == [1]


async def test_when_all_connections_are_in_use_one_waits_and_then_is_told(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.connection():
        monkeypatch.setattr(app.database, "ACQUIRE_TIMEOUT", 0.05)
        with pytest.raises(DatabaseUnavailable) as caught:
            async with database.connection():
                raise AssertionError("there was only one")
    assert str(caught.value) == AGAIN
    monkeypatch.undo()
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT 7") == 7


async def test_who_waits_gets_the_connection_that_comes_free(database: Database) -> None:
    async def ask(number: int) -> Any:
        async with database.connection() as connection:
            return await connection.fetchval("SELECT $1::int", number)

    assert await asyncio.gather(*map(ask, range(20))) == list(range(20))


async def test_before_opening_and_after_closing_there_is_no_database(empty_database_url: str) -> None:
    database = Database(timescale="auto", pool_size=1, statement_timeout=timedelta(seconds=30))
    with pytest.raises(RuntimeError, match="the database is not open"):
        _ = database.engine
    with pytest.raises(RuntimeError, match="the database is not open"):
        _ = database.edition
    await database.close()
    for opened in (False, True):
        if opened:
            await database.open(empty_database_url)
            await database.close()
            await database.close()
        with pytest.raises(DatabaseUnavailable) as caught:
            async with database.connection():
                raise AssertionError("there is no connection")
        assert str(caught.value) == "The service is starting or stopping: try again in a moment."


async def test_closing_cuts_off_what_still_runs(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.database, "CLOSE_TIMEOUT", 0.05)
    started = asyncio.Event()

    async def sleep_long() -> None:
        async with opened.connection() as connection:
            started.set()
            await connection.fetch("SELECT pg_sleep(30)")

    async with open_database(empty_database_url) as opened:
        sleeping = asyncio.create_task(sleep_long())
        await started.wait()
        await asyncio.wait_for(opened.close(), 20)
        with pytest.raises(DatabaseUnavailable) as caught:
            await asyncio.wait_for(sleeping, 20)
    assert str(caught.value) == AGAIN


async def test_tables_that_are_bound_use_the_pool(database: Database) -> None:
    class Part(Table, tablename="parts"):
        id = Integer(primary_key=True)

    async with database.connection() as connection:
        await connection.execute(DEFERRED)
        await connection.execute("INSERT INTO parts VALUES (1, 1)")
    database.bind([Part])
    assert await Part.select() == [{"id": 1}]
    async with database.connection():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Part.count().run(), 0.1)


async def test_a_server_that_is_not_there_is_told_with_the_reason(unused_url: str) -> None:
    database = Database(timescale="auto", pool_size=1, statement_timeout=timedelta(seconds=30))
    for attempt in (database.open, connect):
        with pytest.raises(DatabaseUnavailable) as caught:
            await attempt(unused_url)
        assert re.match(r"The database of DATABASE_URL can't be reached: .*[Cc]onnect.*\.\Z", str(caught.value))
        assert "pa55w0rd" not in str(caught.value)


async def test_a_login_that_is_refused_is_told_with_the_reason(empty_database_url: str) -> None:
    name = "aurum_no_such_database"
    database = Database(timescale="auto", pool_size=1, statement_timeout=timedelta(seconds=30))
    for attempt in (database.open, connect):
        with pytest.raises(DatabaseUnavailable) as caught:
            await attempt(replace_database(empty_database_url, name))
        assert str(caught.value) == (
            f'The database refuses the role of DATABASE_URL: database "{name}" does not exist.'
        )


async def test_a_database_without_timescale_is_refused_where_it_is_required(empty_database_url: str) -> None:
    with pytest.raises(EditionMissing) as caught:
        async with open_database(empty_database_url, timescale="require"):
            raise AssertionError("it must not open")
    assert str(caught.value) == (
        "AURUM_TIMESCALE=require, but the database has no TimescaleDB: "
        "let a superuser run CREATE EXTENSION timescaledb in it, or set AURUM_TIMESCALE=auto."
    )


@pytest.mark.parametrize("timescale", ["auto", "off"])
async def test_a_database_without_timescale_says_so(empty_database_url: str, timescale: str) -> None:
    async with open_database(empty_database_url, timescale=timescale) as database:
        edition = database.edition
        async with database.connection() as connection:
            version = (await connection.fetchval("SHOW server_version")).split()[0]
    assert edition == Edition(EditionName.NONE, version, None)
    assert (str(edition), edition.has_hypertables) == (f"PostgreSQL {version} without TimescaleDB", False)


class Server:
    """What servers of other editions and versions answer to the questions of a probe."""

    def __init__(self, version_number: int, version: str, extension: str | None, licence: str | None) -> None:
        self._answers = {
            "current_setting('server_version_num')": str(version_number),
            "current_setting('server_version')": version,
            "extname = 'timescaledb'": extension,
            "current_setting('timescaledb.license', true)": licence,
        }

    async def fetchval(self, statement: str) -> str | None:
        (answer,) = [answer for part, answer in self._answers.items() if part in statement]
        return answer


async def probe(server: Server, timescale: str = "auto") -> Edition:
    return await probe_edition(cast("Connection", server), timescale=timescale)


@pytest.mark.parametrize(
    ("licence", "name", "text"),
    [
        ("apache", EditionName.APACHE, "PostgreSQL 17.6 with TimescaleDB 2.19.3 (apache)"),
        ("timescale", EditionName.COMMUNITY, "PostgreSQL 17.6 with TimescaleDB 2.19.3 (community)"),
        (None, EditionName.APACHE, "PostgreSQL 17.6 with TimescaleDB 2.19.3 (apache)"),
    ],
)
async def test_the_edition_of_timescale_is_told_by_its_licence(
    licence: str | None, name: EditionName, text: str
) -> None:
    server = Server(170_006, "17.6", "2.19.3", licence)
    for timescale in ("auto", "require"):
        edition = await probe(server, timescale)
        assert edition == Edition(name, "17.6", "2.19.3")
        assert (str(edition), edition.has_hypertables) == (text, True)


async def test_timescale_that_is_switched_off_is_not_looked_at() -> None:
    assert await probe(Server(170_006, "17.6", "2.19.3", "timescale"), "off") == Edition(EditionName.NONE, "17.6", None)


async def test_a_postgres_that_is_too_old_is_refused() -> None:
    with pytest.raises(StartupRefused) as caught:
        await probe(Server(149_999, "14.20", None, None))
    assert str(caught.value) == "PostgreSQL 14.20 is too old: AurumAI needs 15 or later."
    assert (await probe(Server(150_000, "15.0", None, None))).postgres_version == "15.0"
