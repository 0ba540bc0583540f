"""The database: one pool that Piccolo and asyncpg share, and what edition answers.

Arrives: a DSN and limits. Leaves: connections whose session is in UTC. Fails: DatabaseUnavailable when the server
can't be reached or is going down, QueryTimeout when a statement ran too long; anything else is a bug.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import TypeAlias, cast

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from piccolo.table import Table

from app.engine import CONNECT_TIMEOUT, UNREACHABLE, Engine, Session, make_engine
from app.errors import DatabaseBusy, DatabaseUnavailable, EditionMissing, InvalidInput, QueryTimeout, StartupRefused
from app.tracing import Tracing

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"

ACQUIRE_TIMEOUT = 10.0  # seconds, to get a connection of the pool
CLOSE_TIMEOUT = 5.0  # seconds, for what is under way when the pool closes
OLDEST_POSTGRES = 15
AWAY = "The database can't be reached just now: try again in a moment."
READ_ONLY = "The database takes no changes just now, since it is read-only, as a replica is: try again in a moment."
NO_ROOM = "The database has no room to work in just now, on its disk or in memory: try again in a moment."
# Every statement fails where a database has another version of TimescaleDB than the server can load.
NO_LIBRARY = "The server doesn't have the version of an extension that this database uses, TimescaleDB's most likely"
# What PostgreSQL says, with the code of an internal error, where another session has changed the catalogue under a statement:
# a policy of TimescaleDB at work, or its upgrade.
OVERTAKEN = ("tuple concurrently ", "could not open relation with OID ")
NO_RIGHT = "The database refuses the role of DATABASE_URL"
BAD_CHARACTER = "A text has a character that can't be stored or looked for, such as NUL."


class EditionName(Enum):
    """What the server offers beyond PostgreSQL: nothing, TimescaleDB's Apache part, or its Community part as well."""

    NONE = "none"
    APACHE = "apache"
    COMMUNITY = "community"


@dataclass(frozen=True)
class Edition:
    """The editions differ in what they can do, never in what they answer."""

    name: EditionName
    postgres_version: str
    timescale_version: str | None

    @property
    def has_hypertables(self) -> bool:
        return self.name is not EditionName.NONE

    def __str__(self) -> str:
        if self.timescale_version is None:
            return f"PostgreSQL {self.postgres_version} without TimescaleDB"
        return f"PostgreSQL {self.postgres_version} with TimescaleDB {self.timescale_version} ({self.name.value})"


@dataclass(frozen=True)
class PoolState:
    """Connections of a pool: how many it may have, has, and has in use; and how many ask for one and wait."""

    most: int
    size: int
    used: int
    waiting: int


async def connect(dsn: str) -> Connection:
    """One connection outside any pool. Raises DatabaseUnavailable, saying why in a word."""
    with explain_refusal():
        return await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT, server_settings={"timezone": "UTC"})


class Database:
    """A pool of connections to one server, open between `open` and `close`."""

    def __init__(
        self, *, timescale: str, pool_size: int, statement_timeout: timedelta, tracing: Tracing | None = None
    ) -> None:
        self._timescale = timescale
        self._tracing = tracing
        self._pool_size = pool_size
        self._statement_timeout = statement_timeout
        self._engine: Engine | None = None
        self._edition: Edition | None = None

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("the database is not open")
        return self._engine

    @property
    def edition(self) -> Edition:
        if self._edition is None:
            raise RuntimeError("the database is not open")
        return self._edition

    async def open(self, dsn: str) -> None:
        """Opens the pool and finds out the edition.

        Raises DatabaseUnavailable when the server can't be reached or refuses the login, StartupRefused when it's too
        old, EditionMissing when AURUM_TIMESCALE=require and there is no TimescaleDB.
        """
        self._engine = make_engine(dsn, timescale=self._timescale, statement_timeout=self._statement_timeout)
        with explain_refusal():
            await self._engine.start_connection_pool(min_size=1, max_size=self._pool_size, init=self._prepare)
        async with self.connection() as connection:
            self._edition = await probe_edition(connection, timescale=self._timescale)

    async def _prepare(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        if self._tracing is not None:
            connection.add_query_logger(self._tracing.tell_statement)

    def read_pool(self) -> PoolState:
        """How the pool is just now; it takes no connection."""
        pool = None if self._engine is None else self._engine.pool
        if pool is None:
            return PoolState(self._pool_size, 0, 0, 0)
        size = pool.get_size()
        # asyncpg counts those who wait nowhere: they are in the queue of what is free.
        waiting = sum(not getter.done() for getter in pool._queue._getters)  # type: ignore[attr-defined]  # noqa: SLF001 - as said
        return PoolState(self._pool_size, size, size - pool.get_idle_size(), waiting)

    def hurry(self) -> None:
        """Cuts off in CLOSE_TIMEOUT seconds whatever waits for the server: one that hangs would have each wait for itself, one after
        the other, and supervisors kill a process that takes long to stop."""
        if self._engine is not None and self._engine.pool is not None:
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._engine.pool.terminate)

    async def close(self) -> None:
        """Closes the pool; what still runs after CLOSE_TIMEOUT seconds is cut off."""
        if self._engine is None or self._engine.pool is None:
            return
        pool, self._engine.pool = self._engine.pool, None
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """One of the pool's connections, outside a transaction."""
        pool = None if self._engine is None else self._engine.pool
        if pool is None:
            raise DatabaseUnavailable("The service is starting or stopping: try again in a moment.")
        with translate_errors():
            try:
                connection = await pool.acquire(timeout=ACQUIRE_TIMEOUT)
            except asyncpg.PostgresError as error:
                # Whatever a server says to a login that worked before, it isn't about the request.
                raise DatabaseUnavailable(AWAY) from error
            try:
                yield connection
            except (
                asyncpg.InterfaceError,
                asyncpg.InternalClientError,
                asyncpg.PostgresError,
                DatabaseUnavailable,
            ) as error:
                if _tells_of_a_farewell(error) or _tells_of_a_replica(error):
                    connection.terminate()
                raise
            finally:
                await pool.release(connection)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """A connection for nothing but SELECTs that leave no trace in their session, perhaps in a transaction of their own."""
        async with self.connection() as connection:
            yield connection
            cast("Session", connection).leave_untouched()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection in a transaction, committed at the end, rolled back by an exception."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    def bind(self, tables: Iterable[type[Table]]) -> None:
        """Makes Piccolo's queries on these tables use this pool, not the engine of piccolo_conf.py."""
        for table in tables:
            table._meta.db = self.engine


@contextmanager
def explain_refusal() -> Iterator[None]:
    """Turns what can go wrong with a first connection into DatabaseUnavailable with a reason for the operator."""
    try:
        yield
    except (
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.InvalidCatalogNameError,
        asyncpg.InsufficientPrivilegeError,
        asyncpg.ObjectNotInPrerequisiteStateError,
    ) as error:
        raise DatabaseUnavailable(f"{NO_RIGHT}: {describe_error(error)}.") from error
    except UNREACHABLE as error:
        raise DatabaseUnavailable(f"The database of DATABASE_URL can't be reached: {describe_error(error)}.") from error
    except asyncpg.UndefinedFileError as error:
        raise DatabaseUnavailable(f"{NO_LIBRARY}: {describe_error(error)}.") from error
    except (ValueError, OverflowError, asyncpg.InterfaceError):
        # Without the reason, which may quote a part of the password.
        raise DatabaseUnavailable(
            "DATABASE_URL can't be used: its options or its port are not what asyncpg takes."
        ) from None


def describe_error(error: BaseException) -> str:
    """What went wrong, on one line: PostgreSQL's message with its detail and hint, never the statement."""
    parts = [str(error)]
    if isinstance(error, asyncpg.PostgresError):
        parts = [text for name in ("message", "detail", "hint") if (text := getattr(error, name, None))]
    return " ".join(" ".join(parts).split()).rstrip(".") or type(error).__name__


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turns what asyncpg raises for a server that is away, slow, or not as it must be into DatabaseUnavailable and QueryTimeout."""
    try:
        yield
    except asyncpg.QueryCanceledError as error:
        raise QueryTimeout(
            "The database took too long and was stopped: ask for less, or raise AURUM_STATEMENT_TIMEOUT."
        ) from error
    except (asyncpg.CharacterNotInRepertoireError, asyncpg.UntranslatableCharacterError) as error:
        raise InvalidInput(BAD_CHARACTER) from error
    except asyncpg.DataError as error:
        # asyncpg encodes arguments itself; half of a surrogate pair is a character that UTF-8 doesn't have.
        if isinstance(error.__cause__, UnicodeEncodeError):
            raise InvalidInput(BAD_CHARACTER) from error
        raise
    except UNREACHABLE as error:
        raise DatabaseUnavailable(AWAY) from error
    except (asyncpg.UndefinedFileError, asyncpg.InsufficientPrivilegeError) as error:
        lacking = NO_LIBRARY if isinstance(error, asyncpg.UndefinedFileError) else NO_RIGHT
        raise DatabaseUnavailable(f"{lacking}: {describe_error(error)}.") from error
    except (asyncpg.InsufficientResourcesError, asyncpg.PostgresIOError) as error:
        # Of disk or of memory: it passes by itself, or by what an operator does, and the request is not to blame.
        raise DatabaseUnavailable(NO_ROOM) from error
    except asyncpg.ReadOnlySQLTransactionError as error:
        # A primary that became a replica, or whose disk is nearly full: whoever sends must not take it for the end of it.
        raise DatabaseUnavailable(READ_ONLY) from error
    except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.InternalServerError) as error:
        _require_collision(error)
        raise DatabaseBusy("Others changed the same rows at the same time: try again in a moment.") from error
    except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        # asyncpg says this of a connection or pool that has just gone, but of a wrong use of it too, which is a bug.
        if "clos" in str(error) or _tells_of_a_farewell(error):
            raise DatabaseUnavailable(AWAY) from error
        raise


def _require_collision(error: asyncpg.PostgresError) -> None:
    """Raises an internal error that tells of anything else."""
    if isinstance(error, asyncpg.InternalServerError) and not str(error).startswith(OVERTAKEN):
        raise error


def _tells_of_a_farewell(error: BaseException | None) -> bool:
    """Whether asyncpg fails since the server has said that it ends the session, and has not hung up yet.

    A rollback on such a connection fails in words that hide it, and so would giving it back to the pool.
    """
    while error is not None:
        if isinstance(error, asyncpg.InternalClientError) and "cannot switch to state" in str(error):
            return True
        error = error.__context__
    return False


def _tells_of_a_replica(error: BaseException | None) -> bool:
    """Whether the server takes no changes: another connection may lead to one that does, where a URL or a name stands for both."""
    while error is not None:
        if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            return True
        error = error.__cause__
    return False


async def probe_edition(connection: Connection, *, timescale: str) -> Edition:
    """What this server is, given AURUM_TIMESCALE (auto, require, off)."""
    version_number = int(await connection.fetchval("SELECT current_setting('server_version_num')"))
    version = str(await connection.fetchval("SELECT split_part(current_setting('server_version'), ' ', 1)"))
    if version_number < OLDEST_POSTGRES * 10_000:
        raise StartupRefused(f"PostgreSQL {version} is too old: AurumAI needs {OLDEST_POSTGRES} or later.")
    extension: str | None = None
    if timescale != "off":
        extension = await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
    if extension is None:
        if timescale == "require":
            raise EditionMissing(
                "AURUM_TIMESCALE=require, but the database has no TimescaleDB: "
                "let a superuser run CREATE EXTENSION timescaledb in it, or set AURUM_TIMESCALE=auto."
            )
        return Edition(EditionName.NONE, version, None)
    licence = await connection.fetchval("SELECT current_setting('timescaledb.license', true)")
    name = EditionName.COMMUNITY if licence == "timescale" else EditionName.APACHE
    return Edition(name, version, extension)
