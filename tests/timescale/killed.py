"""Runs a project's migrations in processes of their own, each killed with SIGKILL at one of its statements.

    python -m tests.timescale.killed URL FOLDER

Each line of stdin is one run: forwards or backwards, the migration to go back to, the number of a statement, and when it
strikes: "after" it is answered, or as soon as it is "sent", which holds for statements that are sent whole (COMMIT is one).
Statements that only read don't count: what follows from a kill after them follows from one before. A line of stdout says
what became of it: "killed at" and the statement, or "done". A process is forked for each, so none has anything to import.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.timescale.project import Project

_READ = re.compile(r"\s*SELECT (?!pg_try_advisory|pg_advisory|set_config)")


class Fate:
    """Where the process ends: at the statement of this number."""

    number = 0
    moment = "after"
    seen = 0
    report: int

    @classmethod
    async def meet(cls, statement: str, answer: Coroutine[Any, Any, Any], *, whole: bool) -> Any:
        """Waits for an answer, which may never come."""
        if (cls.moment == "sent" and not whole) or _READ.match(statement):
            return await answer
        cls.seen += 1
        strikes = cls.seen == cls.number
        if strikes:
            os.write(cls.report, f"killed at {' '.join(statement.split())[:80]}\n".encode())
        if strikes and cls.moment == "sent":
            asking = asyncio.ensure_future(answer)
            await asyncio.sleep(0)  # in which it writes to the socket
            os.kill(os.getpid(), signal.SIGKILL)
            await asking
        result = await answer
        if strikes:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


class MortalConnection(asyncpg.Connection):
    """A connection that tells of every statement."""

    async def execute(self, query: str, *arguments: Any, **options: Any) -> str:
        answer = super().execute(query, *arguments, **options)
        return str(await answer if arguments else await Fate.meet(query, answer, whole=True))

    async def _execute(self, query: str, *arguments: Any, **options: Any) -> Any:
        answer = super()._execute(query, *arguments, **options)  # type: ignore[misc]  # asyncpg's own, which every fetch goes through
        return await Fate.meet(query, answer, whole=False)

    async def _executemany(self, query: str, *arguments: Any, **options: Any) -> Any:
        answer = super()._executemany(query, *arguments, **options)  # type: ignore[misc]  # as above
        return await Fate.meet(query, answer, whole=False)


async def run(url: str, folder: str, direction: str, migration_id: str) -> None:
    """One run, with whatever it says swallowed."""
    project = Project(Path(folder), url, pytest.MonkeyPatch())
    project.engine.config["connection_class"] = MortalConnection
    with contextlib.redirect_stdout(io.StringIO()):
        await (project.forwards() if direction == "forwards" else project.backwards(migration_id))


def main() -> None:
    """As the module says."""
    url, folder = sys.argv[1:]
    for line in sys.stdin:
        direction, migration_id, number, moment = line.split()
        reading, writing = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(reading)
            Fate.number, Fate.moment, Fate.report = int(number), moment, writing
            try:
                asyncio.run(run(url, folder, direction, migration_id))
                os.write(writing, b"done\n")
            except BaseException as error:  # noqa: BLE001 - the parent is to know of any
                os.write(writing, f"failed: {error!r}\n".encode())
            os._exit(0)
        os.close(writing)
        os.waitpid(process, 0)
        with os.fdopen(reading) as said:
            sys.stdout.write(said.readline() or "ended without a word\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
