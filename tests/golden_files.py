"""SQL that is kept beside its tests, so that whoever reviews a change sees what becomes of the statements."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"
UPDATE_VARIABLE = "AURUM_TEST_UPDATE_GOLDEN"  # set to anything, it has the files written anew


def check_golden(name: str, statement: str) -> None:
    """Fails where the statement isn't what `golden/NAME.sql` has."""
    path = FOLDER / f"{name}.sql"
    text = statement.strip() + "\n"
    if os.environ.get(UPDATE_VARIABLE):
        path.write_text(text, encoding="utf-8")
    kept = path.read_text(encoding="utf-8") if path.exists() else None
    assert text == kept, f"{path} has another statement; {UPDATE_VARIABLE}=1 writes it anew"
