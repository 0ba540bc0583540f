"""Declarations that can't work are refused when their class is made, with every reason."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from piccolo.columns import BigSerial, DoublePrecision, ForeignKey, Text, Timestamp, Varchar
from piccolo.constraints import Unique
from piccolo.table import Table

from app.timescale.declared import Declared, find_hypertables
from app.timescale.hypertable import Compression, ContinuousAggregate, DeclarationError, Hypertable, Refresh
from app.timescale.keys import CompositeKey, KeyTimestamptz, PrimaryKey

DAY = timedelta(days=1)
HOURLY = Refresh(timedelta(hours=1), timedelta(days=3), timedelta(hours=1))


class Plant(Declared, Table, tablename="plants"):
    plant_id = Text(primary_key=True, default=None)


def declare(hypertable: Hypertable | None) -> type[Table]:
    """A table of plant, time and value with this declaration."""

    class Reading(Declared, CompositeKey, Table, tablename="readings", hypertable=hypertable):
        plant_id = ForeignKey(Plant, null=False, default=None)
        timestamp = KeyTimestamptz(primary_key=True, default=None)
        value = DoublePrecision(default=None)
        readings_pkey = PrimaryKey([plant_id, timestamp])

    return Reading


def aggregate(**changes: Any) -> ContinuousAggregate:
    given = {
        "name": "readings_hourly",
        "bucket": timedelta(hours=1),
        "group_by": ("plant_id",),
        "columns": (("mean", "avg(value)"),),
        "refresh": HOURLY,
        **changes,
    }
    return ContinuousAggregate(**given)


def test_a_declaration_that_works_is_found() -> None:
    declared = Hypertable(
        "timestamp",
        DAY,
        compression=Compression(7 * DAY, ("plant_id",), ("timestamp DESC NULLS LAST",)),
        retention=365 * DAY,
        aggregates=(aggregate(), aggregate(name="readings_daily", columns=(("p", "percentile_agg(value)"),))),
    )
    assert find_hypertables([Plant, declare(declared), declare(None)]) == {"readings": declared}


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (Hypertable("time", DAY), "there is no time column time"),
        (Hypertable("value", DAY), "the time column value is no Timestamptz"),
        (Hypertable("value", DAY), "the key (plant_id, timestamp) lacks the time column value"),
        (Hypertable("timestamp", timedelta(seconds=59)), "makes far too many chunks: use hours or days"),
        (Hypertable("timestamp", DAY, retention=DAY), "is no longer than one chunk"),
        (Hypertable("timestamp", DAY, compression=Compression(DAY, ("plant",))), "compression names a column plant"),
        (
            Hypertable("timestamp", DAY, compression=Compression(DAY, (), ("value up",))),
            'compression can\'t order by "value up"',
        ),
        (
            Hypertable("timestamp", DAY, compression=Compression(DAY, ("timestamp",))),
            "can't segment by the time column",
        ),
        (
            Hypertable("timestamp", DAY, compression=Compression(DAY, ("value",), ("value",))),
            "compression both segments and orders by value",
        ),
        (Hypertable("timestamp", DAY, compression=Compression(timedelta(0))), "compression must wait a while"),
        (Hypertable("timestamp", DAY, compression=Compression(9 * DAY), retention=9 * DAY), "comes too late"),
        (
            Hypertable("timestamp", DAY, aggregates=(aggregate(), aggregate())),
            "two aggregates are named readings_hourly",
        ),
    ],
)
def test_what_cannot_be_a_hypertable_says_why(declared: Hypertable, reason: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        declare(declared)
    assert str(caught.value).startswith("Reading can't be declared like this: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "Hourly Readings"}, '"Hourly Readings" is no name'),
        ({"name": "x" * 64}, "is no name: use up to 51"),
        ({"bucket": timedelta(0)}, "its bucket must be longer than nothing"),
        ({"group_by": ("plant",)}, "there is no column plant to group by"),
        ({"columns": ()}, "it has no columns of its own"),
        ({"columns": (("mean", "avg(heat)"),)}, "mean stands on a column heat that isn't there"),
        (
            {"columns": (("mean", "avg(value) FILTER (WHERE heat > 1)"),)},
            "mean stands on a column heat that isn't there",
        ),
        ({"columns": (("mean", "avg("),)}, "mean can't be read: "),
        ({"columns": (("mean", "1; DROP TABLE readings"),)}, "mean can't be read: it must be one expression"),
        ({"columns": (("mean", "value FROM readings"),)}, "it must be an expression alone"),
        ({"columns": (("bucket", "avg(value)"),)}, "two columns are named bucket"),
        ({"refresh": Refresh(timedelta(0), None, timedelta(0))}, "its refresh must come every while"),
        ({"refresh": Refresh(DAY, timedelta(hours=2), timedelta(hours=1))}, "must span two buckets at least"),
        ({"refresh": Refresh(DAY, None, DAY)}, "its refresh reaches back further than the rows"),
        ({"refresh": Refresh(DAY, 91 * DAY, DAY)}, "its refresh reaches back further than the rows"),
    ],
)
def test_what_cannot_be_an_aggregate_says_why(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        declare(Hypertable("timestamp", DAY, retention=90 * DAY, aggregates=(aggregate(**changes),)))
    assert reason in str(caught.value)


def test_every_reason_is_told_at_once() -> None:
    with pytest.raises(DeclarationError) as caught:

        class Odd(Declared, Table, hypertable=Hypertable("at", timedelta(0))):
            id = BigSerial(primary_key=True)
            at = Timestamp()
            code = Varchar(unique=True)
            odd_code_name = Unique([code])

    message = str(caught.value)
    assert "the time column at is no Timestamptz" in message
    assert "makes far too many chunks" in message
    assert message.count("lacks the time column at, and TimescaleDB takes no such key") == 3


def test_nothing_may_refer_to_a_hypertable() -> None:
    with pytest.raises(DeclarationError, match="refers to the hypertable Reading, which no foreign key may"):

        class Note(Declared, Table):
            id = BigSerial(primary_key=True)
            reading = ForeignKey(declare(Hypertable("timestamp", DAY)))


def test_a_reference_by_a_text_is_refused() -> None:
    with pytest.raises(
        DeclarationError, match="which Piccolo takes for a change every time it looks: refer to the class"
    ):

        class Note(Declared, Table):
            id = BigSerial(primary_key=True)
            plant: Any = ForeignKey("Plant")
