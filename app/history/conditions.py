"""Conditions on the fields of a row and on the rows that it is related to, in SQL. Pure.

Each is true or false, never null: a comparison with a null is false, so that NOT turns it into true. Fails: InvalidInput
for a value that the field can't have.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import Any

from app.errors import InvalidInput
from app.history.clauses import Clause
from app.history.fields import Field, Kind
from app.history.shapes import SHAPES, TableShape

LONGEST_PATTERN = 1000  # characters


class Operator(Enum):
    """What a field can be asked, under the name that it has in the API."""

    EQ = "eq"
    IN = "in"
    GT = "gt"
    GTE = "gte"
    LT = "lt"
    LTE = "lte"
    LIKE = "like"
    CONTAINS = "contains"
    IS_NULL = "isNull"


_SIGNS = {Operator.EQ: "=", Operator.GT: ">", Operator.GTE: ">=", Operator.LT: "<", Operator.LTE: "<="}
_RANGE = (Operator.GT, Operator.GTE, Operator.LT, Operator.LTE)
_BY_KIND = {
    Kind.TEXT_ID: (Operator.EQ, Operator.IN),
    Kind.NUMBER_ID: (Operator.EQ, Operator.IN),
    Kind.UUID_ID: (Operator.EQ, Operator.IN),
    Kind.TEXT: (Operator.EQ, Operator.IN, Operator.LIKE),
    Kind.BOOLEAN: (Operator.EQ,),
    Kind.INSTANT: (Operator.EQ, Operator.IN, *_RANGE),
    Kind.FLOAT: (Operator.EQ, Operator.IN, *_RANGE),
    Kind.CHOICE: (Operator.EQ, Operator.IN),
    Kind.RANK: (Operator.EQ, Operator.IN, *_RANGE),
    Kind.OBJECT: (Operator.CONTAINS,),
    Kind.METRICS: (Operator.CONTAINS,),
}


def list_operators(field: Field) -> tuple[Operator, ...]:
    """What a field can be asked."""
    return (*_BY_KIND[field.kind], Operator.IS_NULL) if field.nullable else _BY_KIND[field.kind]


def write_condition(shape: TableShape, name: str, operator: Operator, value: Any, *, row: str, path: str) -> Clause:
    """One condition on a field of the row that has this alias. `path` is where the value came from, for the refusal."""
    field = shape.fields[name]
    expression = shape.express(name, row)
    if operator is Operator.IS_NULL:
        return Clause(f"{expression} IS {'' if value else 'NOT '}NULL")
    condition = _compare(shape, name, operator, value, expression, path)
    if not field.nullable:
        return condition
    return Clause(f"({expression} IS NOT NULL AND {condition.sql})", condition.arguments)


def _compare(shape: TableShape, name: str, operator: Operator, value: Any, expression: str, path: str) -> Clause:
    field = shape.fields[name]
    argument = f"$$::{field.kind.postgres}"
    if operator is Operator.IN:
        values = tuple(_read_value(field, each, f"{path}.{place}") for place, each in enumerate(value))
        return Clause(f"{expression} = ANY({argument}[])", (values,))
    if operator is Operator.LIKE:
        return Clause(f"{expression} LIKE {argument}", (_check_pattern(value, path),))
    if operator is Operator.CONTAINS:
        return Clause(f"{expression} @> {argument}", (_write_object(value, path),))
    if operator in _RANGE:
        expression, argument = shape.rank(name, expression), shape.rank(name, argument)
    return Clause(f"{expression} {_SIGNS[operator]} {argument}", (_read_value(field, value, path),))


def write_related(shape: TableShape, relation: str, where: Clause, *, row: str, related: str, exists: bool) -> Clause:
    """Whether the row has a related one for which `where` holds; that one's alias is `related`."""
    link = shape.relations[relation]
    condition = Clause(
        f"EXISTS (SELECT FROM {SHAPES[link.target].name} AS {related} "
        f"WHERE {related}.{link.theirs} = {row}.{link.own} AND {where.sql})",
        where.arguments,
    )
    return condition if exists else condition.negate()


def _read_value(field: Field, value: Any, path: str) -> Any:
    if isinstance(value, Enum):
        return value.value
    try:
        return field.parse(value)
    except ValueError as error:
        right = "a whole number" if field.kind is Kind.NUMBER_ID else "a UUID"
        raise InvalidInput(
            f"{path} is not an id of these rows: it is {right}, as answers have it.", field=path
        ) from error


def _check_pattern(pattern: str, path: str) -> str:
    if len(pattern) > LONGEST_PATTERN:
        raise InvalidInput(f"{path} must be at most {LONGEST_PATTERN:,} characters.", field=path)
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        raise InvalidInput(f"{path} ends with a backslash that escapes nothing: write two for one.", field=path)
    return pattern


def _write_object(value: Any, path: str) -> str:
    if isinstance(value, dict):
        try:
            return json.dumps(value, allow_nan=False, ensure_ascii=False)
        except (ValueError, RecursionError):
            pass
    raise InvalidInput(f'{path} must be an object of JSON, such as {{"unit": "bar"}}.', field=path)
