"""How a command tells what came of it: an error as one line, and as JSON what is for programs."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from app.console import complain
from app.errors import AurumError, StartupRefused


@contextmanager
def report_errors() -> Iterator[None]:
    """Shows an error of ours as one line, not as a stack trace, and lets SIGTERM end a command in order."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    except AurumError as error:
        complain(f"{error.code}: {error}")
        sys.exit(error.exit_code if isinstance(error, StartupRefused) else 1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def print_json(value: object) -> None:
    """Prints a value of builtins and Structs as one line of JSON."""
    print(msgspec.json.encode(value).decode())  # noqa: T201 - for programs
