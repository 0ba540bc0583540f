"""What an operation would cost, estimated before it's executed from its document and variables.

Arrives: a validated document, the variables as they were sent. Leaves: a Cost, which goes into `extensions.cost` of the
answer. Fails: QueryTooExpensive, which says which field costs the most and how to ask for less.

Rows multiply along the nesting: a page of 100 machines with 5 alerts each is 600 rows. What the fields weigh is in `weights`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    GraphQLField,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    OperationDefinitionNode,
    SchemaMetaFieldDef,
    SelectionSetNode,
    TypeMetaFieldDef,
    Undefined,
    get_named_type,
    is_list_type,
    is_non_null_type,
    value_from_ast_untyped,
)

from app.errors import QueryTooExpensive
from app.graphql.weights import (
    CHUNK,
    INTROSPECTED,
    LISTS,
    POINT,
    SCAN,
    count_page,
    count_page_chunks,
    count_points,
    count_range_chunks,
    count_related,
    count_unlisted,
)
from app.history.shapes import TableShape
from app.timescale.hypertable import Hypertable

LARGEST_TOLD = 2**53  # as every client can read it
READINGS = "raw_measurements"  # the table under every series


@dataclass(frozen=True)
class Cost:
    """`estimated` is in units of about a row; `rows` are objects and points of series, `chunks` those of hypertables."""

    estimated: int
    limit: int
    rows: int
    chunks: int


@dataclass
class _Bill:
    """What is added up on the way through an operation; `dearest` is the field that adds most, by itself."""

    fragments: Mapping[str, FragmentDefinitionNode]
    variables: dict[str, Any]
    intervals: Mapping[str, timedelta]  # of chunks, by table
    now: datetime
    weight: float = 0
    rows: int = 0
    chunks: int = 0
    dearest: str = ""
    highest: float = 0
    path: list[str] = field(default_factory=list)

    def add(self, *, rows: int = 0, chunks: int = 0, weight: float) -> None:
        self.rows += rows
        self.chunks += chunks
        total = weight + chunks * CHUNK
        self.weight += total
        if total > self.highest:
            self.highest, self.dearest = total, ".".join(self.path)


class CostModel:
    """Estimates operations against one schema."""

    def __init__(self, schema: GraphQLSchema, limit: int) -> None:
        self._schema = schema
        self._limit = limit

    def check(
        self,
        document: DocumentNode,
        operation: OperationDefinitionNode,
        variables: Mapping[str, Any],
        hypertables: Mapping[str, Hypertable],
        now: datetime,
    ) -> Cost:
        """What the operation costs; `hypertables` are those that are there, by table.

        Raises QueryTooExpensive, with the cost, where it is over the limit.
        """
        defaults = {
            node.variable.name.value: value_from_ast_untyped(node.default_value)
            for node in operation.variable_definitions or ()
            if node.default_value is not None
        }
        fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
        intervals = {name: table.chunk_interval for name, table in hypertables.items()}
        bill = _Bill(fragments, {**defaults, **variables}, intervals, now)
        root = self._schema.get_root_type(operation.operation)
        if root is not None:
            self._visit(bill, root, [operation.selection_set], times=1, page=1)
        cost = Cost(
            estimated=min(round(bill.weight), LARGEST_TOLD),
            limit=self._limit,
            rows=min(bill.rows, LARGEST_TOLD),
            chunks=bill.chunks,
        )
        if cost.estimated > cost.limit:
            raise QueryTooExpensive(
                f"The operation would cost {cost.estimated:,} ({cost.rows:,} rows and points, {cost.chunks:,} chunks), "
                f"and AURUM_GRAPHQL_MAX_COST allows {cost.limit:,}; {bill.dearest} costs the most. Ask for smaller pages, "
                "fewer machines or metrics, longer buckets, a smaller maxPoints or a shorter range.",
                field=bill.dearest,
                cost=asdict(cost),
            )
        return cost

    def _visit(
        self, bill: _Bill, parent: GraphQLObjectType, selections: Sequence[SelectionSetNode], times: int, page: int
    ) -> None:
        """Adds what is selected of `times` objects of type `parent`; of a connection, `page` is how many rows it has."""
        for name, nodes in _collect(bill, selections).items():
            definition = self._find_field(parent, nodes[0].name.value)
            if definition is None:
                continue
            bill.path.append(name)
            self._visit_field(bill, parent, definition, nodes, times, page)
            bill.path.pop()

    def _visit_field(
        self,
        bill: _Bill,
        parent: GraphQLObjectType,
        definition: GraphQLField,
        nodes: Sequence[FieldNode],
        times: int,
        page: int,
    ) -> None:
        name = nodes[0].name.value
        kind = get_named_type(definition.type)
        if not isinstance(kind, GraphQLObjectType):
            if name == "totalCount":
                bill.add(weight=SCAN * times)
            return
        selections = [node.selection_set for node in nodes if node.selection_set is not None]
        arguments = _read_arguments(bill, definition, nodes[0])
        if "first" in definition.args or "last" in definition.args:
            size = count_page(arguments)
            self._add_page(bill, parent, kind, arguments, size, times, name, selections)
            below = times if kind.name.endswith("Connection") else times * size
            self._visit(bill, kind, selections, below, size)
        elif parent.name.endswith("Connection") and _is_list(definition):
            self._visit(bill, kind, selections, times * page, page)  # its rows are counted already
        elif parent.name.endswith(("Connection", "Edge")):
            self._visit(bill, kind, selections, times, page)
        else:
            count = times * self._add_objects(bill, parent, kind, arguments, name, times, listed=_is_list(definition))
            self._visit(bill, kind, selections, count, page)

    def _add_page(
        self,
        bill: _Bill,
        parent: GraphQLObjectType,
        kind: GraphQLObjectType,
        arguments: Mapping[str, Any],
        size: int,
        times: int,
        name: str,
        selections: Sequence[SelectionSetNode],
    ) -> None:
        aggregated = name.endswith("Aggregate")
        paged = get_named_type(parent.fields[name.removesuffix("Aggregate")].type) if aggregated else kind
        counted = aggregated or "totalCount" in _collect(bill, selections)
        shape = _find_shape(paged)
        interval = _find_interval(bill, shape)
        chunks = 0 if interval is None else count_page_chunks(arguments, interval, bill.now, whole=counted)
        scans = int(aggregated)
        if shape is not None and arguments.get("where") is not None:
            related, looked_into = count_related(arguments["where"], shape, bill.intervals, bill.now)
            scans, chunks = scans + related, chunks + looked_into
        rows = times * size
        bill.add(rows=rows, chunks=chunks, weight=rows + SCAN * times * scans)

    def _add_objects(
        self,
        bill: _Bill,
        parent: GraphQLObjectType,
        kind: GraphQLObjectType,
        arguments: Mapping[str, Any],
        name: str,
        times: int,
        *,
        listed: bool,
    ) -> int:
        """How many objects each of `times` parents has in a field that doesn't page."""
        each = LISTS.get(f"{parent.name}.{name}", count_unlisted)(arguments) if listed else 1
        rows = times * each
        if kind.name == "Series":
            points = rows * count_points(arguments, bill.now)
            interval = bill.intervals.get(READINGS)
            chunks = 0 if interval is None else count_range_chunks(arguments, interval, bill.now)
            bill.add(rows=points, chunks=chunks, weight=rows + points * POINT)
        elif kind.name.startswith("__"):
            bill.add(weight=rows * INTROSPECTED)
        else:
            bill.add(rows=rows, chunks=0 if _find_interval(bill, _find_shape(kind)) is None else 1, weight=rows)
        return each

    def _find_field(self, parent: GraphQLObjectType, name: str) -> GraphQLField | None:
        return {"__schema": SchemaMetaFieldDef, "__type": TypeMetaFieldDef}.get(name) or parent.fields.get(name)


def _find_interval(bill: _Bill, shape: TableShape | None) -> timedelta | None:
    """The chunk interval of a table; None where it is no hypertable here."""
    return None if shape is None else bill.intervals.get(shape.name)


def _find_shape(kind: Any) -> TableShape | None:
    """The table whose rows a type, or a connection's nodes, show; None where it shows no table's."""
    if kind.name.endswith("Connection"):
        kind = get_named_type(kind.fields["nodes"].type)
    definition = kind.extensions.get("strawberry-definition")
    shape: TableShape | None = getattr(getattr(definition, "origin", None), "shape", None)
    return shape


def _is_list(definition: GraphQLField) -> bool:
    return is_list_type(definition.type.of_type if is_non_null_type(definition.type) else definition.type)


def _collect(bill: _Bill, selections: Sequence[SelectionSetNode]) -> dict[str, list[FieldNode]]:
    """The fields that one place of the answer gets, by their names in it; what @skip and @include leave out is left out."""
    asked: dict[str, list[FieldNode]] = {}
    spread: set[str] = set()  # once each, or fragments that spread each other's would take exponential time
    pending = list(reversed(selections))
    while pending:
        for node in pending.pop().selections:
            if not all(_applies(bill, node)):
                continue
            if isinstance(node, FieldNode):
                asked.setdefault((node.alias or node.name).value, []).append(node)
            elif isinstance(node, InlineFragmentNode):
                pending.append(node.selection_set)
            elif (name := node.name.value) not in spread:  # type: ignore[attr-defined]  # a spread
                spread.add(name)
                pending.append(bill.fragments[name].selection_set)
    return asked


def _applies(bill: _Bill, node: Any) -> Iterator[bool]:
    for directive in node.directives or ():
        if directive.name.value in {"skip", "include"} and directive.arguments:
            wanted = value_from_ast_untyped(directive.arguments[0].value, bill.variables)
            yield bool(wanted) is (directive.name.value == "include")


def _read_arguments(bill: _Bill, definition: GraphQLField, node: FieldNode) -> dict[str, Any]:
    defaults = {name: argument.default_value for name, argument in definition.args.items()}
    given = {each.name.value: value_from_ast_untyped(each.value, bill.variables) for each in node.arguments or ()}
    together = {**defaults, **{name: value for name, value in given.items() if value is not Undefined}}
    return {name: value for name, value in together.items() if value is not Undefined}
