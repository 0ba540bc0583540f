"""Which SQL answers the root fields of a query, for given variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from graphql.execution import Executor
from graphql.execution.collect_fields import collect_fields
from graphql.execution.values import VariableValues, get_argument_values
from strawberry.types.arguments import convert_arguments

from app.errors import RequestError
from app.graphql.selection import Selected, select
from app.graphql.statement import write_statement

Selections: TypeAlias = Mapping[str, Selected | None]  # of root fields, by their keys
Statement: TypeAlias = tuple[str, tuple[Any, ...]]  # SQL and its arguments


def select_all(executor: Executor[Any]) -> Selections:
    """What the root fields of a query select; None for what isn't in the tables' types at all."""
    query = executor.schema.query_type
    assert query is not None  # noqa: S101 - every schema has one
    fields = collect_fields(executor.schema, executor.fragments, executor.variable_values, query, executor.operation)
    return {key: select(executor, query, key, details) for key, details in fields.grouped_field_set.items()}


def plan_field(selected: Selected | None, schema: Any, variables: VariableValues, most: int) -> Statement | None:
    """The statement that answers a root field; None where it has to be resolved.

    `schema` is Strawberry's; `most` are the rows that a page may have.
    """
    if selected is None:
        return None

    def read_arguments(asked: Selected) -> dict[str, Any]:
        assert asked.definition is not None and asked.declared is not None  # noqa: S101, PT018 - it has arguments
        given = get_argument_values(asked.definition, asked.first.node, variables)
        registry = schema.schema_converter.scalar_registry
        return convert_arguments(given, asked.declared.arguments, scalar_registry=registry, config=schema.config)

    try:
        statement = write_statement(selected, read_arguments, most)
    except RequestError:
        return None  # the resolver that it's about will say so, and where
    return None if statement is None else statement.number()
