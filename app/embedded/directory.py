"""What lies where in AURUM_DATA_DIR, and in the private directory of the server's socket."""

import hashlib
import json
import os
import re
import stat
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from app.embedded.installations import Installation
from app.errors import EmbeddedServerError

PORT = 5432  # names the socket's file; nothing listens on TCP
LOG_LIMIT = 10 * 1024 * 1024
# Linux takes 107 bytes and macOS 103; `.s.PGSQL.5432` is 14 of them with its slash.
SOCKET_DIR_LIMIT = 103 - len(f"/.s.PGSQL.{PORT}")


@dataclass(frozen=True)
class Directory:
    """AURUM_DATA_DIR, resolved, and the names in it."""

    root: Path

    @property
    def cluster(self) -> Path:
        return self.root / "postgres"

    @property
    def unfinished_cluster(self) -> Path:
        """Where initdb works; it becomes `cluster` by a rename when it is whole."""
        return self.root / "postgres.unfinished"

    @property
    def log(self) -> Path:
        return self.root / "postgres.log"

    @property
    def record(self) -> Path:
        """Which installation last ran the cluster."""
        return self.root / "postgres.json"

    @property
    def users_lock(self) -> Path:
        """Shared by everybody who uses the server; alone by whoever stops it."""
        return self.root / "users.lock"

    @property
    def start_lock(self) -> Path:
        """Alone by whoever finds out whether to start the server, and starts it."""
        return self.root / "start.lock"

    @property
    def release_lock(self) -> Path:
        """Alone by whoever has released a share and finds out whether it was the last."""
        return self.root / "release.lock"

    @property
    def keeper_lock(self) -> Path:
        """Alone by the keeper, for its life."""
        return self.root / "keeper.lock"

    @property
    def server_lock(self) -> Path:
        """Alone by initdb and the server, together with all of its processes."""
        return self.root / "server.lock"


def make_directory(data_dir: Path) -> Directory:
    """The directory, made if it isn't there. Raises EmbeddedServerError if nothing can be written there."""
    try:
        root = data_dir.expanduser().resolve()
        root.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(root, os.W_OK | os.X_OK) else "no permission"
    except (OSError, RuntimeError) as error:  # RuntimeError is ~ without a home
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
    if reason is not None:
        raise EmbeddedServerError(
            f"The data directory {data_dir} can't be written ({reason}): set AURUM_DATA_DIR to one that can."
        )
    return Directory(root)


def name_socket_dir(directory: Directory) -> Path:
    """Where the server's socket goes: into the data directory, or where that name is too long or can't be part of a
    database URL, into a directory under the temporary one whose name is derived from it."""
    derived = f"aurum-{hashlib.sha256(os.fsencode(directory.root)).hexdigest()[:16]}"
    for place in (directory.root / "socket", Path(tempfile.gettempdir()).resolve() / derived):
        if len(os.fsencode(place)) <= SOCKET_DIR_LIMIT and re.fullmatch(r"[A-Za-z0-9/._+-]+", str(place)):
            return place
    return Path("/tmp") / derived  # noqa: S108 - make_socket_dir() refuses one that somebody else made


def make_socket_dir(place: Path, uid: int, gid: int) -> None:
    """Make a directory that only `uid` (and root) can enter, or check that it is one, and empty it.

    Only for when no server runs. Raises EmbeddedServerError if somebody else was there first.
    """
    place.mkdir(mode=0o700, exist_ok=True)
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {uid, os.geteuid()}:
        raise EmbeddedServerError(f"{place} is needed for the server's socket and belongs to somebody else: remove it.")
    place.chmod(0o700)
    if found.st_uid != uid:
        os.chown(place, uid, gid, follow_symlinks=False)
    for leftover in place.glob(".s.PGSQL.*"):
        leftover.unlink()


def remove_socket_dir(directory: Directory, place: Path) -> None:
    """Leave nothing in the temporary directory. What is in the data directory may stay."""
    if place.parent != directory.root:
        for leftover in place.glob(".s.PGSQL.*"):
            leftover.unlink(missing_ok=True)
        place.rmdir()


def open_log(directory: Directory) -> int:
    """The log, to append to. It is begun anew when it has grown too big; the one before is kept."""
    if directory.log.exists() and directory.log.stat().st_size > LOG_LIMIT:
        directory.log.replace(directory.log.with_suffix(".log.1"))
    file = os.open(directory.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    _give_to_owner(directory, file)
    return file


def read_record(directory: Directory) -> Installation | None:
    """The installation that last ran the cluster; None where nothing tells."""
    try:
        noted = json.loads(directory.record.read_bytes())
        return Installation(Path(noted["bin_dir"]), noted["version"], bool(noted["timescaledb"]), noted["origin"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_record(directory: Directory, installation: Installation) -> None:
    """Note which installation is about to run the cluster."""
    text = json.dumps(asdict(installation), default=str, indent=2)
    draft = directory.record.with_suffix(".json.draft")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as opened:
        _give_to_owner(directory, file)
        opened.write(text + "\n")
    draft.replace(directory.record)


def _give_to_owner(directory: Directory, file: int) -> None:
    # Made by root in somebody's directory, it must not lock that somebody out afterwards.
    if os.geteuid() == 0:
        owner = directory.root.stat()
        os.fchown(file, owner.st_uid, owner.st_gid)
