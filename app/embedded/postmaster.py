"""The running server: asking it, launching it, stopping it, and what its log says."""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path

import app
from app.embedded.account import Account, clean_environment
from app.embedded.directory import PORT, Directory, open_log, remove_socket_dir
from app.embedded.installations import Installation
from app.embedded.locks import is_free, pause
from app.errors import EmbeddedServerError

# What the keeper's process runs. Isolated from the user's environment and from site-packages: it needs none of them,
# and starts in a third of the time.
KEEPER = "import sys; sys.path.insert(0, sys.argv[1]); from app.embedded.keeper import main; main(sys.argv[2:])"
PROTOCOL = 196608  # 3.0
CANNOT_CONNECT_NOW = b"C57P03\x00"


class Answer(Enum):
    """What the server says to somebody who wants to connect."""

    READY = "ready"
    STARTING = "starting or recovering"
    NONE = "nobody listens, or it is stopping"


@dataclass(frozen=True)
class Postmaster:
    """What a server notes of itself in its data directory. Stale after a crash."""

    pid: int
    socket_dir: Path
    status: str


def read_postmaster(cluster: Path) -> Postmaster | None:
    """What the cluster's postmaster.pid says, or None where there is none, or not yet a whole one."""
    try:
        lines = (cluster / "postmaster.pid").read_text(errors="surrogateescape").splitlines()
        return Postmaster(int(lines[0]), Path(lines[4]), "".join(lines[7:8]).strip() or "starting")
    except (OSError, ValueError, IndexError):
        return None


def ask_server(noted: Postmaster) -> Answer:
    """Whether the server that noted this accepts connections."""
    words = b"user\x00aurum\x00database\x00aurum\x00\x00"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, contextlib.suppress(OSError):
        connection.settimeout(5)
        connection.connect(str(noted.socket_dir / f".s.PGSQL.{PORT}"))
        if noted.status == "starting":
            return Answer.STARTING  # it listens, and would log a FATAL line for asking more
        connection.sendall(struct.pack("!ii", 8 + len(words), PROTOCOL) + words)
        answer = connection.recv(1024)
        if answer.startswith(b"R"):
            connection.sendall(struct.pack("!ci", b"X", 4))
        if answer and CANNOT_CONNECT_NOW not in answer:
            return Answer.READY  # or an error such as too many connections: it is up
    return Answer.NONE


def list_arguments(cluster: Path, installation: Installation, socket_dir: Path) -> list[str]:
    """The server's command line. Given there, these settings hold whatever postgresql.conf says."""
    settings = {
        "listen_addresses": "",
        "port": str(PORT),
        "unix_socket_directories": str(socket_dir),
        "unix_socket_permissions": "0700",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_destination": "stderr",
        "logging_collector": "off",
    }
    if installation.timescaledb:
        settings |= {
            "shared_preload_libraries": "timescaledb",
            "timescaledb.telemetry_level": "off",
            "max_worker_processes": "32",  # each database with the extension takes one of these for its scheduler
        }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return [str(installation.bin_dir / "postgres"), "-D", str(cluster), *options]


def start_keeper(directory: Directory) -> None:
    """Start the process that stops the server after its last user. Raises EmbeddedServerError or OSError."""
    _run_keeper(directory, [])


def launch_server(
    directory: Directory, installation: Installation, account: Account, socket_dir: Path, *, server_lock: int
) -> int:
    """Launch the server with its keeper, handing it `server_lock`, which stays open here too.

    Returns how long the log was before, so that what is said since can be found. Raises EmbeddedServerError or OSError.
    """
    arguments = list_arguments(directory.cluster, installation, socket_dir)
    log = open_log(directory)
    try:
        logged = os.fstat(log).st_size
        launch = {"arguments": arguments, "account": asdict(account), "log": log, "server_lock": server_lock}
        _run_keeper(directory, [json.dumps(launch)], pass_fds=(log, server_lock))
    finally:
        os.close(log)
    return logged


def _run_keeper(directory: Directory, words: list[str], pass_fds: Sequence[int] = ()) -> None:
    place = str(Path(app.__path__[0]).resolve().parent)
    # In a session of its own from its first moment, so that a Ctrl+C meant for us doesn't reach it or the server.
    done = subprocess.run(  # noqa: S603 - this very program
        [sys.executable, "-I", "-S", "-c", KEEPER, place, str(directory.root), *words],
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env=clean_environment(),  # it lives on, and has no use for what may be secret in ours
        pass_fds=pass_fds,
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise EmbeddedServerError(f"The process that keeps PostgreSQL for {directory.root} could not start: {reason}.")


def stop_server(directory: Directory, plan: Sequence[tuple[signal.Signals, float]]) -> bool:
    """Stop the server: each of the plan's signals in turn, with the seconds it is given. Says whether it has ended.

    Only for whoever holds the users' lock alone.
    """
    noted = read_postmaster(directory.cluster)
    for number, seconds in plan:
        deadline = time.monotonic() + seconds
        told = None
        while not (free := is_free(directory.server_lock)) and time.monotonic() < deadline:
            # Looked up again each time: one that has only just been launched hasn't noted its number yet.
            noted = read_postmaster(directory.cluster) or noted
            if noted and noted.pid != told and _is_postmaster_of(noted.pid, directory.cluster):
                told = noted.pid
                with contextlib.suppress(OSError):
                    os.kill(told, number)
            pause()
        if free:
            if noted:
                with contextlib.suppress(OSError):
                    remove_socket_dir(directory, noted.socket_dir)
            return True
    return False


def forget_stale_postmaster(cluster: Path) -> None:
    """Remove the postmaster.pid of a server that is gone, if its number now belongs to another process: PostgreSQL
    would take that one for a server. Only for whoever holds the server's lock."""
    noted = read_postmaster(cluster)
    if noted is not None and not _may_be_postmaster_of(noted.pid, cluster):
        (cluster / "postmaster.pid").unlink(missing_ok=True)


def find_log_reason(log: Path, since: int) -> str:
    """The last thing in the log, from a place on, that says why the server ended."""
    with log.open("rb") as opened:
        opened.seek(since)
        lines = [line.strip() for line in opened.read().decode(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL:" in line or "PANIC:" in line]
    return (telling or lines or ["it said nothing"])[-1]


def _is_postmaster_of(pid: int, cluster: Path) -> bool:
    """Whether a process is the server on a cluster, as launched here."""
    return f" -D {cluster} -c " in " ".join(_read_command(pid))


def _may_be_postmaster_of(pid: int, cluster: Path) -> bool:
    """Whether a process could be a server on a cluster, perhaps one that somebody started by hand."""
    command = _read_command(pid)
    if not command or Path(command[0]).name not in {"postgres", "postmaster"}:
        return False
    named = [Path(after) for word, after in pairwise(command) if word == "-D"]
    return not any(path.is_absolute() and path != cluster for path in named)


def _read_command(pid: int) -> list[str]:
    """A process's command line; nothing where there is no such process."""
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\x00")
    except OSError:
        if Path("/proc/self").exists():
            return []
    command = ["/bin/ps", "-o", "command=", "-p", str(pid)]  # macOS
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()  # noqa: S603 - a program of an installation
