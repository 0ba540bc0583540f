"""Whether whoever asks may do all that an operation names, before any of it is done.

An operation is refused as a whole, and by what it names, whatever @skip and @include say of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLSchema,
    Node,
    OperationDefinitionNode,
    TypeInfo,
    TypeInfoVisitor,
    Visitor,
    visit,
)

from app.access.entrance import ASKED_FOR
from app.access.matrix import Rule, describe_refusal, find_field_rule
from app.access.principal import Principal
from app.errors import Forbidden, Unauthenticated


@dataclass(frozen=True)
class Need:
    """A rule, and the first field of an operation that is under it."""

    field: str
    rule: Rule


def find_needs(schema: GraphQLSchema, document: DocumentNode, operation: OperationDefinitionNode) -> tuple[Need, ...]:
    """What one must be allowed to execute an operation of a validated document."""
    fragments = {
        definition.name.value: definition
        for definition in document.definitions
        if isinstance(definition, FragmentDefinitionNode)
    }
    collector = _Collector(schema)
    seen: set[str] = set()
    nodes: Iterable[Node] = [operation]
    while nodes:
        for node in nodes:
            collector.read(node)
        waiting = [name for name in dict.fromkeys(collector.spread) if name not in seen]
        seen.update(waiting)
        nodes = [fragments[name] for name in waiting]
    return tuple(Need(field, rule) for rule, field in collector.needs.items())


def require_allowed(needs: Iterable[Need], principal: Principal | None) -> None:
    """Raises Unauthenticated for nobody, and Forbidden, which names the field that is not for them."""
    if principal is None:
        raise Unauthenticated(ASKED_FOR)
    for need in needs:
        if not need.rule.allows(principal):
            raise Forbidden(describe_refusal(need.field, need.rule, principal), field=need.field)


class _Collector(Visitor):
    def __init__(self, schema: GraphQLSchema) -> None:
        super().__init__()
        self._schema = schema
        self._types = TypeInfo(schema)
        self.needs: dict[Rule, str] = {}
        self.spread: list[str] = []

    def read(self, node: Node) -> None:
        visit(node, TypeInfoVisitor(self._types, self))

    def enter_field(self, node: FieldNode, *_: Any) -> None:
        owner = self._types.get_parent_type()
        rule = None if owner is None else find_field_rule(owner.name, node.name.value)
        if owner is not None and rule is not None:
            self.needs.setdefault(rule, f"{owner.name}.{node.name.value}")

    def enter_fragment_spread(self, node: FragmentSpreadNode, *_: Any) -> None:
        self.spread.append(node.name.value)
