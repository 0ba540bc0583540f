"""`where` and `orderBy`: what may be asked of each table's columns, and the clause that says it in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import Enum

import strawberry

from app.errors import InvalidInput
from app.history.pages import MACHINES, MEASUREMENTS, Clause, Ordering, TableShape


@strawberry.input(description="Conditions on an id; all that are given must hold.")
class IdFilter:
    eq: strawberry.ID | None = None
    in_: list[strawberry.ID] | None = strawberry.field(name="in", default=None)


@strawberry.input(description="Conditions on a text; all that are given must hold.")
class StringFilter:
    eq: str | None = None
    in_: list[str] | None = strawberry.field(name="in", default=None)


@strawberry.input(description="A condition on a truth value.")
class BooleanFilter:
    eq: bool | None = None


@strawberry.input(description="Conditions on an instant; all that are given must hold.")
class DateTimeFilter:
    eq: datetime | None = None
    gt: datetime | None = None
    gte: datetime | None = None
    lt: datetime | None = None
    lte: datetime | None = None


@strawberry.input(description="Conditions on machines; all that are given must hold.")
class MachineWhere:
    and_: list[MachineWhere] | None = strawberry.field(name="and", default=None)
    or_: list[MachineWhere] | None = strawberry.field(name="or", default=None)
    not_: MachineWhere | None = strawberry.field(name="not", default=None)
    machine_id: IdFilter | None = None
    machine_type: StringFilter | None = None
    location: StringFilter | None = None
    operational: BooleanFilter | None = None
    created_at: DateTimeFilter | None = None
    updated_at: DateTimeFilter | None = None


@strawberry.input(description="Conditions on measurements; all that are given must hold.")
class MeasurementWhere:
    and_: list[MeasurementWhere] | None = strawberry.field(name="and", default=None)
    or_: list[MeasurementWhere] | None = strawberry.field(name="or", default=None)
    not_: MeasurementWhere | None = strawberry.field(name="not", default=None)
    machine_id: IdFilter | None = None
    timestamp: DateTimeFilter | None = None
    created_at: DateTimeFilter | None = None


@strawberry.enum
class Direction(Enum):
    ASC = "ASC"
    DESC = "DESC"


@strawberry.enum
class MachineOrderField(Enum):
    MACHINE_ID = "machine_id"
    MACHINE_TYPE = "machine_type"
    LOCATION = "location"
    OPERATIONAL = "operational"
    CREATED_AT = "created_at"
    UPDATED_AT = "updated_at"


@strawberry.input(description="One term of an order; ties are broken by machineId.")
class MachineOrder:
    field: MachineOrderField
    direction: Direction = Direction.ASC


@strawberry.enum
class MeasurementOrderField(Enum):
    MACHINE_ID = "machine_id"
    TIMESTAMP = "timestamp"
    CREATED_AT = "created_at"


@strawberry.input(description="One term of an order; ties are broken by timestamp and machineId.")
class MeasurementOrder:
    field: MeasurementOrderField
    direction: Direction = Direction.ASC


_OPERATORS = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def read_machine_where(where: MachineWhere | None) -> Clause:
    return _read_all(MACHINES, where)


def read_measurement_where(where: MeasurementWhere | None) -> Clause:
    return _read_all(MEASUREMENTS, where)


MOST_TERMS = 200


def _read_all(shape: TableShape, where: MachineWhere | MeasurementWhere | None) -> Clause:
    clause = _read_where(shape, where)
    if len(clause.arguments) > MOST_TERMS:
        raise InvalidInput(
            f"where has {len(clause.arguments):,} conditions, more than {MOST_TERMS}: name many values with `in`.",
            field="where",
        )
    return clause


def _read_where(shape: TableShape, where: MachineWhere | MeasurementWhere | None) -> Clause:
    if where is None:
        return Clause.all_of([])
    clauses = []
    if where.and_ is not None:
        clauses.append(Clause.all_of([_read_where(shape, each) for each in where.and_]))
    if where.or_ is not None:
        clauses.append(Clause.any_of([_read_where(shape, each) for each in where.or_]))
    if where.not_ is not None:
        clauses.append(_read_where(shape, where.not_).negate())
    for column, kind in shape.kinds.items():
        conditions = getattr(where, column)
        if conditions is None:
            continue
        for name, operator in _OPERATORS.items():
            value = getattr(conditions, name, None)
            if value is not None:
                clauses.append(Clause(f"{column} {operator} $$::{kind.value}", (value,)))
        values = getattr(conditions, "in_", None)
        if values is not None:
            clauses.append(Clause(f"{column} = ANY($$::{kind.value}[])", (tuple(values),)))
    return Clause.all_of(clauses)


def order_machines(order: Sequence[MachineOrder] | None) -> tuple[Ordering, ...]:
    """By id where no order is given."""
    return tuple(Ordering(term.field.value, term.direction is Direction.DESC) for term in order or ())


def order_measurements(order: Sequence[MeasurementOrder] | None) -> tuple[Ordering, ...]:
    """Newest first where no order is given."""
    if not order:
        return (Ordering("timestamp", descending=True),)
    return tuple(Ordering(term.field.value, term.direction is Direction.DESC) for term in order)
