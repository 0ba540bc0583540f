"""What an operation selects, as a tree: fragments spread, @skip and @include decided, aliases as keys.

It depends on the operation and on the variables of its directives alone, so it's made once for many requests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from graphql import GraphQLField, GraphQLObjectType, get_named_type
from graphql.execution import Executor
from graphql.execution.collect_fields import FieldDetails, collect_subfields
from strawberry.types.field import StrawberryField

from app.history.clauses import Clause

TYPENAME = "__typename"


@dataclass(frozen=True, eq=False)
class Selected:
    """A field under the `key` that its answer goes under; `first` is where its arguments stand. `below` is empty for a leaf.

    `declared` is Strawberry's, None for `__typename`. `owner` is the type that it's a field of. `written` is for what was
    made of what is below, where no argument changes it.
    """

    key: str
    name: str
    owner: GraphQLObjectType
    definition: GraphQLField | None
    declared: StrawberryField | None
    first: FieldDetails
    below: tuple[Selected, ...]
    written: dict[str, Clause] = field(default_factory=dict)


def select(executor: Executor[Any], owner: GraphQLObjectType, key: str, details: list[FieldDetails]) -> Selected | None:
    """The tree below a field of a validated operation; None where it asks for what is not Strawberry's, as introspection."""
    first = details[0]
    name = first.node.name.value
    if name == TYPENAME:
        return Selected(key, name, owner, None, None, first, ())
    asked = owner.fields.get(name)
    declared = None if asked is None else asked.extensions.get("strawberry-definition")
    if asked is None or not isinstance(declared, StrawberryField):
        return None
    below: list[Selected] = []
    kind = get_named_type(asked.type)
    if isinstance(kind, GraphQLObjectType):
        collected = collect_subfields(
            executor.schema, executor.fragments, executor.variable_values, executor.operation, kind, details
        )
        for inner_key, inner_details in collected.grouped_field_set.items():
            selected = select(executor, kind, inner_key, inner_details)
            if selected is None:
                return None
            below.append(selected)
    return Selected(key, name, owner, asked, declared, first, tuple(below))
