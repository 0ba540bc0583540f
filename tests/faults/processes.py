"""The service as a process of its own, which can be killed, and what the system knows of it."""

from __future__ import annotations

import asyncio
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.client import ServiceClient
from tests.conftest import ROOT, make_environ
from tests.ports import find_free_port
from tests.test_ingest import Connection, reading
from tests.test_intake import at, count

# AURUM_TEST_STALL says after how many seconds a body is given up that stops arriving.
SERVE = """
import os, sys, uvicorn
from app.ingest import stall
stall.STALL = float(os.environ.get("AURUM_TEST_STALL", stall.STALL))
uvicorn.run("app.main:create_app", factory=True, port=int(sys.argv[1]), log_level="error", timeout_graceful_shutdown=2)
"""


needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")

MOST_GROWTH = 20  # MB, by which a process may have grown after a fault
POOL = 3  # connections to the database


class ServiceProcess:
    """One server process on one port. `start` after `kill` makes another one in its place.

    With `log` it writes JSON there, from warnings on; `variables` are of its environment.
    """

    def __init__(self, database_url: str, *, log: Path | None = None, **variables: str) -> None:
        self.port = find_free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        levels = {"AURUM_LOG_LEVEL": "error" if log is None else "warning", "AURUM_LOG_FORMAT": "json"}
        self._environ = make_environ(DATABASE_URL=database_url, **{**levels, **variables})
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Comes back when it is ready."""
        command = [sys.executable, "-c", SERVE, str(self.port)]
        with ExitStack() as stack:
            log = None if self._log is None else stack.enter_context(self._log.open("ab"))
            self._process = subprocess.Popen(command, cwd=ROOT, env=self._environ, stderr=log)  # noqa: ASYNC220 - doesn't wait
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE, (most, most))
        await self.wait_until_ready()

    async def wait_until_ready(self) -> None:
        async with httpx.AsyncClient(trust_env=False, base_url=self.url, timeout=30) as http, asyncio.timeout(120):
            while True:
                assert self.is_running
                try:
                    if (await http.get("/health/ready")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.02)

    def read_log(self) -> list[dict[str, Any]]:
        """The lines that it has written; one that it's at is left out."""
        assert self._log is not None
        whole = self._log.read_bytes().rpartition(b"\n")[0]
        return [msgspec.json.decode(line) for line in whole.splitlines()]

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Comes back when it is gone."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)

    def read_memory(self) -> float:
        """Resident, in MB."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1024

    def count_files(self) -> int:
        """Open file descriptors."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())


@asynccontextmanager
async def run_process(database_url: str, *, log: Path | None = None, **variables: str) -> AsyncIterator[ServiceProcess]:
    """A server process for as long as the block lasts."""
    process = ServiceProcess(database_url, log=log, **variables)
    try:
        await process.start()
        yield process
    finally:
        process.kill()


async def register(process: ServiceProcess, *machine_ids: str) -> None:
    async with ServiceClient(process.url) as client:
        await client.register(*machine_ids)


@asynccontextmanager
async def unharmed(process: ServiceProcess, database: Connection) -> AsyncIterator[None]:
    """After the block the service answers as before, and keeps no connection, no memory and no transaction of it."""
    memory, files = process.read_memory(), process.count_files()
    yield
    async with asyncio.timeout(60):
        while process.count_files() > files + POOL or await count_busy(database):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.02)
    async with ServiceClient(process.url) as client:
        answers = await asyncio.gather(*(client.ingest(reading("PROBE", at(0))) for _ in range(2 * POOL)))
        assert answers == [count(duplicates=1)] * 2 * POOL
        ready = await asyncio.gather(*(client.http.get("/health/ready") for _ in range(2 * POOL)))
        assert {answer.status_code for answer in ready} == {200}
    assert process.read_memory() < memory + MOST_GROWTH


async def count_busy(database: Connection) -> int:
    return int(
        await database.fetchval(
            """
            SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'aurumai' AND state <> 'idle'
            """
        )
    )
