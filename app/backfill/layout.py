"""What the columns of a file are. Pure.

Arrives: the names of its columns, and what the person says of them. Leaves: a Layout. Fails: InvalidInput, which names
the columns that are there.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from app.errors import InvalidInput
from app.ingest.merge import OnConflict
from app.ingest.refusal import find_problem
from app.instants import EPOCH

MACHINE_COLUMNS = ("machine_id", "machine")
TIMESTAMP_COLUMN = "timestamp"
METRIC_COLUMN, VALUE_COLUMN = "metric", "value"


class Shape(Enum):
    """A column per metric, or a row per value; AUTO goes by the columns."""

    AUTO = "auto"
    WIDE = "wide"
    LONG = "long"


class LoadOptions(msgspec.Struct, frozen=True):
    """How a file is to be read. `columns` renames columns, to nothing those that are to be ignored; `timezone` is an
    IANA name, for timestamps without an offset. Without `machine_id` the file has a column of machines."""

    machine_id: str | None = None
    machine_column: str | None = None
    timestamp_column: str | None = None
    shape: Shape = Shape.AUTO
    columns: Mapping[str, str] = {}
    timezone: str = "UTC"
    on_conflict: OnConflict = OnConflict.KEEP


class Layout(msgspec.Struct, frozen=True):
    """Which column is what, by its index. Wide: `metrics`, index and name. Long: `metric` and `value`."""

    timestamp: int
    machine: int | None
    metrics: tuple[tuple[int, str], ...]
    metric: int | None
    value: int | None

    @property
    def used(self) -> list[int]:
        """The columns that are read, in their order."""
        roles = (self.timestamp, self.machine, self.metric, self.value)
        return sorted({index for index in roles if index is not None} | {index for index, _ in self.metrics})


def read_timezone(name: str) -> ZoneInfo:
    """The time zone of an IANA name. Raises InvalidInput."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInput(f"--timezone is {name!r}: give an IANA name, such as UTC or Europe/Madrid.") from error


def read_renames(text: str) -> dict[str, str]:
    """The renames of `--columns`: OLD=NEW, parted by commas; a name with a comma in double quotes, with its `=NEW`."""
    try:
        parts = next(csv.reader([text], strict=True, skipinitialspace=True), [])
    except csv.Error as error:
        raise InvalidInput(f"--columns is {text!r}: {error}.") from error
    renames: dict[str, str] = {}
    for part in parts:
        old, equals, new = part.rpartition("=")
        if not equals or old.strip() in renames:
            raise InvalidInput(
                f"--columns has {part!r}: write OLD=NEW for each column that is to have another name, each once, "
                "parted by commas, and OLD= for one that is to be ignored."
            )
        renames[old.strip()] = new.strip()
    return renames


def plan_layout(given: Sequence[str], options: LoadOptions, most_metrics: int) -> Layout:
    """What the columns are, where a reading has `most_metrics` at most."""
    there = f"The columns are {', '.join(map(repr, given))}." if given else "The file has no columns."
    if twice := [name for name, count in Counter(given).items() if count > 1]:
        raise InvalidInput(f"There are two columns {twice[0]!r}: each must have a name of its own. {there}")
    if unknown := [name for name in options.columns if name not in given]:
        raise InvalidInput(f"--columns names {unknown[0]!r}, which isn't there. {there}")
    names = {options.columns.get(name, name): index for index, name in enumerate(given)}
    kept = [new for name in given if (new := options.columns.get(name, name))]
    if "" in given and "" not in options.columns:
        raise InvalidInput(
            f"A column has no name: name it with --columns =NAME, or ignore it with --columns =. {there}"
        )
    if twice := [name for name, count in Counter(kept).items() if count > 1]:
        raise InvalidInput(f"--columns gives two columns the name {twice[0]!r}. {there}")
    rest = {name: names[name] for name in kept}

    timestamp = _take(rest, given, options.timestamp_column, (TIMESTAMP_COLUMN,), "--timestamp-column", there)
    if timestamp is None:
        raise InvalidInput(f"There is no column `timestamp`: say which it is with --timestamp-column. {there}")
    machine = _take_machine(rest, given, options, there)
    long = options.shape is Shape.LONG or (
        options.shape is Shape.AUTO and METRIC_COLUMN in rest and VALUE_COLUMN in rest
    )
    if long:
        return _plan_long(rest, timestamp, machine, there)
    return _plan_wide(rest, timestamp, machine, most_metrics, there)


def _take(
    rest: dict[str, int], given: Sequence[str], named: str | None, usual: Sequence[str], option: str, there: str
) -> int | None:
    """Takes a column out of the rest: the one that is named, else one under a usual name."""
    if named is not None:
        index = list(given).index(named) if named in given else rest.get(named)
        if index is None:
            raise InvalidInput(f"{option} is {named!r}, which isn't there. {there}")
        for name in [name for name, place in rest.items() if place == index]:
            del rest[name]
        return index
    return next((rest.pop(name) for name in usual if name in rest), None)


def _take_machine(rest: dict[str, int], given: Sequence[str], options: LoadOptions, there: str) -> int | None:
    both = [name for name in MACHINE_COLUMNS if name in rest]
    if options.machine_id is None:
        if options.machine_column is None and len(both) > 1:
            raise InvalidInput(
                f"Both {both[0]} and {both[1]} may be the machine: say which with --machine-column. {there}"
            )
        machine = _take(rest, given, options.machine_column, MACHINE_COLUMNS, "--machine-column", there)
        if machine is None:
            raise InvalidInput(
                f"No column tells the machine: say which it is with --machine-column, or the machine that all of the file "
                f"is about with --machine. {there}"
            )
        return machine
    if options.machine_column is not None:
        raise InvalidInput("Give --machine or --machine-column, not both.")
    if both:
        raise InvalidInput(
            f"The file has a column {both[0]!r}: leave --machine out, or ignore the column with --columns {both[0]}=. {there}"
        )
    return None


def _plan_long(rest: dict[str, int], timestamp: int, machine: int | None, there: str) -> Layout:
    for name in (METRIC_COLUMN, VALUE_COLUMN):
        if name not in rest:
            raise InvalidInput(f"A long file has a column `{name}`: say which it is with --columns OLD={name}. {there}")
    metric, value = rest.pop(METRIC_COLUMN), rest.pop(VALUE_COLUMN)
    if rest:
        ignored = ",".join(f"{name}=" for name in rest)
        raise InvalidInput(
            f"A long file has a row per value, and these columns are neither machine, timestamp, metric nor value: "
            f"{', '.join(rest)}. Ignore them with --columns {ignored!r}, or say --layout wide. {there}"
        )
    return Layout(timestamp, machine, (), metric, value)


def _plan_wide(rest: dict[str, int], timestamp: int, machine: int | None, most_metrics: int, there: str) -> Layout:
    if not rest:
        raise InvalidInput(f"No column is a metric. {there}")
    # The rules for names and for their number are those of every reading.
    probe = {"machine_id": "A", "timestamp": EPOCH, "metrics": dict.fromkeys(rest, 0.0)}
    if problem := find_problem(probe, most_metrics, EPOCH):
        raise InvalidInput(
            f"The columns can't be metrics: {problem[1]} Another name is given by --columns OLD=NEW, and a column is "
            f"ignored by --columns OLD=. {there}"
        )
    return Layout(timestamp, machine, tuple((index, name) for name, index in rest.items()), None, None)
