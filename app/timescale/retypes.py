"""What a column's new type would make of its values: the statement that refuses to have any of them changed. Pure.

PostgreSQL says no where a value is too large or too long for a type, and otherwise rounds: 0.5 becomes 0 as an integer.
"""

from __future__ import annotations

import re

_WHOLE = ("SMALLINT", "INTEGER", "BIGINT")
_TEXTS = ("TEXT", "VARCHAR", "CHAR")
_DIGITS = ("REAL", "DOUBLE PRECISION", "NUMERIC")
# What has all values of another type, or says itself that it hasn't. Any type goes into a text.
_HOLDS = {
    **dict.fromkeys(_WHOLE, _WHOLE),
    "REAL": ("SMALLINT",),
    "DOUBLE PRECISION": ("SMALLINT", "INTEGER", "REAL"),
    "NUMERIC": _WHOLE,
    "TIMESTAMP": ("DATE", "TIMESTAMPTZ", *_TEXTS),
    "TIMESTAMPTZ": ("DATE", "TIMESTAMP", *_TEXTS),
    "INTERVAL": ("TIME", *_TEXTS),
    "BOOLEAN": _TEXTS,
}
_TYPE = re.compile(r"\A([A-Z ]+?)\s*(?:\((\d+)(?:\s*,\s*(\d+))?\))?((?:\[\])*)\Z")
_CHECK = re.compile(r'\ADO \$aurum\$ -- values of "([^"]+)" stay what they are\n')


def refuse_changes(table: str, column: str, old: str, new: str) -> str | None:
    """The statement that raises where a value of the column is another one in the new type; None where none can be.

    It locks the table as the change will, so that no value comes in between.
    """
    condition = _find_changed(f'"{column}"', old, new)
    if condition is None:
        return None
    return f"""DO $aurum$ -- values of "{table}" stay what they are
DECLARE
  changed bigint;
  example text;
BEGIN
  LOCK TABLE "{table}" IN ACCESS EXCLUSIVE MODE;
  SELECT count(*), min("{column}"::text) INTO changed, example FROM "{table}" WHERE {condition};
  IF changed > 0 THEN
    RAISE EXCEPTION 'As {new}, % of the values of {table}.{column} would be other ones, % for one. If that may be, change them first, with an UPDATE in a migration of invoke migration-data.', changed, example
      USING ERRCODE = 'data_exception';
  END IF;
END
$aurum$"""


def find_checked(statement: str) -> str | None:
    """The table whose values a statement of `refuse_changes` looks at; None for any other statement."""
    match = _CHECK.match(statement)
    return match[1] if match else None


def _find_changed(value: str, old: str, new: str) -> str | None:
    """SQL that is true of a value which the new type changes."""
    was, becomes = _TYPE.match(old), _TYPE.match(new)
    if was is None or becomes is None:
        return None
    kind, target = was[1], becomes[1]
    if kind == target == "NUMERIC":
        if becomes[2] is None or (was[2] is not None and int(was[3] or 0) <= int(becomes[3] or 0)):
            return None
    elif kind == target or target not in {*_HOLDS, "DATE", "TIME"} or kind in _HOLDS.get(target, ()):
        return None
    elif kind in _TEXTS:
        return _find_misread(value, target, new)
    elif target == "TIME":  # of which there is no way back
        return f"{value}::{new}::text IS DISTINCT FROM {value}::text"
    return f"{value}::{new}::{kind}{was[4]} IS DISTINCT FROM {value}"


def _find_misread(value: str, target: str, new: str) -> str | None:
    """A text may be written in many ways and mean the same value: what is compared is the value."""
    if target in _DIGITS:
        return f"{value}::{new}::text::NUMERIC IS DISTINCT FROM {value}::NUMERIC"
    return f"{value}::DATE::TIMESTAMP IS DISTINCT FROM {value}::TIMESTAMP" if target == "DATE" else None
