"""Locks on files (flock), which the kernel lets go of when their holder dies. Never inherited by programs we start,
but for the one that is handed to the server on purpose."""

import fcntl
import os
import time
from enum import IntEnum
from pathlib import Path

POLL_SECONDS = 0.02


class Hold(IntEnum):
    """How a lock is held: by any number together, or by one alone."""

    SHARED = fcntl.LOCK_SH
    ALONE = fcntl.LOCK_EX


def try_lock(path: Path, hold: Hold) -> int | None:
    """A file descriptor that holds the lock until it is closed, or None if somebody else has it."""
    while True:
        file = _open_lock(path)
        try:
            fcntl.flock(file, hold | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        if is_in_place(file, path):
            return file
        os.close(file)  # the directory was deleted and made anew in between: this lock is nobody's any more


def block_on_lock(path: Path, hold: Hold) -> int:
    """As try_lock, asleep in the kernel until the lock is free. The file at `path` may be another one by then."""
    file = _open_lock(path)
    fcntl.flock(file, hold)
    return file


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock. It is taken for a moment to find out.

    Makes no file where there is none: whoever deletes the directory meanwhile would find it not empty.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, Hold.ALONE | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


def is_in_place(file: int, path: Path) -> bool:
    """Whether an open file is still the one at its path."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def pause() -> None:
    """The time between two looks at something that tells nobody when it changes."""
    time.sleep(POLL_SECONDS)


def _open_lock(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:
        # Made by root in somebody's directory, it must not lock that somebody out afterwards.
        owner = path.parent.stat()
        os.fchown(file, owner.st_uid, owner.st_gid)
    return file
