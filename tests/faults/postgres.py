"""A PostgreSQL of a test's own."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from app.embedded import find_installation, open_embedded
from app.embedded.directory import Directory
from app.embedded.postmaster import read_postmaster
from tests.conftest import run_command
from tests.faults.clock import WallClock


class OwnPostgres:
    """A PostgreSQL of the test's own, which can be killed and started again on the same data."""

    def __init__(self, root: Path, bin_dir: Path) -> None:
        self._root = root
        self._bin_dir = bin_dir
        self._directory = Directory(root)
        self._stack = ExitStack()
        self.url = ""

    async def start(self) -> None:
        """Starts it where it doesn't run; recovers what a kill has left."""
        server = await asyncio.to_thread(open_embedded, self._root, self._bin_dir)
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
        return list_children(self.pid)

    def kill(self) -> None:
        """All of it at once."""
        for pid in self._stop_all():
            os.kill(pid, signal.SIGKILL)

    @contextmanager
    def hang(self) -> Iterator[None]:
        """Within the block it keeps its connections, takes more, and answers none."""
        pids = self._stop_all()
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def _stop_all(self) -> list[int]:
        """Has all its processes stand still, the one first that would make others, and says which they are."""
        pid = self.pid
        stop_process(pid)
        # Those that were about to end are waited for by nobody now, and stay.
        return [pid, *(child for child in list_children(pid) if stop_process(child))]


def list_children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def stop_process(pid: int) -> bool:
    """Has it stand still; comes back when it does, or with False when it has ended."""
    os.kill(pid, signal.SIGSTOP)
    while (state := Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]) not in {"T", "Z"}:
        time.sleep(0.001)
    return state == "T"


def wrap_postgres(bin_dir: Path, folder: Path, clock: WallClock) -> Path:
    """The same programs, of which the server goes by that clock: its environment is otherwise kept clean."""
    folder.mkdir()
    for program in bin_dir.iterdir():
        (folder / program.name).symlink_to(program)
    server = folder / "postgres"
    server.unlink()
    exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in clock.environ.items())
    server.write_text(f'#!/bin/sh\n{exports}\nexec {shlex.quote(str(bin_dir / "postgres"))} "$@"\n', encoding="utf-8")
    server.chmod(0o755)
    return folder


@asynccontextmanager
async def run_postgres(root: Path, clock: WallClock | None = None) -> AsyncIterator[OwnPostgres]:
    """One with every migration applied, for as long as the block lasts; by that clock, where one is given."""
    bin_dir = find_installation(None, timescale=False).bin_dir
    if clock is not None:
        bin_dir = await asyncio.to_thread(wrap_postgres, bin_dir, root.with_suffix(".bin"), clock)
    postgres = OwnPostgres(root, bin_dir)
    await postgres.start()
    try:
        done = await asyncio.to_thread(
            run_command, "piccolo", "migrations", "forwards", "app", database_url=postgres.url
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield postgres
    finally:
        await postgres.stop()
