"""PostgreSQL's own pg_dump, pg_restore and psql: which ones there are here, how they reach a database, what they said.

No password is ever among their arguments, and what they say in an error is cut down to one line without SQL.
"""

from __future__ import annotations

import asyncio
import re
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import TypeVar

from app.embedded.installations import ask_program, list_places, list_wheel_places, read_major
from app.errors import ProgramsMissing

Pipe = TypeVar("Pipe", StreamReader, StreamWriter)

NAMES = ("pg_dump", "pg_restore", "psql")

_LONGEST_LINE = 16 * 1024 * 1024  # bytes; psql quotes the statement that failed
_REASON = re.compile(r"(?:error|ERROR|FATAL):\s+(.*)$")


@dataclass(frozen=True)
class Programs:
    """The programs of one PostgreSQL, in one folder."""

    bin_dir: Path
    version: str

    @property
    def major(self) -> int:
        return read_major(self.version)

    def __getitem__(self, name: str) -> str:
        """The path of one of NAMES."""
        return str(self.bin_dir / name)


def choose_programs(pg_bin: Path | None, least: int, reason: str) -> Programs:
    """The programs of major version `least`, or else of the next one there is; only those in `pg_bin` where it is given.

    Raises ProgramsMissing; `reason` says in it what asks for that version.
    """
    places = [pg_bin] if pg_bin is not None else [*list_places(), *list_wheel_places()]
    found = [programs for place in places if (programs := _inspect(place)) is not None]
    usable = [programs for programs in found if programs.major >= least]
    if usable:
        return min(usable, key=lambda programs: programs.major)
    have = ", ".join(f"{programs.version} in {programs.bin_dir}" for programs in found) or "none"
    raise ProgramsMissing(
        f"{reason} asks for pg_dump, pg_restore and psql of PostgreSQL {least} or later, and here there is {have}: install "
        f"PostgreSQL's client programs (Debian: postgresql-client-{least}), or set AURUM_PG_BIN to the folder that has them."
    )


def _inspect(bin_dir: Path) -> Programs | None:
    # Debian's /usr/bin has a script under each of these names, which goes by settings of its own.
    if not all((bin_dir / name).exists() and (bin_dir / name).resolve().name == name for name in NAMES):
        return None
    version = re.search(r"\(PostgreSQL\) (\S+)", "".join(ask_program(bin_dir / "pg_dump", "--version")))
    return Programs(bin_dir.absolute(), version.group(1)) if version else None


class Run:
    """A program that runs."""

    def __init__(self, process: Process, on_line: Callable[[str], None] | None) -> None:
        self.process = process
        self._reason: str | None = None
        self._last_line = "it did not say why"
        self._reading = asyncio.create_task(self._read(on_line))

    @property
    def stdin(self) -> StreamWriter:
        """Its standard input, where that is a pipe."""
        return _require(self.process.stdin)

    @property
    def stdout(self) -> StreamReader:
        """Its standard output, where that is a pipe."""
        return _require(self.process.stdout)

    async def finish(self) -> str | None:
        """Waits until it ends; why it failed, on one line, or None if it didn't."""
        await self.process.wait()
        await self._reading
        status = self.process.returncode
        if status is not None and status < 0:
            return f"it was ended by {Signals(-status).name}, for want of memory perhaps, or of room"
        return None if status == 0 else (self._reason or self._last_line).rstrip(".")

    async def _read(self, on_line: Callable[[str], None] | None) -> None:
        async for line in _require(self.process.stderr):
            text = line.decode(errors="replace").strip()
            if text:
                self._last_line = text
            # The first is the cause; what follows it may quote statements and rows.
            if self._reason is None and (told := _REASON.search(text)) is not None:
                self._reason = " ".join(told.group(1).split())
            if on_line is not None:
                on_line(text)


def _require(pipe: Pipe | None) -> Pipe:
    if pipe is None:
        raise RuntimeError("the program was started without this pipe")
    return pipe


@asynccontextmanager
async def run_program(
    *command: str,
    environment: Mapping[str, str],
    stdin: int = DEVNULL,
    stdout: int = DEVNULL,
    on_line: Callable[[str], None] | None = None,
) -> AsyncIterator[Run]:
    """Starts a program, whose messages are in English; it doesn't outlive the block.

    `on_line` gets each line of its standard error.
    """
    process = await asyncio.create_subprocess_exec(
        *command, env={**environment, "LC_ALL": "C"}, stdin=stdin, stdout=stdout, stderr=PIPE, limit=_LONGEST_LINE
    )
    run = Run(process, on_line)
    try:
        yield run
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await run.finish()
