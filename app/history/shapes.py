"""How each table is asked about: what its fields are in SQL, how their values travel, and how tables hang together.

This is the one place that says so. Filters, orders, pages, counts and aggregates follow from it, and so do the inputs
of the GraphQL API. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

from app.alert import AlertState, AlertType, Severity
from app.history.fields import Field, Kind, Record


@dataclass(frozen=True)
class Ordering:
    """A term of an order: by a field, one way or the other. `nulls_first` None has nulls count as the greatest."""

    column: str
    descending: bool = False
    nulls_first: bool | None = None


@dataclass(frozen=True)
class Relation:
    """Rows of another table whose `theirs` equals this table's `own`: many, or the one that is always there."""

    target: str
    own: str
    theirs: str
    many: bool


@dataclass(frozen=True, eq=False)
class TableShape:
    """A table as it is asked about. `entity` is the name of its rows in the API; `key` has one place for every row."""

    entity: str
    name: str
    fields: Mapping[str, Field]
    key: tuple[str, ...]
    order: tuple[Ordering, ...]
    relations: Mapping[str, Relation] = field(default_factory=dict)

    def express(self, name: str, row: str) -> str:
        """A field in SQL, of the row that has this alias."""
        sql = self.fields[name].sql
        return f"{row}.{name}" if sql is None else sql.format(row=row)

    def rank(self, name: str, sql: str) -> str:
        """What rows are put in order by, where `sql` is the field's value."""
        choices = self.fields[name].choices
        return sql if choices is None else f"array_position({_write_array(choices)}, {sql})"

    def unrank(self, name: str, sql: str) -> str:
        """The field's value, where `sql` is what `rank` has made of it."""
        choices = self.fields[name].choices
        return sql if choices is None else f"({_write_array(choices)})[{sql}]"

    def select(self, row: str, names: Collection[str] | None = None) -> str:
        """These fields, by default all, for a SELECT or a RETURNING, each under its name."""
        wanted = self.fields if names is None else names
        return ", ".join(f"{self.express(name, row)} AS {name}" for name in wanted)

    def decode(self, record: Record) -> dict[str, Any]:
        """What `select` has answered, as it goes to a client."""
        values = {name: record[name] for name in self.fields}
        for name, decoder in self._decoders:
            if values[name] is not None:
                values[name] = decoder(values[name])
        return values

    @cached_property
    def _decoders(self) -> list[tuple[str, Callable[[Any], Any]]]:
        # Found once: a page has thousands of rows.
        return [(name, each.decoder) for name, each in self.fields.items() if each.decoder is not None]


def _write_array(choices: type[Enum]) -> str:
    return "ARRAY[{}]".format(", ".join(f"'{choice.value}'" for choice in choices))


_ID = Field(Kind.TEXT_ID)
_TEXT = Field(Kind.TEXT)
_MAYBE_TEXT = Field(Kind.TEXT, nullable=True)
_INSTANT = Field(Kind.INSTANT)
_MAYBE_INSTANT = Field(Kind.INSTANT, nullable=True)
_FLOAT = Field(Kind.FLOAT)
_MAYBE_FLOAT = Field(Kind.FLOAT, nullable=True)
_OBJECT = Field(Kind.OBJECT)

_NEWEST = (Ordering("timestamp", descending=True),)
_OF_MACHINE = {"machine": Relation("Machine", "machine_id", "machine_id", many=False)}

# An alert whose cause is gone and that a person has seen needs nobody any more, whether or not `resolved_at` says so yet.
_ALERT_STATE = """CASE
  WHEN {row}.resolved_at IS NOT NULL OR ({row}.cleared_at IS NOT NULL AND {row}.acknowledged_at IS NOT NULL) THEN 'RESOLVED'
  WHEN {row}.cleared_at IS NOT NULL THEN 'CLEARED_UNACKNOWLEDGED'
  WHEN {row}.acknowledged_at IS NOT NULL THEN 'ACTIVE_ACKNOWLEDGED'
  ELSE 'ACTIVE_UNACKNOWLEDGED'
END"""

MACHINES = TableShape(
    entity="Machine",
    name="machines",
    fields={
        "machine_id": _ID,
        "machine_type": _TEXT,
        "location": _TEXT,
        "operational": Field(Kind.BOOLEAN),
        "created_at": _INSTANT,
        "updated_at": _INSTANT,
    },
    key=("machine_id",),
    order=(Ordering("machine_id"),),
    relations={
        name: Relation(target, "machine_id", "machine_id", many=True)
        for name, target in {
            "measurements": "Measurement",
            "features": "Feature",
            "predictions": "Prediction",
            "esg_records": "EsgRecord",
            "alerts": "Alert",
        }.items()
    },
)

MEASUREMENTS = TableShape(
    entity="Measurement",
    name="raw_measurements",
    fields={
        "machine_id": _ID,
        "timestamp": _INSTANT,
        "metrics": Field(Kind.METRICS),
        "created_at": _INSTANT,
    },
    key=("timestamp", "machine_id"),
    order=_NEWEST,
    relations=_OF_MACHINE,
)

FEATURES = TableShape(
    entity="Feature",
    name="features",
    fields={"machine_id": _ID, "timestamp": _INSTANT, "features": _OBJECT, "created_at": _INSTANT},
    key=("timestamp", "machine_id"),
    order=_NEWEST,
    relations=_OF_MACHINE,
)

PREDICTIONS = TableShape(
    entity="Prediction",
    name="predictions",
    fields={
        "prediction_id": Field(Kind.UUID_ID),
        "machine_id": _ID,
        "timestamp": _INSTANT,
        "risk_score": _FLOAT,
        "failure_probability": _MAYBE_FLOAT,
        "maintenance_hours": _MAYBE_FLOAT,
        "failure_type": _MAYBE_TEXT,
        "confidence": _MAYBE_FLOAT,
        "model_version": _TEXT,
        "features_used": _OBJECT,
        "created_at": _INSTANT,
    },
    key=("timestamp", "machine_id", "model_version"),
    order=_NEWEST,
    relations=_OF_MACHINE,
)

ESG_RECORDS = TableShape(
    entity="EsgRecord",
    name="esg_records",
    fields={
        "machine_id": _ID,
        "timestamp": _INSTANT,
        "instant_co2eq_kg": _FLOAT,
        "cumulative_co2eq_kg": _FLOAT,
        "fuel_rate_lh": _MAYBE_FLOAT,
        "power_consumption_kw": _MAYBE_FLOAT,
        "efficiency_score": _MAYBE_FLOAT,
        "factors": _OBJECT,
        "metadata": Field(Kind.OBJECT, nullable=True),
        "created_at": _INSTANT,
    },
    key=("timestamp", "machine_id"),
    order=_NEWEST,
    relations=_OF_MACHINE,
)

ALERTS = TableShape(
    entity="Alert",
    name="alerts",
    fields={
        "alert_id": Field(Kind.NUMBER_ID, sql="{row}.id"),
        "machine_id": _ID,
        "timestamp": _INSTANT,
        "alert_type": Field(Kind.CHOICE, choices=AlertType),
        "severity": Field(Kind.RANK, choices=Severity),
        "state": Field(Kind.CHOICE, sql=_ALERT_STATE, choices=AlertState),
        "cause": _TEXT,
        "title": _TEXT,
        "description": _MAYBE_TEXT,
        "evidence": _OBJECT,
        "cleared_at": _MAYBE_INSTANT,
        "cleared_by": _MAYBE_TEXT,
        "acknowledged_at": _MAYBE_INSTANT,
        "acknowledged_by": _MAYBE_TEXT,
        "resolved_at": _MAYBE_INSTANT,
        "resolved_by": _MAYBE_TEXT,
        "shelved_at": _MAYBE_INSTANT,
        "shelved_by": _MAYBE_TEXT,
        "shelved_until": _MAYBE_INSTANT,
        "created_at": _INSTANT,
    },
    key=("alert_id",),
    order=_NEWEST,
    relations=_OF_MACHINE,
)

SHAPES = {shape.entity: shape for shape in (MACHINES, MEASUREMENTS, FEATURES, PREDICTIONS, ESG_RECORDS, ALERTS)}
