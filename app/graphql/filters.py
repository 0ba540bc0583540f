"""`where` and `orderBy`: the inputs that follow from the fields of each table, and what they say in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any

import strawberry
from strawberry.annotation import StrawberryAnnotation
from strawberry.types.field import StrawberryField
from strawberry.utils.str_converters import to_camel_case

from app.alert import AlertState, AlertType, Severity
from app.errors import InvalidInput
from app.history.clauses import Clause
from app.history.pages import ROW
from app.history.shapes import SHAPES, Field, Kind, Ordering, TableShape

MOST_TERMS = 200

for _choices in (Severity, AlertType, AlertState):
    strawberry.enum(_choices, description=_choices.__doc__)


@strawberry.enum
class Direction(Enum):
    ASC = "ASC"
    DESC = "DESC"


_SIGNS = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_ID = ("IdFilter", "ID", ("eq", "in"))
_FILTERS: dict[Kind, tuple[str, str, tuple[str, ...]]] = {
    Kind.TEXT_ID: _ID,
    Kind.NUMBER_ID: _ID,
    Kind.UUID_ID: _ID,
    Kind.TEXT: ("StringFilter", "str", ("eq", "in")),
    Kind.BOOLEAN: ("BooleanFilter", "bool", ("eq",)),
    Kind.INSTANT: ("DateTimeFilter", "datetime", ("eq", "gt", "gte", "lt", "lte")),
    Kind.FLOAT: ("FloatFilter", "float", ("eq", "gt", "gte", "lt", "lte")),
}
_PYTHON_NAMES = {"in": "in_", "and": "and_", "or": "or_", "not": "not_"}

# Every input that was made here and what it is made of, by name: they name each other before they are made.
_made: dict[str, Any] = {"ID": strawberry.ID, "datetime": datetime}


def _make_input(name: str, description: str, fields: Mapping[str, str], **required: StrawberryField) -> Any:
    """An input whose fields may be left out, each with its type as a text."""
    if name in _made:
        return _made[name]
    optional = {
        _PYTHON_NAMES.get(each, each): StrawberryField(
            graphql_name=each if each in _PYTHON_NAMES else None,
            default=None,
            type_annotation=StrawberryAnnotation(f"{kind} | None"),
        )
        for each, kind in fields.items()
    }
    _made[name] = strawberry.input(type(name, (), {**required, **optional}), description=description)
    for field in _made[name].__strawberry_definition__.fields:
        field.type_annotation.namespace = _made
    return _made[name]


def _make_filter(field: Field) -> str:
    """The name of the input that says conditions on a field; it is made where it wasn't yet."""
    if field.choices is None:
        name, kind, operators = _FILTERS[field.kind]
    else:
        kind = field.choices.__name__
        name, operators = f"{kind}Filter", ("eq", "in")
        _made[kind] = field.choices
    types = {operator: f"list[{kind}]" if operator == "in" else kind for operator in operators}
    _make_input(name, "Conditions on a value; all that are given must hold.", types)
    return name


def _make_where(shape: TableShape) -> Any:
    name = f"{shape.entity}Where"
    fields = {"and": f"list[{name}]", "or": f"list[{name}]", "not": name}
    fields |= {column: _make_filter(field) for column, field in shape.fields.items() if field.kind.is_ordered}
    return _make_input(name, f"Conditions on {_name_many(shape)}; all that are given must hold.", fields)


def _make_order(shape: TableShape) -> Any:
    columns = {column.upper(): column for column, field in shape.fields.items() if field.kind.is_ordered}
    choices: type[Enum] = Enum(f"{shape.entity}OrderField", columns)  # type: ignore[misc]  # of names known at run time
    ties = " and ".join(to_camel_case(column) for column in shape.key)
    return _make_input(
        f"{shape.entity}Order",
        f"One term of an order; ties are broken by {ties}.",
        {},
        field=StrawberryField(type_annotation=StrawberryAnnotation(strawberry.enum(choices))),
        direction=StrawberryField(type_annotation=StrawberryAnnotation(Direction), default=Direction.ASC),
    )


def _name_many(shape: TableShape) -> str:
    return shape.name.replace("_", " ").removeprefix("raw ")


WHERES = {shape.entity: _make_where(shape) for shape in SHAPES.values()}
ORDERS = {shape.entity: _make_order(shape) for shape in SHAPES.values()}


def read_where(shape: TableShape, where: Any) -> Clause:
    """What a table's `where` says of the row ROW."""
    clause = _read_where(shape, where)
    if len(clause.arguments) > MOST_TERMS:
        raise InvalidInput(
            f"where has {len(clause.arguments):,} conditions, more than {MOST_TERMS}: name many values with `in`.",
            field="where",
        )
    return clause


def _read_where(shape: TableShape, where: Any) -> Clause:
    if where is None:
        return Clause.all_of([])
    clauses = []
    if where.and_ is not None:
        clauses.append(Clause.all_of([_read_where(shape, each) for each in where.and_]))
    if where.or_ is not None:
        clauses.append(Clause.any_of([_read_where(shape, each) for each in where.or_]))
    if where.not_ is not None:
        clauses.append(_read_where(shape, where.not_).negate())
    for name, field in shape.fields.items():
        conditions = getattr(where, name, None)
        if conditions is None:
            continue
        expression = shape.express(name, ROW)
        for operator, sign in _SIGNS.items():
            value = getattr(conditions, operator, None)
            if value is not None:
                clauses.append(
                    Clause(f"{expression} {sign} $$::{field.kind.postgres}", (_read_value(field, name, value),))
                )
        values = getattr(conditions, "in_", None)
        if values is not None:
            read = tuple(_read_value(field, name, value) for value in values)
            clauses.append(Clause(f"{expression} = ANY($$::{field.kind.postgres}[])", (read,)))
    return Clause.all_of(clauses)


def _read_value(field: Field, name: str, value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if field.kind not in {Kind.NUMBER_ID, Kind.UUID_ID}:
        return value
    try:
        return field.parse_id(value)
    except ValueError as error:
        raise InvalidInput(
            f"{to_camel_case(name)} has no such ids: take one from an answer.", field=f"where.{to_camel_case(name)}"
        ) from error


def read_order(shape: TableShape, order: Sequence[Any] | None) -> tuple[Ordering, ...]:
    """What a table's `orderBy` says; the table's own order where it says nothing."""
    if not order:
        return shape.order
    return tuple(Ordering(term.field.value, term.direction is Direction.DESC) for term in order)
