"""A PostgreSQL of a test's own."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

from app.embedded import find_installation, open_embedded
from app.embedded.directory import Directory
from app.embedded.postmaster import read_postmaster
from tests.conftest import run_command


class OwnPostgres:
    """A PostgreSQL of the test's own, which can be killed and started again on the same data."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._directory = Directory(root)
        self._stack = ExitStack()
        self.url = ""

    async def start(self) -> None:
        """Starts it where it doesn't run; recovers what a kill has left."""
        bin_dir = find_installation(None, timescale=False).bin_dir
        server = await asyncio.to_thread(open_embedded, self._root, bin_dir)
        self._stack.enter_context(server)
        self.url = server.dsn

    async def stop(self) -> None:
        await asyncio.to_thread(self._stack.close)

    @property
    def pid(self) -> int:
        noted = read_postmaster(self._directory.cluster)
        assert noted is not None
        return noted.pid

    @property
    def is_running(self) -> bool:
        noted = read_postmaster(self._directory.cluster)
        return noted is not None and Path(f"/proc/{noted.pid}").exists()

    def list_backends(self) -> list[int]:
        found = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in found.split()]

    def kill(self) -> None:
        """All of it at once."""
        pids = [self.pid, *self.list_backends()]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def run_postgres(root: Path) -> AsyncIterator[OwnPostgres]:
    """One with every migration applied, for as long as the block lasts."""
    postgres = OwnPostgres(root)
    await postgres.start()
    try:
        done = await asyncio.to_thread(
            run_command, "piccolo", "migrations", "forwards", "app", database_url=postgres.url
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield postgres
    finally:
        await postgres.stop()
