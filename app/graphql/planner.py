"""How the root fields of a query are answered as JSON text, for given variables: by one SQL statement each, or as columns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

from graphql import GraphQLError
from graphql.execution import Executor
from graphql.execution.collect_fields import collect_fields
from graphql.execution.values import VariableValues, get_argument_values
from strawberry.types.arguments import convert_arguments

from app.errors import RequestError
from app.graphql.connections import MOST_COUNTED
from app.graphql.context import Rooms
from app.graphql.selection import Selected, select
from app.graphql.series import make_question, write_series
from app.graphql.standing import Columns, find_standing
from app.graphql.statement import UNUSUAL, write_statement
from app.history.series import MANY, SeriesQuestion, find_series
from app.instants import read_clock

Selections: TypeAlias = Mapping[str, Selected | None]  # of root fields, by their keys
# Gives the text, from the rooms of whoever asks, or None where only the resolvers can say what the answer is. A plan is
# made without regard to them, and serves everybody. Raises RequestError.
Fetch: TypeAlias = Callable[[Rooms], Awaitable[bytes | None]]


def select_all(executor: Executor[Any]) -> Selections:
    """What the root fields of a query select; None for what isn't in the tables' types at all."""
    query = executor.schema.query_type
    assert query is not None  # noqa: S101 - every schema has one
    fields = collect_fields(executor.schema, executor.fragments, executor.variable_values, query, executor.operation)
    return {key: select(executor, query, key, details) for key, details in fields.grouped_field_set.items()}


def plan_field(selected: Selected | None, schema: Any, variables: VariableValues, most: int) -> Fetch | None:
    """What fetches a root field's text; None where it has to be resolved. `schema` is Strawberry's, `most` how many rows a
    page may have."""
    if selected is None or selected.declared is None:
        return None
    read = partial(read_arguments, schema, variables)
    try:
        if isinstance(find_standing(selected.declared), Columns):
            keys = [(part.key, part.name) for part in selected.below]
            return partial(_fetch_series, keys, read(selected))
        statement = write_statement(selected, read, most)
    except (RequestError, GraphQLError):
        return None  # the resolver that it's about will say so, and where
    return None if statement is None else partial(fetch_text, *statement.number())


def read_arguments(schema: Any, variables: VariableValues, asked: Selected) -> dict[str, Any]:
    """A field's arguments, as its resolver would get them."""
    assert asked.definition is not None and asked.declared is not None  # noqa: S101, PT018 - it has arguments
    given = get_argument_values(asked.definition, asked.first.node, variables)
    registry = schema.schema_converter.scalar_registry
    return convert_arguments(given, asked.declared.arguments, scalar_registry=registry, config=schema.config)


async def fetch_text(sql: str, arguments: tuple[Any, ...], rooms: Rooms) -> bytes | None:
    """The one value of a statement of `write_statement`'s."""
    async with rooms.database.reading() as connection:
        text: str | None = await connection.fetchval(sql, *arguments)
    return None if text is None or UNUSUAL in text else text.encode()


async def _fetch_series(keys: list[tuple[str, str]], asked: Mapping[str, Any], rooms: Rooms) -> bytes | None:
    question = _ask_for_series(**asked)
    found = await find_series(rooms.database, question, rooms.series)
    if any(columns.source_rows > MOST_COUNTED for columns in found):
        return None
    if sum(len(columns.instants) for columns in found) > MANY:
        return await asyncio.to_thread(write_series, found, keys)
    return write_series(found, keys)


def _ask_for_series(
    machine_ids: list[str],
    from_: Any,
    *,
    to: Any = None,
    metrics: Any = None,
    bucket: Any = None,
    aggregate: Any,
    fill: Any,
    max_points: int,
) -> SeriesQuestion:
    return make_question(machine_ids, metrics, from_, to or read_clock(), bucket, aggregate, fill, max_points)
