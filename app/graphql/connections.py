"""Pages of rows after Relay's fashion: one implementation for every table, at the root and on a machine."""

from __future__ import annotations

from typing import Any, Generic, Protocol, Self, TypeVar

import strawberry

from app.errors import InvalidInput
from app.graphql.context import Info
from app.graphql.filters import read_order, read_where
from app.graphql.inputs import ORDERS, WHERES
from app.graphql.standing import Pages, stand
from app.history.clauses import Clause
from app.history.fields import Record
from app.history.pages import ROW, Page, PageRequest, count_rows, find_page
from app.history.shapes import TableShape

MOST_COUNTED = 2**31 - 1  # what GraphQL's Int holds

Node = TypeVar("Node")


class Entity(Protocol):
    """A GraphQL type that shows a row of a table."""

    @classmethod
    def read(cls, record: Record) -> Self: ...


@strawberry.type(description="Where a page lies among all the rows.")
class PageInfo:
    has_next_page: bool
    has_previous_page: bool
    start_cursor: str | None
    end_cursor: str | None


@strawberry.type(description="A row, and the cursor that stands behind it.")
class Edge(Generic[Node]):
    cursor: str
    node: Node


@strawberry.type(description="A page of rows.")
class Connection(Generic[Node]):
    edges: list[Edge[Node]]
    nodes: list[Node]
    page_info: PageInfo
    counted: strawberry.Private[tuple[TableShape, Clause]]
    owner: strawberry.Private[str | None]

    @strawberry.field(description="How many rows all pages hold together; counted only when it's asked for.")
    async def total_count(self, info: Info) -> int:
        if self.owner is not None:
            count = await info.context.loaders.count.load((self.owner, self.counted))
        else:
            async with info.context.rooms.database.reading() as connection:
                count = await count_rows(connection, *self.counted)
        if count > MOST_COUNTED:
            raise InvalidInput(
                f"totalCount is {count:,}, and an Int holds {MOST_COUNTED:,} at most: the aggregate beside this connection "
                "has it as `count`, a Float.",
                field="totalCount",
            )
        return count

    @classmethod
    def wrap(
        cls, page: Page, nodes: list[Node], counted: tuple[TableShape, Clause], owner: str | None
    ) -> Connection[Node]:
        return cls(
            edges=[Edge(cursor=cursor, node=node) for cursor, node in zip(page.cursors, nodes, strict=True)],
            nodes=nodes,
            page_info=PageInfo(
                has_next_page=page.has_next,
                has_previous_page=page.has_previous,
                start_cursor=page.cursors[0] if page.cursors else None,
                end_cursor=page.cursors[-1] if page.cursors else None,
            ),
            counted=counted,
            owner=owner,
        )


def read_request(
    shape: TableShape,
    most: int,
    where: Any = None,
    order_by: Any = None,
    first: int | None = None,
    after: str | None = None,
    last: int | None = None,
    before: str | None = None,
) -> PageRequest:
    """What the arguments of a connection ask for, of which `most` rows are given. Raises InvalidInput."""
    kept = read_where(shape, where, row=ROW)
    return PageRequest(kept, read_order(shape, order_by), first, after, last, before, most)


def connect(shape: TableShape, entity: type[Entity], *, owned: bool = False) -> Any:
    """A field that pages through a table: through all of it, or through the rows of the machine that it's a field of."""

    async def resolve(
        self: Any,
        info: Info,
        where: Any = None,
        order_by: Any = None,
        first: int | None = None,
        after: str | None = None,
        last: int | None = None,
        before: str | None = None,
    ) -> Any:
        most = info.context.rooms.max_page_rows
        request = read_request(shape, most, where, order_by, first, after, last, before)
        owner = self.machine_id if owned else None
        if owner is not None:
            page = await info.context.loaders.page.load((owner, (shape, request)))
        else:
            async with info.context.rooms.database.reading() as connection:
                page = await find_page(connection, shape, request)
        nodes = [entity.read(record) for record in page.rows]
        return Connection.wrap(page, nodes, (shape, request.where), owner)

    resolve.__annotations__ |= {
        "where": WHERES[shape.entity] | None,
        "order_by": list[ORDERS[shape.entity]] | None,  # type: ignore[name-defined, valid-type]  # made from the shape
        "return": Connection[entity],  # type: ignore[valid-type]  # as the caller says
    }
    (term, *_) = shape.order
    order = "The newest first" if term.descending else "By machineId"
    return strawberry.field(
        resolve, description=f"{order} where no order is given.", metadata=stand(Pages(shape, owned))
    )
