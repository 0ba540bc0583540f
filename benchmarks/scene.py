"""Where a benchmark plays: a database of its own on the server of DATABASE_URL, and server processes over it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

ROOT = Path(__file__).parent.parent
START_TIMEOUT = 60.0  # seconds


def make_environ(database_url: str, **variables: str) -> dict[str, str]:
    """The environment without the shell's settings of AurumAI, on which a figure must not depend."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("AURUM_", "DATABASE_URL"))}
    return {**environ, "DATABASE_URL": database_url, **variables}


@asynccontextmanager
async def make_database(server_url: str) -> AsyncIterator[str]:
    """The URL of a new database with every migration applied, for as long as the block lasts."""
    name = f"aurum_bench_{uuid.uuid4().hex[:8]}"
    server = await asyncpg.connect(server_url)
    try:
        await server.execute(f"CREATE DATABASE {name}")
        url = urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))  # noqa: SLF001 - a named tuple's own way
        try:
            migrate = [sys.executable, "-m", "invoke", "migrate"]
            subprocess.run(migrate, cwd=ROOT, env=make_environ(url), check=True, capture_output=True)  # noqa: ASYNC221, S603 - nothing else runs yet
            yield url
        finally:
            await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await server.close()


@dataclass(frozen=True)
class Process:
    """A server process that listens on `port` of this machine."""

    port: int
    pid: int

    def read_memory(self) -> float:
        """MB of memory that it has now; Linux alone tells."""
        for line in Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError(f"process {self.pid} has ended")


def find_free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def run_server(app: str, *options: str, database_url: str, **variables: str) -> Iterator[Process]:
    """`uvicorn` with an app, as one process without a log of requests, for as long as the block lasts."""
    port = find_free_port()
    command = [sys.executable, "-m", "uvicorn", app, *options, "--port", str(port), "--no-access-log"]
    process = subprocess.Popen(  # noqa: S603 - our own command
        [*command, "--log-level", "warning"],
        cwd=ROOT,
        env=make_environ(database_url, **variables),
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Process(port, process.pid)
    finally:
        process.terminate()
        process.wait()


async def wait_until_open(process: Process) -> None:
    """Comes back when the server takes connections. Raises TimeoutError."""
    async with asyncio.timeout(START_TIMEOUT):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", process.port)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                await writer.wait_closed()
                return
