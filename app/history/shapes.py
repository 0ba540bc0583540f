"""How each table is asked about: what its fields are in SQL, how their values travel, and how tables hang together.

This is the one place that says so. Filters, orders, pages, counts and aggregates follow from it, and so do the inputs
of the GraphQL API. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any, Protocol
from uuid import UUID

import msgspec
from msgspec import Meta

from app.alert import AlertState, AlertType, Severity


class Record(Protocol):
    """A row that PostgreSQL has answered, by the names of its columns."""

    def __getitem__(self, name: str, /) -> Any: ...


class Kind(Enum):
    """How a field's values travel: an id is a text to clients, whatever it is to PostgreSQL. A RANK is a CHOICE in which
    one is more than another."""

    TEXT_ID = "TEXT_ID"
    NUMBER_ID = "NUMBER_ID"
    UUID_ID = "UUID_ID"
    TEXT = "TEXT"
    BOOLEAN = "BOOLEAN"
    INSTANT = "INSTANT"
    FLOAT = "FLOAT"
    CHOICE = "CHOICE"
    RANK = "RANK"
    OBJECT = "OBJECT"
    METRICS = "METRICS"

    @property
    def postgres(self) -> str:
        """The PostgreSQL type that a parameter is cast to."""
        return _POSTGRES[self]

    @property
    def is_ordered(self) -> bool:
        """Whether rows can be put in order by it."""
        return self not in {Kind.OBJECT, Kind.METRICS}


_POSTGRES = {
    Kind.TEXT_ID: "text",
    Kind.NUMBER_ID: "int8",
    Kind.UUID_ID: "uuid",
    Kind.TEXT: "text",
    Kind.BOOLEAN: "boolean",
    Kind.INSTANT: "timestamptz",
    Kind.FLOAT: "float8",
    Kind.CHOICE: "text",
    Kind.RANK: "text",
    Kind.OBJECT: "jsonb",
    Kind.METRICS: "jsonb",
}

# What a cursor may hold. PostgreSQL's texts hold no NUL, and its float8 what JSON has no number for.
_Text = Annotated[str, Meta(pattern=r"\A[^\x00]*\Z")]
_BigInt = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_RESTORED: dict[Kind, Any] = {
    Kind.TEXT_ID: _Text,
    Kind.NUMBER_ID: _BigInt,
    Kind.UUID_ID: UUID,
    Kind.TEXT: _Text,
    Kind.BOOLEAN: bool,
    Kind.INSTANT: Annotated[datetime, Meta(tz=True)],
    Kind.FLOAT: float | Annotated[str, Meta(pattern=r"\A(nan|-?inf)\Z")],
}


@dataclass(frozen=True)
class Field:
    """A field of a table's rows. `sql` says it with `{row}` for the row; by default it's the column of its own name.

    A field of a few values has them as `choices`, and is put in order as they are.
    """

    kind: Kind
    nullable: bool = False
    sql: str | None = None
    choices: type[Enum] | None = None

    def restore(self, value: object) -> Any:
        """The value of a cursor. Raises ValidationError or OverflowError when it can't be one of this field's."""
        if value is None and self.nullable:
            return None
        restored = msgspec.convert(value, self.choices or _RESTORED[self.kind])
        if isinstance(restored, datetime):
            return restored.astimezone(UTC)
        if isinstance(restored, Enum):
            return restored.value
        return float(restored) if self.kind is Kind.FLOAT else restored

    def parse(self, value: Any) -> Any:
        """What a client has sent, as PostgreSQL takes it. Raises ValueError for an id that can't be one of this field's."""
        if self.kind is Kind.NUMBER_ID:
            return msgspec.convert(value, _BigInt, strict=False)
        return UUID(value) if self.kind is Kind.UUID_ID else value

    def decode(self, value: Any) -> Any:
        """What PostgreSQL has answered, as it goes to a client."""
        if value is None:
            return None
        if self.choices is not None:
            return self.choices(value)
        if self.kind in {Kind.NUMBER_ID, Kind.UUID_ID}:
            return str(value)
        if self.kind is Kind.OBJECT:
            return msgspec.json.decode(value)
        if self.kind is Kind.METRICS:
            return msgspec.json.decode(value, type=dict[str, float])
        return value


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

    def select(self, row: str) -> str:
        """All fields, for a SELECT or a RETURNING, each under its name."""
        return ", ".join(f"{self.express(name, row)} AS {name}" for name in self.fields)

    def decode(self, record: Record) -> dict[str, Any]:
        """What `select` has answered, as it goes to a client."""
        return {name: each.decode(record[name]) for name, each in self.fields.items()}


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
