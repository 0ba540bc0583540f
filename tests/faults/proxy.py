"""A way to PostgreSQL that breaks at COMMIT: a TCP proxy that is told what to do with the next ones."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import Enum
from urllib.parse import parse_qs, urlsplit

PIECE = 65_536
COMMIT = b"Q\x00\x00\x00\x0cCOMMIT;\x00"  # a simple query, as PostgreSQL's protocol has it

FIRST_STATEMENT = b"plan_cache_mode = force_generic_plan"  # of a connection that ingest has taken
GIVEN_BACK = b"RESET ALL"
REASON = b"SFATAL\x00VFATAL\x00C57P02\x00Mterminating connection because of crash of another server process\x00\x00"
FAREWELL = b"E" + (len(REASON) + 4).to_bytes(4, "big") + REASON


class Cut(Enum):
    """What happens to a COMMIT and its connection."""

    BEFORE = "the connection breaks, and the server never sees the COMMIT"
    AFTER = "the server has committed, and its answer is lost"
    BETWEEN = "both sides are cut the moment that COMMIT has been sent"
    HALF = "the service's side breaks before COMMIT arrives, and the server hears nothing of it"


class Proxy:
    """`cuts` are what the next COMMITs of ingest come to; without one they pass, as those of the service's chores do."""

    def __init__(self, database_url: str) -> None:
        self._upstream = urlsplit(database_url)
        self._port = 0
        self.cuts: deque[Cut] = deque()
        self.has_cut = asyncio.Event()
        self.farewells = 0  # transactions during which the server is to say that it ends, and not hang up yet
        self._saying: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """The same database by way of the proxy."""
        there = self._upstream
        login = there.netloc.rpartition("@")[0]
        return f"postgresql://{login}@127.0.0.1:{self._port}{there.path}?sslmode=disable"

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        handlers: set[asyncio.Task[None]] = set()

        async def handle(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
            handler = asyncio.current_task()
            assert handler is not None
            handlers.add(handler)
            with suppress(asyncio.CancelledError):
                await self._handle(client, to_client)

        listener = await asyncio.start_server(handle, "127.0.0.1", 0)
        self._port = listener.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            listener.close()
            for handler in handlers:
                handler.cancel()
            await asyncio.gather(*handlers, return_exceptions=True)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        there = self._upstream
        if there.hostname is None:
            asked = parse_qs(there.query)
            return await asyncio.open_unix_connection(f"{asked['host'][0]}/.s.PGSQL.{asked['port'][0]}")
        return await asyncio.open_connection(there.hostname, there.port)

    async def _handle(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await self._connect()
        lost = asyncio.Event()  # from then on nothing reaches the client
        answers = asyncio.create_task(self._pass_answers(server, to_client, lost))
        try:
            await self._pass_requests(client, to_server, to_client, lost)
            if lost.is_set():
                await answers
        finally:
            answers.cancel()
            to_client.transport.abort()
            to_server.transport.abort()

    async def _pass_answers(
        self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter, lost: asyncio.Event
    ) -> None:
        with suppress(ConnectionError):
            while data := await server.read(PIECE):
                if lost.is_set():
                    return
                to_client.write(data + FAREWELL if to_client in self._saying else data)
                self._saying.discard(to_client)
                await to_client.drain()
        to_client.close()

    async def _pass_requests(
        self,
        client: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
        to_client: asyncio.StreamWriter,
        lost: asyncio.Event,
    ) -> None:
        ingesting = False
        with suppress(ConnectionError):
            while data := await client.read(PIECE):
                ingesting = FIRST_STATEMENT in data or (ingesting and GIVEN_BACK not in data)
                if self.farewells and FIRST_STATEMENT in data:
                    self.farewells -= 1
                    self._saying.add(to_client)
                cut = self.cuts.popleft() if self.cuts and ingesting and data.endswith(COMMIT) else None
                if cut is not None:
                    self.has_cut.set()
                if cut is Cut.BEFORE:
                    return
                if cut is Cut.HALF:
                    to_client.transport.abort()
                    lost.set()  # and the server's connection stays, until it ends by itself
                    return
                if cut is Cut.AFTER:
                    lost.set()
                to_server.write(data)
                await to_server.drain()
                if cut is not None:
                    return


@asynccontextmanager
async def run_proxy(database_url: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(database_url)
    async with proxy.run():
        yield proxy
