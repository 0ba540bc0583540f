"""The data directory: made whole or not at all, and matched with an installation that can run it."""

import os
import shutil
from pathlib import Path

from app.embedded.account import Account
from app.embedded.directory import Directory, read_record
from app.embedded.installations import Installation, list_installations, read_major
from app.errors import EmbeddedServerError

# The role is an ordinary one, as on a managed server: what works here needs no superuser there. It owns its database
# and may make others, which is what tests need. Who really needs the superuser finds it as `postgres` on the socket.
MAKE_ROLE_AND_DATABASE = """\
CREATE ROLE aurum LOGIN CREATEDB;
CREATE DATABASE aurum OWNER aurum;
"""


def choose_installation(directory: Directory, pg_bin: Path | None) -> Installation:
    """The installation to run the server with: the preferred one, or with a cluster already there, the preferred one
    of those that can run it. Raises EmbeddedServerError."""
    installations = list_installations(pg_bin)
    major = read_cluster_major(directory)
    if major is None:
        return installations[0]
    matching = [one for one in installations if one.major == major]
    if not matching:
        found = " and ".join(dict.fromkeys(f"{one.version} ({one.origin})" for one in installations))
        raise EmbeddedServerError(
            f"The data directory {directory.cluster} was made by PostgreSQL {major}, and what there is here is {found}:"
            f" set AURUM_PG_BIN to the programs of PostgreSQL {major}, or dump the data with them and move the"
            " directory away."
        )
    last = read_record(directory)
    if last is None or not last.timescaledb:
        return matching[0]
    for one in matching:
        if one.timescaledb:
            return one
    raise EmbeddedServerError(
        f"The data directory {directory.cluster} was last used with TimescaleDB (from {last.bin_dir}), which"
        f" PostgreSQL {matching[0].version} ({matching[0].origin}) doesn't have: install it again, set AURUM_PG_BIN to"
        " the programs of one that has it, or move the directory away."
    )


def read_cluster_major(directory: Directory) -> int | None:
    """The major version the cluster was made by, or None if there is no cluster yet."""
    try:
        major = read_major((directory.cluster / "PG_VERSION").read_text())
    except FileNotFoundError:
        if directory.cluster.exists() and any(directory.cluster.iterdir()):
            raise EmbeddedServerError(
                f"{directory.cluster} is not a whole PostgreSQL data directory (it has no PG_VERSION): move it away."
            ) from None
        return None
    except PermissionError:
        raise EmbeddedServerError(
            f"The data directory {directory.cluster} belongs to another user: run this as that user, or set"
            " AURUM_DATA_DIR to a directory of your own."
        ) from None
    return major


def make_cluster(directory: Directory, installation: Installation, account: Account, *, server_lock: int) -> None:
    """Make the cluster with its role and database. `server_lock` goes to initdb, so that whoever comes after a kill
    of this process waits for an initdb that is left over. Raises EmbeddedServerError or OSError."""
    draft = directory.unfinished_cluster
    shutil.rmtree(draft, ignore_errors=True)  # of one that was killed
    draft.mkdir(mode=0o700)
    try:
        if account.uid != os.geteuid():
            os.chown(draft, account.uid, account.gid)
        _fill_cluster(draft, installation, account, server_lock)
        if directory.cluster.exists():
            directory.cluster.rmdir()  # empty: read_cluster_major() has seen to that
        draft.rename(directory.cluster)
        _sync(directory.root)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _fill_cluster(draft: Path, installation: Installation, account: Account, server_lock: int) -> None:
    # Sorted by code point everywhere, whatever locales the machine has, and yet with letters beyond ASCII. Before 17
    # only the C library knows C.UTF-8, and not each one does: then letters are ASCII's.
    common: list[str | Path] = [
        "-D",
        draft,
        "-U",
        "postgres",
        "--auth-local=trust",
        "--auth-host=reject",
        "--encoding=UTF8",
        "-k",
    ]
    if installation.major >= 17:
        locales = [["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]]
    else:
        locales = [["--locale=C.UTF-8", "--lc-messages=C"], ["--locale=C"]]
    for locale in locales:
        done = account.run([installation.bin_dir / "initdb", *common, *locale], pass_fds=(server_lock,))
        if done.returncode == 0 or "locale" not in done.stderr:
            break
    if done.returncode == 0:
        # In single-user mode, before anybody can connect: a cluster in its place is one with role and database.
        single: list[str | Path] = [
            installation.bin_dir / "postgres",
            "--single",
            "-D",
            draft,
            "-c",
            "exit_on_error=on",
            "template1",
        ]
        done = account.run(single, pass_fds=(server_lock,), text=MAKE_ROLE_AND_DATABASE)
    if done.returncode != 0:
        raise EmbeddedServerError(
            f"PostgreSQL {installation.version} ({installation.origin}) could not make a database in {draft.parent}:"
            f" {_find_reason(done.stderr)}"
        )


def _find_reason(output: str) -> str:
    """The line of initdb's output that says why, without the program's name."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL:" in line or "error:" in line or "could not" in line]
    return (telling or lines or ["it didn't say why."])[-1].removeprefix("initdb: ").removeprefix("error: ")


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
