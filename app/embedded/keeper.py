"""The small process that outlives the server's users and stops it after the last of them.

It waits in the kernel for the users' lock, which it gets when nobody holds it any more, whether they released it, ended
or were killed. It launches the server too, so that the server is nobody else's child.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from app.embedded.account import Account, clean_environment
from app.embedded.directory import Directory
from app.embedded.locks import Hold, block_on_lock, is_in_place, try_lock
from app.embedded.postmaster import stop_server

# A fast stop writes a checkpoint, which takes its time on a slow disk. After an immediate one the next start recovers.
PLAN = ((signal.SIGINT, 60.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0))


def main(arguments: list[str]) -> None:
    """Arguments: the data directory, and where the server is to be launched too, how, as JSON.

    Returns when a process of its own has launched the server and keeps it, or exits with 1 and a reason on stderr.
    """
    directory = Directory(Path(arguments[0]))
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        _keep(directory, json.loads(arguments[1]) if len(arguments) > 1 else None, writing)
        return
    os.close(writing)
    with os.fdopen(reading) as report:
        reason = report.read()
    if reason != "ready":
        sys.exit(reason or "its process ended")


def _keep(directory: Directory, launch: dict[str, Any] | None, report: int) -> None:
    try:
        keeping = try_lock(directory.keeper_lock, Hold.ALONE)
        if launch is not None:
            _launch(launch)
    except OSError as error:
        os.write(report, str(error).encode())
        return
    _leave_terminal()
    os.write(report, b"ready")
    os.close(report)
    if keeping is None:
        return  # there is another keeper; this was only about launching
    users = block_on_lock(directory.users_lock, Hold.ALONE)
    # If the directory was deleted and made anew, the server in it is another one, with its own users. The old one
    # ends by itself, as PostgreSQL does when its postmaster.pid is gone.
    with contextlib.suppress(OSError):
        if is_in_place(users, directory.users_lock):
            stop_server(directory, PLAN)
    # In this order: who comes next sees the users' lock free only when it's plain that there is no keeper.
    os.close(keeping)
    os.close(users)


def _launch(launch: dict[str, Any]) -> None:
    account = Account(**launch["account"])
    uid, gid, groups = account.switch()
    server = subprocess.Popen(  # noqa: S603 - a program of an installation, nothing from outside
        [*account.precede(), *launch["arguments"]],
        stdin=subprocess.DEVNULL,
        stdout=launch["log"],
        stderr=launch["log"],
        cwd="/",
        env=clean_environment(),
        start_new_session=True,
        pass_fds=(launch["server_lock"],),
        user=uid,
        group=gid,
        extra_groups=groups,
    )
    server.returncode = 0  # nobody waits for it, and Popen needs no reminding
    os.close(launch["log"])
    os.close(launch["server_lock"])


def _leave_terminal() -> None:
    """Depend on nothing of whoever started this: no terminal, no directory, no signal meant for it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # A server that ended must not linger as a child nobody waited for: its number would look alive.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)
