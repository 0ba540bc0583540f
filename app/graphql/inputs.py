"""The inputs `where` and `orderBy` of every table, made from what its shape says."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import Any

import strawberry
from strawberry.annotation import StrawberryAnnotation
from strawberry.types.field import StrawberryField
from strawberry.utils.str_converters import to_camel_case

from app.alert import AlertState, AlertType, Severity
from app.graphql.scalars import Json
from app.history.conditions import Operator, list_operators
from app.history.fields import Field, Kind
from app.history.shapes import SHAPES, TableShape

for _choices in (Severity, AlertType, AlertState):
    strawberry.enum(_choices, description=_choices.__doc__)


@strawberry.enum
class Direction(Enum):
    ASC = "ASC"
    DESC = "DESC"


@strawberry.enum(description="Where rows without a value stand, whatever the direction.")
class Nulls(Enum):
    FIRST = "FIRST"
    LAST = "LAST"


_FILTERS = {
    Kind.TEXT_ID: ("Id", "ID", "an id"),
    Kind.NUMBER_ID: ("Id", "ID", "an id"),
    Kind.UUID_ID: ("Id", "ID", "an id"),
    Kind.TEXT: ("String", "str", "a text"),
    Kind.BOOLEAN: ("Boolean", "bool", "a truth value"),
    Kind.INSTANT: ("DateTime", "datetime", "an instant"),
    Kind.FLOAT: ("Float", "float", "a number"),
    Kind.OBJECT: ("Json", "Json", "an object"),
    Kind.METRICS: ("Json", "Json", "an object"),
}
_DESCRIPTIONS = {
    Operator.LIKE: "Case counts; % stands for any characters, _ for one, and a backslash before them for themselves.",
    Operator.CONTAINS: "An object, all of which must be in the value: in objects as deep, in lists in any order.",
    Operator.IS_NULL: "Whether there is no value.",
}
_RESERVED = {"in": "in_", "and": "and_", "or": "or_", "not": "not_"}  # in Python

# Every input that was made here and what it is made of, by name: they name each other before they are made.
_made: dict[str, Any] = {"ID": strawberry.ID, "Json": Json, "datetime": datetime}


def name_attribute(name: str) -> str:
    """What an input's field is called in Python."""
    return _RESERVED.get(name, name)


def _make_input(name: str, description: str, fields: Mapping[str, StrawberryField]) -> Any:
    if name not in _made:
        body = {name_attribute(each): field for each, field in fields.items()}
        _made[name] = strawberry.input(type(name, (), body), description=description)
        for field in _made[name].__strawberry_definition__.fields:
            field.type_annotation.namespace = _made
    return _made[name]


def _make_optional(name: str, kind: str, description: str | None = None) -> StrawberryField:
    # What is left out is told apart from null, which is refused.
    return StrawberryField(
        graphql_name=name if name in _RESERVED else None,
        default=strawberry.UNSET,
        type_annotation=StrawberryAnnotation(f"{kind} | None"),
        description=description,
    )


def _make_filter(field: Field) -> str:
    """The name of the input that says conditions on a field; it is made where it wasn't yet."""
    if field.choices is None:
        prefix, kind, what = _FILTERS[field.kind]
    else:
        prefix = kind = field.choices.__name__
        what = "a value"
        _made[kind] = field.choices
    name = f"{'Nullable' if field.nullable else ''}{prefix}Filter"
    kinds = {Operator.IN: f"list[{kind}]", Operator.IS_NULL: "bool"}
    fields = {
        operator.value: _make_optional(operator.value, kinds.get(operator, kind), _DESCRIPTIONS.get(operator))
        for operator in list_operators(field)
    }
    _make_input(name, f"Conditions on {what}{' or null' * field.nullable}; all that are given must hold.", fields)
    return name


def _make_relation(target: TableShape) -> str:
    """The name of the input that says conditions on the many rows that a row is related to."""
    name = f"{target.entity}RelationWhere"
    where = f"{target.entity}Where"
    fields = {
        "some": _make_optional("some", where, "At least one of them is so."),
        "none": _make_optional("none", where, "Not one of them is so."),
    }
    _make_input(name, f"Conditions on a machine's {_name_many(target)}; all that are given must hold.", fields)
    return name


def _make_where(shape: TableShape) -> Any:
    name = f"{shape.entity}Where"
    kinds = {"and": f"list[{name}]", "or": f"list[{name}]", "not": name}
    kinds |= {column: _make_filter(field) for column, field in shape.fields.items()}
    for relation, link in shape.relations.items():
        kinds[relation] = _make_relation(SHAPES[link.target]) if link.many else f"{link.target}Where"
    return _make_input(
        name,
        f"Conditions on {_name_many(shape)}; all that are given must hold.",
        {each: _make_optional(each, kind) for each, kind in kinds.items()},
    )


def _make_order(shape: TableShape) -> Any:
    columns = {column.upper(): column for column, field in shape.fields.items() if field.kind.is_ordered}
    choices: type[Enum] = Enum(f"{shape.entity}OrderField", columns)  # type: ignore[misc]  # of names known at run time
    ties = " and ".join(to_camel_case(column) for column in shape.key)
    return _make_input(
        f"{shape.entity}Order",
        f"One term of an order; ties are broken by {ties}.",
        {
            "field": StrawberryField(type_annotation=StrawberryAnnotation(strawberry.enum(choices))),
            "direction": StrawberryField(
                type_annotation=StrawberryAnnotation(Direction),
                default=Direction.ASC,
            ),
            "nulls": StrawberryField(
                type_annotation=StrawberryAnnotation("Nulls | None"),
                default=None,
                description="Where it isn't said, LAST when ASC and FIRST when DESC.",
            ),
        },
    )


def _name_many(shape: TableShape) -> str:
    return shape.name.replace("_", " ").removeprefix("raw ")


_made["Nulls"] = Nulls
WHERES = {shape.entity: _make_where(shape) for shape in SHAPES.values()}
ORDERS = {shape.entity: _make_order(shape) for shape in SHAPES.values()}
