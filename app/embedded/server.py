"""Opening and releasing a share in the embedded server."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from app.embedded.account import choose_account
from app.embedded.cluster import choose_installation, make_cluster, read_cluster_major
from app.embedded.directory import (
    PORT,
    Directory,
    make_directory,
    make_socket_dir,
    name_socket_dir,
    read_record,
    write_record,
)
from app.embedded.installations import Installation
from app.embedded.locks import Hold, is_free, pause, try_lock
from app.embedded.postmaster import (
    Answer,
    ask_server,
    find_log_reason,
    forget_stale_postmaster,
    launch_server,
    read_postmaster,
    start_keeper,
    stop_server,
)
from app.errors import EmbeddedServerError

SILENCE_SECONDS = 60.0  # how long a server may run without answering at all; one that is recovering is waited for
STOP_SECONDS = 90.0  # longer than a keeper takes to stop a server by all means it has
RELEASE_SECONDS = 20.0
PROGRESS_SECONDS = 1.0

Progress = Callable[[str], None]


@dataclass
class EmbeddedServer:
    """A share in the running server. Also a context manager, which releases it.

    `dsn` is a URL for asyncpg, psql and pg_dump; `description` is a sentence for people; `started` says whether this
    share started the server or joined one that was running. The share ends with the process if nobody releases it.
    """

    dsn: str
    installation: Installation
    description: str
    started: bool
    _directory: Directory
    _share: int | None
    _holder: int

    def release(self) -> None:
        """Give the share back. If nobody else has one, the server has stopped on return, or is left to its keeper after
        RELEASE_SECONDS. May be called again, and from a forked child, where it does nothing to the parent's share."""
        share, self._share = self._share, None
        if share is None:
            return
        os.close(share)
        if self._holder == os.getpid():
            with contextlib.suppress(OSError):  # the directory is gone, and so is what there was to stop
                _stop_unused(self._directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def open_embedded(data_dir: Path, pg_bin: Path | None = None, *, progress: Progress | None = None) -> EmbeddedServer:
    """A share in the server on `data_dir`, which is made and started if need be, and ready for connections.

    `pg_bin` is the directory of PostgreSQL's programs to use; without it a local PostgreSQL with TimescaleDB is
    preferred to the wheel. It doesn't matter to a server that runs already. `progress` is told, in a short sentence,
    of whatever takes over a second. Raises EmbeddedServerError, in one sentence, if there can be no server.
    """
    directory = make_directory(data_dir)
    tell = progress or _tell_nobody
    try:
        share = _take_share(directory, tell)
        try:
            return _open(directory, pg_bin, tell, share)
        except BaseException as error:
            os.close(share)
            if isinstance(error, Exception):  # Ctrl+C doesn't wait for what the keeper does by itself
                _stop_unused(directory)
            raise
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise EmbeddedServerError(
            f"PostgreSQL could not be opened in {directory.root}: {error.strerror or error}{where}."
        ) from error


def _open(directory: Directory, pg_bin: Path | None, tell: Progress, share: int) -> EmbeddedServer:
    with _hold_start(directory, tell):
        while (server_lock := try_lock(directory.server_lock, Hold.ALONE)) is None:
            # One runs, or is on its way up or down, or an initdb is left over from somebody who was killed.
            if _wait_for_answer(directory, "Waiting for PostgreSQL.", tell):
                if is_free(directory.keeper_lock):  # its keeper was killed
                    start_keeper(directory)
                installation = read_record(directory) or choose_installation(directory, pg_bin)
                return _make_share(directory, installation, share, started=False)
        try:
            installation = choose_installation(directory, pg_bin)
            doing = f"Starting PostgreSQL {installation.version}."
            if (directory.cluster / "postmaster.pid").exists():
                doing = "Recovering the database after an unclean stop."
            logged = _start(directory, installation, tell, server_lock)
        finally:
            os.close(server_lock)
        if not _wait_for_answer(directory, doing, tell):
            raise EmbeddedServerError(
                f"PostgreSQL {installation.version} ({installation.origin}) did not start in {directory.cluster}:"
                f" {find_log_reason(directory.log, logged)}"
            )
        return _make_share(directory, installation, share, started=True)


def _start(directory: Directory, installation: Installation, tell: Progress, server_lock: int) -> int:
    """Make the cluster if it isn't there, and launch the server on it. Returns how long the log was before."""
    account = choose_account(directory.cluster, installation.bin_dir)
    if read_cluster_major(directory) is None:
        tell(f"Making a database with PostgreSQL {installation.version} in {directory.cluster}.")
        make_cluster(directory, installation, account, server_lock=server_lock)
    forget_stale_postmaster(directory.cluster)
    socket_dir = name_socket_dir(directory)
    make_socket_dir(socket_dir, account.uid, account.gid)
    write_record(directory, installation)
    return launch_server(directory, installation, account, socket_dir, server_lock=server_lock)


def _wait_for_answer(directory: Directory, doing: str, tell: Progress) -> bool:
    """Wait until the server accepts connections. False if there is none any more. Raises EmbeddedServerError if one
    runs and says nothing."""
    wait = _Patience(doing, tell, SILENCE_SECONDS)
    while not is_free(directory.server_lock):
        noted = read_postmaster(directory.cluster)
        answer = ask_server(noted) if noted else Answer.NONE
        if answer is Answer.READY:
            return True
        if answer is Answer.STARTING:
            wait.renew()
        if not wait():
            number = f" with the process number {noted.pid}" if noted else ""
            raise EmbeddedServerError(
                f"The PostgreSQL{number} on {directory.cluster} runs, and doesn't answer: end it and try again."
            )
    return False


def _make_share(directory: Directory, installation: Installation, share: int, *, started: bool) -> EmbeddedServer:
    noted = read_postmaster(directory.cluster)
    socket_dir = noted.socket_dir if noted else name_socket_dir(directory)
    timescaledb = "with TimescaleDB" if installation.timescaledb else "no TimescaleDB"
    return EmbeddedServer(
        dsn=f"postgresql://aurum@/aurum?host={socket_dir}&port={PORT}",
        installation=installation,
        description=f"Embedded PostgreSQL {installation.version} ({installation.origin}, {timescaledb}) in"
        f" {directory.cluster}.",
        started=started,
        _directory=directory,
        _share=share,
        _holder=os.getpid(),
    )


def _take_share(directory: Directory, tell: Progress) -> int:
    wait = _Patience("Waiting for PostgreSQL to stop before it is started again.", tell, STOP_SECONDS)
    while (share := try_lock(directory.users_lock, Hold.SHARED)) is None:
        if not wait():
            raise EmbeddedServerError(
                f"The PostgreSQL on {directory.cluster} has been stopping for {STOP_SECONDS:.0f} seconds: look into"
                f" {directory.log}."
            )
    return share


@contextlib.contextmanager
def _hold_start(directory: Directory, tell: Progress) -> Iterator[None]:
    """Be the only one to look whether the server runs, and to start it. Whoever is at it is waited for: it is bounded
    itself, and its lock ends with it."""
    wait = _Patience("Waiting for another process that is starting PostgreSQL.", tell, float("inf"))
    while (start := try_lock(directory.start_lock, Hold.ALONE)) is None:
        wait()
    try:
        yield
    finally:
        os.close(start)


def _stop_unused(directory: Directory) -> None:
    """Stop the server unless somebody uses it; give up after RELEASE_SECONDS."""
    deadline = time.monotonic() + RELEASE_SECONDS
    # One at a time: two who look at once would each take the other for a user.
    while (looking := try_lock(directory.release_lock, Hold.ALONE)) is None:
        if time.monotonic() > deadline:
            return
        pause()
    try:
        while time.monotonic() < deadline:
            if (alone := try_lock(directory.users_lock, Hold.ALONE)) is not None:
                try:
                    stop_server(directory, [(signal.SIGINT, deadline - time.monotonic())])
                finally:
                    os.close(alone)
                return
            if (together := try_lock(directory.users_lock, Hold.SHARED)) is not None:
                os.close(together)  # others use it
                return
            pause()  # its keeper is stopping it
    finally:
        os.close(looking)


class _Patience:
    """Waits a moment each time it is called. Tells of it once, after a second; False when the time is up."""

    def __init__(self, doing: str, tell: Progress, seconds: float) -> None:
        self._doing, self._tell, self._seconds = doing, tell, seconds
        self._told = False
        self._began = time.monotonic()
        self.renew()

    def renew(self) -> None:
        self._deadline = time.monotonic() + self._seconds

    def __call__(self) -> bool:
        now = time.monotonic()
        if not self._told and now - self._began > PROGRESS_SECONDS:
            self._told = True
            self._tell(self._doing)
        pause()
        return now < self._deadline


def _tell_nobody(_sentence: str) -> None:
    pass
