"""The clock on the wall, wrong for some processes alone, and wrong from one moment to the next (libfaketime)."""

from __future__ import annotations

import os
import platform
from datetime import timedelta
from pathlib import Path

import pytest

LIBRARY = Path(f"/usr/lib/{platform.machine()}-linux-gnu/faketime/libfaketimeMT.so.1")


class WallClock:
    """What programs that are started with `environ` take for the time of day; no other clock of theirs is touched."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.jump(timedelta(0))
        self.environ = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def jump(self, wrong_by: timedelta) -> None:
        """From now on the clock is ahead by that much, or behind."""
        written = self._file.with_suffix(".new")
        written.write_text(f"{wrong_by.total_seconds():+.0f}\n", encoding="ascii")
        written.replace(self._file)


def make_clock(folder: Path) -> WallClock:
    """Skips the test where the library isn't there, but for CI, which installs it."""
    if not LIBRARY.exists() and not os.environ.get("CI"):
        pytest.skip("There is no libfaketime here: apt-get install faketime.")
    return WallClock(folder)
