"""What a client's `where` and `orderBy` say in SQL.

Fails: InvalidInput, with the path of the value to blame, for a null, for what a field can't be, and for a `where` that is
too large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from strawberry import UNSET
from strawberry.utils.str_converters import to_camel_case

from app.errors import InvalidInput
from app.graphql.inputs import Direction, Nulls, name_attribute
from app.history.clauses import Clause
from app.history.conditions import Operator, list_operators, write_condition, write_related
from app.history.fields import Field
from app.history.shapes import SHAPES, Ordering, TableShape

MOST_CONDITIONS = 200
DEEPEST = 8  # levels of and, or, not and relations within each other


def read_where(shape: TableShape, where: Any, *, row: str) -> Clause:
    """What a table's `where` says of the row that has this alias."""
    if where is None:
        return Clause.all_of([])
    return _Reader().read(shape, where, row, "where", 0)


class _Reader:
    """Reads one `where`, and counts what is in it."""

    def __init__(self) -> None:
        self._conditions = 0

    def read(self, shape: TableShape, where: Any, row: str, path: str, depth: int) -> Clause:
        if depth > DEEPEST:
            raise InvalidInput(
                f"{path} is more than {DEEPEST} levels deep: put conditions side by side, where all of them must hold.",
                field=path,
            )
        clauses = self._read_logic(shape, where, row, path, depth)
        for name in shape.fields:
            clauses += self._read_field(shape, name, where, row, path)
        for relation in shape.relations:
            clauses += self._read_relation(shape, relation, where, row, path, depth)
        return Clause.all_of(clauses)

    def _read_logic(self, shape: TableShape, where: Any, row: str, path: str, depth: int) -> list[Clause]:
        clauses = []
        for word, join in (("and", Clause.all_of), ("or", Clause.any_of)):
            given = _get(where, word, path, "give a list")
            if given is not UNSET:
                self._count(len(given))
                clauses.append(
                    join(
                        [
                            self.read(shape, each, row, f"{path}.{word}.{place}", depth + 1)
                            for place, each in enumerate(given)
                        ]
                    )
                )
        negated = _get(where, "not", path, "give conditions")
        if negated is not UNSET:
            clauses.append(self.read(shape, negated, row, f"{path}.not", depth + 1).negate())
        return clauses

    def _read_field(self, shape: TableShape, name: str, where: Any, row: str, path: str) -> list[Clause]:
        field = shape.fields[name]
        conditions = _get(where, name, path, _name_instead(field, f"{to_camel_case(name)}: {{ isNull: true }}"))
        if conditions is UNSET:
            return []
        path = f"{path}.{to_camel_case(name)}"
        clauses = []
        for operator in list_operators(field):
            instead = "give true or false" if operator is Operator.IS_NULL else _name_instead(field, "isNull: true")
            value = _get(conditions, operator.value, path, instead)
            if value is not UNSET:
                self._count(1)
                clauses.append(write_condition(shape, name, operator, value, row=row, path=f"{path}.{operator.value}"))
        return clauses

    def _read_relation(
        self, shape: TableShape, relation: str, where: Any, row: str, path: str, depth: int
    ) -> list[Clause]:
        link = shape.relations[relation]
        given = _get(where, relation, path, "give conditions")
        if given is UNSET:
            return []
        path = f"{path}.{to_camel_case(relation)}"
        asked = {"": given}
        if link.many:
            asked = {word: _get(given, word, path, "give conditions") for word in ("some", "none")}
        clauses = []
        # Aliases need only differ from those around them.
        related = f"w{depth}"
        for word, conditions in asked.items():
            if conditions is not UNSET:
                self._count(1)
                inner = f"{path}.{word}" if word else path
                clause = self.read(SHAPES[link.target], conditions, related, inner, depth + 1)
                clauses.append(write_related(shape, relation, clause, row=row, related=related, exists=word != "none"))
        return clauses

    def _count(self, conditions: int) -> None:
        self._conditions += conditions
        if self._conditions > MOST_CONDITIONS:
            raise InvalidInput(
                f"where has more than {MOST_CONDITIONS} conditions: name many values with `in`.", field="where"
            )


def _get(given: Any, name: str, path: str, instead: str) -> Any:
    """A field of an input, UNSET where it was left out. Raises InvalidInput for null, which says neither."""
    value = getattr(given, name_attribute(name), UNSET)
    if value is None:
        field = f"{path}.{to_camel_case(name)}"
        raise InvalidInput(f"{field} is null: leave it out, or {instead}.", field=field)
    return value


def _name_instead(field: Field, is_null: str) -> str:
    return f"say {is_null}" if field.nullable else "give a value, which these rows always have"


def read_order(shape: TableShape, order: Sequence[Any] | None) -> tuple[Ordering, ...]:
    """What a table's `orderBy` says; the table's own order where it says nothing."""
    if not order:
        return shape.order
    return tuple(
        Ordering(
            term.field.value,
            term.direction is Direction.DESC,
            None if term.nulls is None else term.nulls is Nulls.FIRST,
        )
        for term in order
    )
