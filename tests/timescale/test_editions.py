"""What an edition can't do of what is declared, as people are told."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.database import Edition, EditionName
from app.timescale.editions import describe_left_out
from app.timescale.hypertable import Compression, ContinuousAggregate, Hypertable, Refresh

DAY = timedelta(days=1)
DECLARED = {
    "raw_measurements": Hypertable(
        "timestamp",
        DAY,
        compression=Compression(7 * DAY),
        retention=365 * DAY,
        aggregates=tuple(
            ContinuousAggregate(name, DAY, (), (("readings", "count(*)"),), Refresh(DAY, 3 * DAY, DAY))
            for name in ("readings_daily", "readings_by_day")
        ),
    ),
    "features": Hypertable("at", DAY),
}
COMMUNITY_ONLY = [
    "raw_measurements: the aggregate readings_daily needs TimescaleDB Community.",
    "raw_measurements: the aggregate readings_by_day needs TimescaleDB Community.",
]


@pytest.mark.parametrize(
    ("edition", "sentences"),
    [
        (
            Edition(EditionName.NONE, "18.0", None),
            [
                "features: chunks by at need TimescaleDB.",
                "raw_measurements: chunks by timestamp need TimescaleDB.",
                "raw_measurements: compression needs TimescaleDB Community.",
                "raw_measurements: a retention policy needs TimescaleDB Community; "
                "instead, while it runs, the service deletes rows in batches.",
                *COMMUNITY_ONLY,
            ],
        ),
        (
            Edition(EditionName.APACHE, "17.0", "2.19.3"),
            [
                "raw_measurements: compression needs TimescaleDB Community.",
                "raw_measurements: a retention policy needs TimescaleDB Community; "
                "instead, while it runs, the service drops chunks.",
                *COMMUNITY_ONLY,
            ],
        ),
        (Edition(EditionName.COMMUNITY, "17.0", "2.25.0"), []),
    ],
    ids=lambda value: value.name.value if isinstance(value, Edition) else None,
)
def test_what_is_left_out_is_said_by_table(edition: Edition, sentences: list[str]) -> None:
    assert describe_left_out(DECLARED, edition) == sentences


def test_nothing_declared_is_nothing_left_out() -> None:
    assert describe_left_out({}, Edition(EditionName.NONE, "18.0", None)) == []
