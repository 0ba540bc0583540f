"""Piccolo's engine, with transactions that can't leak a connection and a connection that may be held for a whole run.

Arrives: a DSN. Leaves: connections whose session is in UTC. Making an engine touches no server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from types import TracebackType
from typing import Any

import asyncpg
from piccolo.engine import engine_finder
from piccolo.engine.postgres import PostgresEngine, PostgresTransaction

from app.errors import MigrationRefused

CONNECT_TIMEOUT = 10.0  # seconds, to reach the server
GRACE = 5.0  # seconds that a server is given to end a statement by itself

# What asyncpg and the operating system raise when the server is away, starting, stopping or full.
UNREACHABLE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
)


class Session(asyncpg.Connection):
    """A connection whose session is reset when it's given back to the pool, unless whoever had it says there is nothing to
    reset: that takes a round trip and four statements, as long as to find a row by its key."""

    _untouched = False

    def leave_untouched(self) -> None:
        """Says that this time nothing was done but to read: no setting, lock, cursor or listener is left."""
        self._untouched = True

    def get_reset_query(self) -> str:
        untouched, self._untouched = self._untouched, False
        return "" if untouched else str(super().get_reset_query())


class Transaction(PostgresTransaction):
    """Piccolo's transaction, which would keep its pooled connection for good when BEGIN, COMMIT or ROLLBACK fails."""

    engine: Engine

    async def __aenter__(self) -> PostgresTransaction:
        if self._parent:
            return self._parent
        self._held = self.engine.held
        self.connection = self._held or await self.get_connection()  # type: ignore[no-untyped-call]  # Piccolo's has no annotations
        self.transaction = self.connection.transaction()
        try:
            await self.transaction.start()
        except BaseException:
            await self._give_back()
            raise
        self.context = self.engine.current_transaction.set(self)
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if self._parent:
            return False
        try:
            if exception is None:
                if not self._committed and not self._rolled_back:
                    await self.transaction.commit()
            elif not self._rolled_back:
                # Where the connection is gone, so is the transaction; what was raised says more than that.
                with suppress(*UNREACHABLE, asyncpg.InterfaceError, asyncpg.InternalClientError):
                    await self.transaction.rollback()
        finally:
            self.engine.current_transaction.reset(self.context)
            await self._give_back()
        return False

    async def _give_back(self) -> None:
        if self._held is not None:
            return
        if self.engine.pool:
            await self.engine.pool.release(self.connection)
        else:
            await self.connection.close()


class Engine(PostgresEngine):
    """Piccolo's engine over our transaction."""

    def __init__(self, config: dict[str, Any]) -> None:
        # Piccolo runs event loops here, and one that Ctrl-C cuts off while it's made leaves a stack trace; threads aren't cut off.
        with ThreadPoolExecutor(max_workers=1) as thread:
            thread.submit(super().__init__, config=config).result()
        self._held: ContextVar[Any] = ContextVar("held_connection", default=None)
        self._refusal: ContextVar[str | None] = ContextVar("refusal_of_others", default=None)

    @property
    def held(self) -> Any:
        """The connection that every statement goes to just now; None when each finds its own."""
        return self._held.get()

    @contextmanager
    def hold(self, connection: Any, *, refusal: str | None = None) -> Iterator[None]:
        """Sends every statement and transaction inside the block to `connection`, which stays open after it.

        With a `refusal`, whoever opens another connection inside the block gets MigrationRefused, which says that.
        """
        tokens = self._held.set(connection), self._refusal.set(refusal)
        try:
            yield
        finally:
            self._held.reset(tokens[0])
            self._refusal.reset(tokens[1])

    async def get_new_connection(self) -> Any:
        if (refusal := self._refusal.get()) is not None:
            raise MigrationRefused(refusal)
        return await super().get_new_connection()

    async def check_version(self) -> None:
        """Piccolo would connect here, at import, and only warn. The version is checked at startup."""

    def transaction(self, allow_nested: bool = True) -> Transaction:
        return Transaction(engine=self, allow_nested=allow_nested)

    async def _run_in_new_connection(self, query: str, args: Sequence[Any] | None = None) -> Any:
        if self.held is not None:
            return await self.held.fetch(query, *(args or ()))
        return await super()._run_in_new_connection(query, args)


def make_engine(dsn: str, *, timescale: str, statement_timeout: timedelta | None = None) -> Engine:
    """An engine that has not connected yet. `timescale` is AURUM_TIMESCALE's value, for migrations to read."""
    session = {
        "application_name": "aurumai",
        "timezone": "UTC",
        # Compiling a query of a few milliseconds costs more than running it.
        "jit": "off",
        # A generic plan doesn't know the time bounds, and would open every chunk of a hypertable.
        "plan_cache_mode": "force_custom_plan",
        "aurum.timescale": timescale,
    }
    config: dict[str, object] = {
        "dsn": dsn,
        "server_settings": session,
        "timeout": CONNECT_TIMEOUT,
        "connection_class": Session,
    }
    if statement_timeout is not None:
        session["statement_timeout"] = str(statement_timeout // timedelta(milliseconds=1))
        # A client that vanished in a transaction would keep its locks until TCP gives up, after hours.
        session["idle_in_transaction_session_timeout"] = session["statement_timeout"]
        # A server that hangs can't keep its own time limit.
        config["command_timeout"] = statement_timeout.total_seconds() + GRACE
    return Engine(config=config)


def find_engine() -> Engine:
    """The engine of piccolo_conf.py."""
    engine = engine_finder()
    if not isinstance(engine, Engine):
        raise TypeError("piccolo_conf.py must name a DB made by make_engine")
    return engine
