"""What clients that others have made need: an environment of their own with Python, and a folder of packages for Node.

All of those in Python want a graphql-core before 3.3, and the service runs on 3.3: they can't be in one environment, and a
client isn't in its service's anyway.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.npm import NpmError, install_packages

FOLDER = Path(__file__).parent
PROGRAMS = FOLDER / "programs"
NODE_FOLDER = FOLDER / "node"
INSTALL_SECONDS = 110.0


def find_python() -> Path:
    """The Python that has the clients, which are installed unless they were before: 90 MB. Skips where they can't be had."""
    return _find(_install_python)


def find_node_folder() -> Path:
    """A folder whose `node_modules` has the clients for Node. Skips where they can't be had."""
    return _find(_install_node)


def _find(install: Callable[[], Path]) -> Path:
    try:
        return install()
    except (OSError, subprocess.SubprocessError, NpmError) as error:
        if os.environ.get("CI"):
            raise
        said = getattr(error, "stderr", None) or error
        pytest.skip(f"The clients can't be had here: {said}")


def _install_python() -> Path:
    wanted = (FOLDER / "requirements.txt").read_bytes() + sys.version.encode()
    place = FOLDER / ".venv"
    installed = place / "installed"  # written last: half an installation has none
    python = place / "bin" / "python"
    with (FOLDER / "requirements.txt").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.is_file() or installed.read_bytes() != wanted:
            uv = os.environ.get("UV") or shutil.which("uv")
            if uv is None:
                raise FileNotFoundError("uv is not installed")
            _run(uv, "venv", "--clear", "--quiet", "--python", sys.executable, str(place))
            requirements = str(FOLDER / "requirements.txt")
            _run(uv, "pip", "install", "--quiet", "--no-deps", "--python", str(python), "-r", requirements)
            installed.write_bytes(wanted)
    return python


def _run(*command: str) -> None:
    subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=True, timeout=INSTALL_SECONDS)


def _install_node() -> Path:
    install_packages(NODE_FOLDER)
    return NODE_FOLDER
