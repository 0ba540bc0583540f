"""A client's program, run in a process of its own, and what it says: a line of JSON for each thing that it saw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from tests.conftest import make_environ

LONGEST_LINE = 16 * 1024 * 1024


class Program:
    """A program that runs. It's told to go on by a line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def read(self, seconds: float = 120) -> Any:
        """The next thing that it says. Fails with its own words when it ends instead."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        async with asyncio.timeout(seconds):
            line = await self._process.stdout.readline()
            assert line, (await self._process.stderr.read()).decode()
        return msgspec.json.decode(line)

    async def go_on(self) -> None:
        """Lets it go on where it waits."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        await self._process.stdin.drain()


@asynccontextmanager
async def run_program(*command: str | Path, cwd: Path | None = None) -> AsyncIterator[Program]:
    """Runs it for as long as the block lasts, at whose end it must have ended well."""
    pipe = asyncio.subprocess.PIPE
    environ = make_environ(NO_PROXY="127.0.0.1")
    process = await asyncio.create_subprocess_exec(
        *map(str, command), cwd=cwd, env=environ, stdin=pipe, stdout=pipe, stderr=pipe, limit=LONGEST_LINE
    )
    try:
        yield Program(process)
        async with asyncio.timeout(60):
            _, said = await process.communicate()
        assert process.returncode == 0, said.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
