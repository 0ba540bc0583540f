"""Series as clients see them: columns of instants and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec
import numpy as np
import strawberry

from app.graphql.scalars import EpochMillis
from app.history.columns import Fill
from app.history.series import Resolution, SeriesColumns, SeriesQuestion
from app.history.statements import Aggregate
from app.history.text import encode_instants, encode_millis, encode_values, pass_values

for _kind in (Fill, Aggregate, Resolution):
    strawberry.enum(_kind, description=_kind.__doc__)


@strawberry.type(description="Columns, not rows: as many values as timestamps.")
class Series:
    columns: strawberry.Private[SeriesColumns]

    @strawberry.field
    def machine_id(self) -> strawberry.ID:
        return strawberry.ID(self.columns.machine_id)

    @strawberry.field
    def metric(self) -> str:
        return self.columns.metric

    @strawberry.field(description="Null where no unit is known.")
    def unit(self) -> str | None:
        return None

    @strawberry.field
    def timestamps(self) -> list[datetime]:
        # Strings, as DateTime's serializer lets them pass: formatting the whole column at once is far faster.
        instants = self.columns.instants.astype("datetime64[us]")
        texts: list[datetime] = np.datetime_as_string(instants, unit="us", timezone="UTC").tolist()
        return texts

    @strawberry.field
    def epoch_millis(self) -> list[EpochMillis]:
        millis: list[EpochMillis] = (self.columns.instants // 1000).tolist()
        return millis

    @strawberry.field
    def values(self) -> list[float | None]:
        values = self.columns.values
        empty = np.isnan(values)
        if not empty.any():
            return values.tolist()  # type: ignore[no-any-return]  # numpy's stubs can't say list[float]
        return np.where(empty, None, values).tolist()  # type: ignore[no-any-return, call-overload]  # as above

    @strawberry.field(description="RAW, BUCKETED or DOWNSAMPLED, and from how many readings.")
    def resolution(self) -> Resolution:
        return self.columns.resolution

    @strawberry.field
    def source_rows(self) -> int:
        return self.columns.source_rows


def _write_values(columns: SeriesColumns) -> bytes:
    passed = pass_values(columns.stored) if isinstance(columns.stored, str) else None
    return encode_values(columns.values) if passed is None else passed


_TEXTS: dict[str, Callable[[SeriesColumns], bytes]] = {
    "machineId": lambda columns: msgspec.json.encode(columns.machine_id),
    "metric": lambda columns: msgspec.json.encode(columns.metric),
    "unit": lambda _: b"null",
    "timestamps": lambda columns: encode_instants(columns.instants),
    "epochMillis": lambda columns: encode_millis(columns.instants),
    "values": _write_values,
    "resolution": lambda columns: msgspec.json.encode(columns.resolution.value),
    "sourceRows": lambda columns: b"%d" % columns.source_rows,
    "__typename": lambda _: b'"Series"',
}


def write_series(found: Sequence[SeriesColumns], keys: Sequence[tuple[str, str]]) -> bytes:
    """The JSON of all series, with these (key, field) in each: what resolvers and scalars would make, a column at once."""
    texts = [(b'"%b":' % key.encode(), _TEXTS[field]) for key, field in keys]
    objects = (b",".join(key + write(columns) for key, write in texts) for columns in found)
    return b"[" + b",".join(b"{" + each + b"}" for each in objects) + b"]"


def make_question(
    machine_ids: Sequence[str],
    metrics: Sequence[str] | None,
    start: datetime,
    end: datetime,
    bucket: timedelta | None,
    aggregate: Aggregate,
    fill: Fill,
    max_points: int,
) -> SeriesQuestion:
    """What the arguments of `series` ask, of one machine's field or of the query's."""
    return SeriesQuestion(
        machine_ids=tuple(machine_ids),
        metrics=None if metrics is None else tuple(metrics),
        start=start,
        end=end,
        bucket=bucket,
        aggregate=aggregate,
        fill=fill,
        max_points=max_points,
    )
