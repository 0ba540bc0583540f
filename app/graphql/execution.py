"""Runs operations: what stands on tables as SQL that answers JSON, everything else by its resolvers, in one operation.

graphql-core runs each operation; for a root field of a query that can be planned, the text that PostgreSQL has built
takes the place of what the resolvers would have made (msgspec.Raw, which the encoder passes on untouched).
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import msgspec
from graphql import GraphQLObjectType
from graphql.execution.collect_fields import FieldDetails
from graphql.pyutils import AwaitableOrValue, Path

from app.graphql.context import Context
from app.graphql.planner import Fetch, plan_field
from app.graphql.selection import select
from app.graphql.sharing import SharingExecutor


class PlanningExecutor(SharingExecutor):
    """graphql-core's executor, which takes whole root fields as text where it can."""

    context_value: Context

    def execute_field(
        self,
        parent_type: GraphQLObjectType,
        source: Any,
        field_details_list: list[FieldDetails],
        path: Path,
        position_context: Any,
    ) -> AwaitableOrValue[Any]:
        if path.prev is None and parent_type is self.schema.query_type:
            selected = select(self, parent_type, str(path.key), field_details_list)
            schema = self.schema._strawberry_schema  # type: ignore[attr-defined]  # noqa: SLF001 - where Strawberry has put it
            fetch = plan_field(selected, schema, self.variable_values, self.context_value.rooms.max_page_rows)
            if fetch is not None:
                return self._answer(fetch, parent_type, source, field_details_list, path, position_context)
        return super().execute_field(parent_type, source, field_details_list, path, position_context)

    async def _answer(
        self,
        fetch: Fetch,
        parent_type: GraphQLObjectType,
        source: Any,
        details: list[FieldDetails],
        path: Path,
        position_context: Any,
    ) -> Any:
        try:
            text = await fetch(self.context_value.rooms)
        except Exception as error:  # noqa: BLE001 - a field's error, whatever it is, as of a resolver
            field = parent_type.fields[details[0].node.name.value]
            self.handle_field_error(error, field.type, details, path)
            return None
        if text is not None:
            return msgspec.Raw(text)
        return await self._resolve(parent_type, source, details, path, position_context)

    async def _resolve(
        self,
        parent_type: GraphQLObjectType,
        source: Any,
        details: list[FieldDetails],
        path: Path,
        position_context: Any,
    ) -> Any:
        completed = super().execute_field(parent_type, source, details, path, position_context)
        return await completed if isinstance(completed, Awaitable) else completed
