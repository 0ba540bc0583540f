"""Queries of rows by their keys, planned once for all keys: of the statement only the arguments change with the variables.

Arrives: what an operation selects. Leaves: for each root field its statement, with the names of variables where their values
go. An operation is prepared only where each variable is a text or an id that may not be null and is the key of a root field, and
nothing below depends on one: then no value of theirs can change the statement, and none is refused that isn't null.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from graphql import ArgumentNode, NonNullTypeNode, OperationDefinitionNode, VariableNode, Visitor, visit
from graphql.execution.values import VariableValues

from app.graphql.planner import Fetch, Selections, fetch_text, read_arguments
from app.graphql.selection import Selected
from app.graphql.standing import ByKey, find_standing
from app.graphql.statement import write_statement


class _Slot(msgspec.Struct, frozen=True):
    """Where the value of a variable goes."""

    name: str


class _Dependent(Exception):
    """An argument depends on a variable, and is no key."""


class Prepared(msgspec.Struct, frozen=True):
    """Statements and their arguments by the key of their root field; `names` are the variables."""

    names: frozenset[str]
    statements: dict[str, tuple[str, tuple[Any, ...]]]

    def fill(self, variables: Mapping[str, Any]) -> dict[str, Fetch] | None:
        """What fetches the root fields; None for other variables than those, or another value than a text."""
        if variables.keys() != self.names:
            return None
        for value in variables.values():
            if type(value) is not str:  # an id may be a number as well
                return None
        return {
            key: partial(
                fetch_text, sql, tuple(variables[each.name] if type(each) is _Slot else each for each in given)
            )
            for key, (sql, given) in self.statements.items()
        }


def prepare(
    node: OperationDefinitionNode, selections: Selections, schema: Any, variables: VariableValues, most: int
) -> Prepared | None:
    """None where the plan depends on the values of the variables. `schema` is Strawberry's, `variables` are any that fit, and
    `most` is how many rows a page may have."""
    definitions = node.variable_definitions or ()
    if any(not isinstance(each.type, NonNullTypeNode) or each.default_value for each in definitions):
        return None

    def read(selected: Selected) -> dict[str, Any]:
        arguments = selected.first.node.arguments or ()
        if _is_by_key(selected):
            (argument,) = arguments
            if isinstance(argument.value, VariableNode):
                return {argument.name.value: _Slot(argument.value.name.value)}
        if any(map(_names_variable, arguments)):
            raise _Dependent
        return read_arguments(schema, variables, selected)

    statements: dict[str, tuple[str, tuple[Any, ...]]] = {}
    for key, selected in selections.items():
        if selected is None or not _is_by_key(selected):
            return None
        try:
            statement = write_statement(selected, read, most)
        except _Dependent:
            return None
        if statement is None:
            return None
        statements[key] = statement.number()
    return Prepared(frozenset(each.variable.name.value for each in definitions), statements)


def _is_by_key(selected: Selected) -> bool:
    return selected.declared is not None and isinstance(find_standing(selected.declared), ByKey)


def _names_variable(argument: ArgumentNode) -> bool:
    finder = _Finder()
    visit(argument, finder)
    return finder.found


class _Finder(Visitor):
    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def enter_variable(self, *_: Any) -> None:
        self.found = True
