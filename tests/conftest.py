"""Real servers for the tests: a PostgreSQL, a database of its own for each test, the service on a port of its own.

The server is the one that AURUM_TEST_DATABASE_URL names (its role must be able to create databases), else PostgreSQL
from PyPI in a temporary folder. The last line of a run says which it was.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import uvicorn

from app.database import probe_edition
from app.embedded import find_installation, open_embedded
from app.main import create_app
from app.ops.protocol import make_protocol
from app.settings import load_settings
from tests.client import ServiceClient
from tests.comparing import compare_answers
from tests.following import serve_here
from tests.seed import SEED
from tests.timescale.community import CommunityServer, CommunityServerError

ROOT = Path(__file__).parent.parent
SERVER_VARIABLE = "AURUM_TEST_DATABASE_URL"

_editions = pytest.StashKey[set[str]]()


def replace_database(url: str, name: str) -> str:
    """The same server's URL for another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def read_database(url: str) -> str:
    """The name of a URL's database."""
    return urlsplit(url).path[1:]


def make_environ(**variables: str) -> dict[str, str]:
    """The process's environment with these variables of AurumAI and no others."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("AURUM_", "DATABASE_URL"))}
    return {**environ, **variables}


def find_program(name: str) -> str:
    """One of the environment's programs: piccolo, invoke, uvicorn, litestar."""
    return str(Path(sys.executable).with_name(name))


def run_command(
    *command: str, database_url: str, cwd: Path | str = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs one of the environment's programs to its end, in the project's folder or another, on that database."""
    environ = make_environ(DATABASE_URL=database_url, **variables)
    program = find_program(command[0])
    return subprocess.run(
        [program, *command[1:]], cwd=cwd, env=environ, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the server's maintenance database."""
    given = os.environ.get(SERVER_VARIABLE)
    if given:
        yield given
        return
    with open_embedded(tmp_path_factory.mktemp("postgres"), find_installation(None, timescale=False).bin_dir) as server:
        yield server.dsn


def _tell_edition(config: pytest.Config, sentence: str) -> None:
    told = config.stash.setdefault(_editions, set())
    told.add(sentence)
    if hasattr(config, "workeroutput"):  # pytest-xdist's way from a worker to the process that reports
        config.workeroutput["editions"] = sorted(told)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    editions = getattr(node, "workeroutput", {}).get("editions", [])
    node.config.stash.setdefault(_editions, set[str]()).update(editions)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where another server is named, what doesn't touch it has been seen without it, and would only be seen again."""
    if SERVER_VARIABLE not in os.environ:
        return
    again = [item for item in items if isinstance(item, pytest.Function) and not _is_on_server(item)]
    config.hook.pytest_deselected(items=again)
    items[:] = [item for item in items if item not in again]


def _is_on_server(item: pytest.Function) -> bool:
    needed = [*item.fixturenames, *(item.callspec.params.values() if hasattr(item, "callspec") else ())]
    return ("server_url" in needed or "server" in needed) and "community" not in needed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    told = config.stash.get(_editions, None)
    for sentence in sorted(told or ()):
        terminalreporter.write_line(sentence)


@contextmanager
def hear(name: str) -> Iterator[list[str]]:
    """What is logged under a name from INFO on, as "LEVEL message", whatever a service in this process has set up."""
    lines: list[str] = []
    logger = logging.getLogger(name)
    level = logger.level
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(f"{record.levelname} {record.getMessage()}")  # type: ignore[method-assign]  # of this handler alone
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


async def run_sql(url: str, *statements: str) -> None:
    """Runs the statements one after the other on a connection of their own."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _run_when_left(server_url: str, statement: str, passing: tuple[type[Exception], ...]) -> None:
    """Runs a statement on a database that others have still to leave, such as sessions that were ended, for as long as it's
    refused for that."""
    deadline = time.monotonic() + 120
    while True:
        try:
            await run_sql(server_url, statement)
        except passing:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
        else:
            return


@asynccontextmanager
async def make_database(server_url: str, template: str = "template0") -> AsyncIterator[str]:
    """A new database, and its URL, for as long as the block lasts."""
    name = f"aurum_{uuid.uuid4().hex[:12]}"
    await _run_when_left(server_url, f'CREATE DATABASE {name} TEMPLATE "{template}"', (asyncpg.ObjectInUseError,))
    try:
        yield replace_database(server_url, name)
    finally:
        # Where autovacuum is at work in it, a role that isn't a superuser may not end that: it ends soon.
        drop = f"DROP DATABASE {name} WITH (FORCE)"
        await _run_when_left(server_url, drop, (asyncpg.ObjectInUseError, asyncpg.InsufficientPrivilegeError))


@pytest.fixture(scope="session")
def community(request: pytest.FixtureRequest) -> Iterator[CommunityServer]:
    """TimescaleDB Community in WebAssembly: one connection at a time, one database."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(CommunityServer())
        except CommunityServerError as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"TimescaleDB Community can't be had here: {error}")
        _tell_edition(request.config, f"Ran the migrations on edition community as well: {server.version}.")
        yield server


@pytest.fixture(params=["server", "community"])
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """An empty database on either server. On Community a connection must be closed before the next is opened."""
    if request.param == "server":
        async with make_database(request.getfixturevalue("server_url")) as made:
            yield made
    else:
        server = request.getfixturevalue("community")
        server.reset()
        yield server.dsn


@pytest.fixture(scope="session")
async def template(request: pytest.FixtureRequest, server_url: str) -> AsyncIterator[str]:
    """The name of a database that `piccolo migrations forwards app` has brought up, to be copied."""
    async with make_database(server_url) as url:
        done = await asyncio.to_thread(run_command, "piccolo", "migrations", "forwards", "app", database_url=url)
        assert done.returncode == 0, done.stdout + done.stderr
        name = read_database(url)
        connection = await asyncpg.connect(url)
        try:
            edition = await probe_edition(connection, timescale="auto")
        finally:
            await connection.close()
        _tell_edition(request.config, f"Ran on edition {edition.name.value}: {edition}.")
        # TimescaleDB's scheduler connects to every database it's in, and a database in use can't be copied. Autovacuum gives way by
        # itself, and not everybody may end it.
        await run_sql(
            server_url,
            f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{name}' AND backend_type <> 'autovacuum worker'",
        )
        yield name


@pytest.fixture
async def empty_database_url(server_url: str) -> AsyncIterator[str]:
    """A database with nothing in it."""
    async with make_database(server_url) as url:
        yield url


@pytest.fixture
async def database_url(server_url: str, template: str) -> AsyncIterator[str]:
    """A database with every migration applied and no rows."""
    async with make_database(server_url, template) as url:
        yield url


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A look behind the service's back."""
    opened = await asyncpg.connect(database_url)
    try:
        yield opened
    finally:
        await opened.close()


@asynccontextmanager
async def run_service(database_url: str, **variables: str) -> AsyncIterator[ServiceClient]:
    """The service on a free port of this machine, over real sockets, in this process."""
    settings = load_settings({"DATABASE_URL": database_url, "AURUM_LOG_LEVEL": "error", **variables})
    config = uvicorn.Config(
        create_app(settings),
        host="127.0.0.1",
        port=0,
        http=make_protocol(settings.max_connections),
        log_level="error",
        timeout_graceful_shutdown=2,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        if serving.done():
            serving.result()
            raise RuntimeError("the service did not start")
        await asyncio.sleep(0.005)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        with serve_here(url), compare_answers():
            async with ServiceClient(url) as client:
                yield client
    finally:
        server.should_exit = True
        await serving


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[ServiceClient]:
    """The service with its default settings, on a database of its own."""
    async with run_service(database_url) as client:
        yield client


@pytest.fixture
async def seeded(service: ServiceClient, connection: asyncpg.Connection[asyncpg.Record]) -> ServiceClient:
    """The service on the rows of `tests.seed`."""
    await connection.execute(SEED)
    return service
