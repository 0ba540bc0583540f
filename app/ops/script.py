"""pg_restore's script into psql, which stops at the first statement that fails.

pg_restore could write to the database by itself, but TimescaleDB's preparations hold for the session that restores, and a
pg_restore of PostgreSQL 17 or later begins with a setting that an older server doesn't know.
"""

from __future__ import annotations

import os
from asyncio import IncompleteReadError, StreamReader, StreamWriter
from asyncio.subprocess import PIPE
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from app.console import Bar
from app.errors import RestoreFailed
from app.ops.programs import Programs, run_program

_HEAD = 4096  # bytes; the settings are within, and no data
_BLOCK = 256 * 1024  # bytes
_NEW_SETTINGS = {17: b"SET transaction_timeout = 0;\n"}  # and the major version that first knew it

_PSQL = ("--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", f"--output={os.devnull}", "--file=-")


async def run_script(
    programs: Programs,
    environment: Mapping[str, str],
    dump: Path,
    options: Sequence[str],
    *,
    prologue: str,
    server_major: int,
    show: Bar,
    size: int,
) -> None:
    """Runs the prologue and all that is in the dump in one session; `show` is told of bytes of about `size`.

    `options` are pg_restore's. Raises RestoreFailed.
    """
    command = (programs["pg_restore"], "--file=-", *options, str(dump))
    async with (
        run_program(programs["psql"], *_PSQL, environment=environment, stdin=PIPE) as psql,
        run_program(*command, environment=os.environ, stdout=PIPE) as pg_restore,
    ):
        try:
            psql.stdin.write(prologue.encode())
            await _copy(pg_restore.stdout, psql.stdin, server_major, lambda done: show(min(done, size), size))
            if reason := await pg_restore.finish():
                raise RestoreFailed(_explain(f"pg_restore {programs.version}: {reason}"))
            psql.stdin.close()
        except ConnectionError:
            pass  # psql has ended, and says why
        if reason := await psql.finish():
            raise RestoreFailed(_explain(reason))


async def _copy(source: StreamReader, sink: StreamWriter, server_major: int, show: Callable[[int], None]) -> None:
    try:
        head = await source.readexactly(_HEAD)
    except IncompleteReadError as error:
        head = error.partial
    for major, setting in _NEW_SETTINGS.items():
        if server_major < major:
            head = head.replace(setting, b"", 1)
    sink.write(head)
    done = len(head)
    while block := await source.read(_BLOCK):
        sink.write(block)
        await sink.drain()
        done += len(block)
        show(done)


def _explain(reason: str) -> str:
    return (
        f"The restore stopped, and the database is not whole: {reason}. When that is mended, restore again: it begins anew "
        "by itself."
    )
