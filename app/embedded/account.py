"""Who runs the server: whoever asks, or where that is root, whom PostgreSQL refuses, somebody without its powers."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.errors import EmbeddedServerError

USER_TO_MAKE = "aurum"


@dataclass(frozen=True)
class Account:
    """A user to run the server's programs as. `capability` is the one power of root's that it needs, mostly none."""

    uid: int
    gid: int
    capability: str | None = None

    def run(
        self, command: Sequence[str | Path], *, pass_fds: Sequence[int] = (), text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end with `text` as its input, and return what it wrote. Raises OSError."""
        uid, gid, groups = self.switch()
        return subprocess.run(  # noqa: S603 - a program of an installation, nothing from outside
            [*self.precede(), *command],
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd="/",
            env=clean_environment(),
            pass_fds=pass_fds,
            user=uid,
            group=gid,
            extra_groups=groups,
        )

    def precede(self) -> list[str]:
        """The words to put before a command so that it keeps the capability when it is no longer root."""
        if self.capability is None:
            return []
        return [
            shutil.which("setpriv") or "setpriv",
            f"--reuid={self.uid}",
            f"--regid={self.gid}",
            "--clear-groups",
            # Without this the kernel leaves capabilities out of access(), by which PostgreSQL looks for its programs.
            "--securebits=+no_setuid_fixup",
            f"--inh-caps=+{self.capability}",
            f"--ambient-caps=+{self.capability}",
        ]

    def switch(self) -> tuple[int | None, int | None, list[int] | None]:
        """User, group and further groups for subprocess to change to; nothing to change where setpriv does it."""
        if self.capability is not None or self.uid == os.geteuid():
            return None, None, None
        return self.uid, self.gid, []


def clean_environment() -> dict[str, str]:
    """The environment for PostgreSQL's programs: no PG* variable of the user's may redirect them, and English logs."""
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")
    return {"LC_ALL": "C", **{name: os.environ[name] for name in kept if name in os.environ}}


def choose_account(cluster: Path, bin_dir: Path) -> Account:
    """Who is to run the server on `cluster`, which may not be there yet, with the programs in `bin_dir`.

    Raises EmbeddedServerError where nobody can.
    """
    owner = cluster.stat() if cluster.exists() else None
    if os.geteuid() != 0:
        if owner is not None and owner.st_uid != os.geteuid():
            raise EmbeddedServerError(
                f"The data directory {cluster} belongs to the user {_name_user(owner.st_uid)}: run this as that user,"
                " or set AURUM_DATA_DIR to a directory of your own."
            )
        return Account(os.geteuid(), os.getegid())
    if owner is not None and owner.st_uid == 0:
        raise EmbeddedServerError(
            f"The data directory {cluster} belongs to root, as whom PostgreSQL refuses to run: give it to another user"
            " with chown -R."
        )
    uid, gid = (owner.st_uid, owner.st_gid) if owner is not None else _find_user()
    # A clone in /root is out of reach for that user. The directories stay as they are; the server gets the one
    # capability that lets it pass: to read if that is allowed here, as in most containers it is not, else to override.
    for account in (Account(uid, gid, capability) for capability in (None, "dac_read_search", "dac_override")):
        if _can_reach(account, bin_dir, cluster.parent):
            return account
    raise EmbeddedServerError(
        f"PostgreSQL can't run as root, and the user {_name_user(uid)} can't reach {cluster.parent} or {bin_dir}: set"
        " AURUM_DATA_DIR (and AURUM_PG_BIN) to directories that everybody may enter."
    )


def _can_reach(account: Account, bin_dir: Path, directory: Path) -> bool:
    # Really tried, since what decides is spread over modes, ACLs, bounding sets and security modules. With --show,
    # initdb looks for its programs and does nothing.
    script = 'cd -- "$1" && exec "$2" --show -D "$1"'
    try:
        return account.run(["/bin/sh", "-c", script, "sh", directory, bin_dir / "initdb"]).returncode == 0
    except OSError:
        return False


def _find_user() -> tuple[int, int]:
    for name in ("postgres", USER_TO_MAKE, "", "nobody"):
        if not name:
            _make_user()
        try:
            found = pwd.getpwnam(name or USER_TO_MAKE)
        except KeyError:
            continue
        if found.pw_uid != 0:
            return found.pw_uid, found.pw_gid
    raise EmbeddedServerError(
        "PostgreSQL can't run as root, and there is no other user here to run it: make one named postgres."
    )


def _make_user() -> None:
    if (useradd := shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin")) is not None:
        command = [useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", USER_TO_MAKE]
        subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - where it fails, nobody is left


def _name_user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
