"""Orders in which every row has one place, and cursors that stand there (keyset pagination). Pure.

An order always ends with the table's key. Nulls stand where the order says; where it doesn't, they count as greater than
anything, as PostgreSQL has it.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from app.errors import InvalidInput
from app.history.clauses import Clause
from app.history.fields import Kind, Record
from app.history.shapes import Ordering, TableShape
from app.instants import format_instant


def complete_order(shape: TableShape, order: Sequence[Ordering]) -> tuple[Ordering, ...]:
    """The order with the key behind it. Of a field that is named twice the first term counts."""
    # The key goes on in the direction of the last term, so that one index can serve the whole order.
    unique = {term.column: term for term in reversed(order)}
    named = tuple(dict.fromkeys(unique[term.column] for term in order))
    descending = named[-1].descending if named else False
    return named + tuple(Ordering(column, descending) for column in shape.key if column not in unique)


def reverse_order(order: Sequence[Ordering]) -> tuple[Ordering, ...]:
    """The same order, walked from its end."""
    return tuple(Ordering(term.column, not term.descending, not _puts_nulls_first(term)) for term in order)


def write_order(shape: TableShape, order: Sequence[Ordering], express: Callable[[str], str]) -> str:
    """What stands behind ORDER BY, where `express` gives a field in SQL."""
    return ", ".join(
        shape.rank(term.column, express(term.column))
        + (" DESC" if term.descending else " ASC")
        + _write_nulls(shape, term)
        for term in order
    )


def write_beyond(shape: TableShape, order: Sequence[Ordering], values: Sequence[Any], row: str) -> Clause:
    """The rows that follow the one with these values."""
    casts = [shape.rank(term.column, f"$$::{shape.fields[term.column].kind.postgres}") for term in order]
    columns = [shape.rank(term.column, shape.express(term.column, row)) for term in order]
    if len({term.descending for term in order}) == 1 and not any(shape.fields[term.column].nullable for term in order):
        # A row comparison, which an index on these columns answers.
        sign = "<" if order[0].descending else ">"
        beyond = Clause(f"(({', '.join(columns)}) {sign} ({', '.join(casts)}))", tuple(values))
    else:
        beyond = _write_choices(shape, order, columns, casts, values)
    if len(order) == 1 or shape.fields[order[0].column].nullable:
        return beyond
    # It follows, but the planner doesn't see it: by it chunks that lie before are left out, and indexes found.
    bound = Clause(f"{columns[0]} {'<=' if order[0].descending else '>='} {casts[0]}", (values[0],))
    return Clause.all_of([bound, beyond])


def _write_choices(
    shape: TableShape, order: Sequence[Ordering], columns: Sequence[str], casts: Sequence[str], values: Sequence[Any]
) -> Clause:
    """The rows that are equal in some first terms and follow in the next."""
    choices: list[Clause] = []
    equal: list[Clause] = []
    for term, column, cast, value in zip(order, columns, casts, values, strict=True):
        choices.append(Clause.all_of([*equal, _write_after(shape, term, column, cast, value)]))
        equal.append(Clause(f"{column} IS NULL") if value is None else Clause(f"{column} = {cast}", (value,)))
    return Clause.any_of(choices)


def _write_after(shape: TableShape, term: Ordering, column: str, cast: str, value: Any) -> Clause:
    if value is None:
        return Clause(f"{column} IS NOT NULL" if _puts_nulls_first(term) else "false")
    after = Clause(f"{column} {'<' if term.descending else '>'} {cast}", (value,))
    if shape.fields[term.column].nullable and not _puts_nulls_first(term):
        return Clause.any_of([after, Clause(f"{column} IS NULL")])
    return after


def _puts_nulls_first(term: Ordering) -> bool:
    return term.descending if term.nulls_first is None else term.nulls_first


def _write_nulls(shape: TableShape, term: Ordering) -> str:
    if not shape.fields[term.column].nullable or _puts_nulls_first(term) is term.descending:
        return ""
    return " NULLS FIRST" if _puts_nulls_first(term) else " NULLS LAST"


def write_signature(shape: TableShape, order: Sequence[Ordering]) -> list[str]:
    """What a cursor says of the order that it belongs to."""
    return [("-" if term.descending else "+") + term.column + _write_nulls(shape, term) for term in order]


def write_cursors(shape: TableShape, order: Sequence[Ordering], rows: Sequence[Record]) -> list[str]:
    """The cursor that stands at each of these rows: its values of the order's fields."""
    signature = write_signature(shape, order)
    columns = [term.column for term in order]
    numbers = [place for place, name in enumerate(columns) if shape.fields[name].kind is Kind.FLOAT]
    instants = [place for place, name in enumerate(columns) if shape.fields[name].kind is Kind.INSTANT]
    cursors = []
    for row in rows:
        values = [row[name] for name in columns]
        for place in numbers:
            # JSON has no numbers for these.
            if values[place] is not None and not math.isfinite(values[place]):
                values[place] = str(values[place])
        for place in instants:
            # As PostgreSQL writes them where it writes the cursor.
            values[place] = None if values[place] is None else format_instant(values[place])
        cursors.append(base64.urlsafe_b64encode(msgspec.json.encode([signature, values])).decode())
    return cursors


def read_cursor(shape: TableShape, order: Sequence[Ordering], cursor: str, field: str) -> list[Any]:
    """The values where a cursor stands. Raises InvalidInput for one that isn't ours, or of another order."""
    try:
        content = base64.b64decode(cursor, altchars=b"-_", validate=True)
        signature, values = msgspec.json.decode(content, type=tuple[list[str], list[Any]])
        if signature != write_signature(shape, order):
            raise InvalidInput(f"{field} is a cursor of another orderBy: start again without it.", field=field)
        return [shape.fields[term.column].restore(value) for term, value in zip(order, values, strict=True)]
    except (binascii.Error, msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(
            f"{field} is not a cursor of this connection: take it from pageInfo or an edge.", field=field
        ) from error
