"""What keeps clients from asking for more than the service can give, as the settings have it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from app.graphql.limits import DocumentLimits
from app.graphql.operations import AllowedOperations


@dataclass(frozen=True, kw_only=True)
class Protection:
    """`limits` are of documents and variables, before anything is executed; `timeout` is of executing a query or mutation;
    `max_cost` is what one operation may be estimated to cost; `allowed` is what clients may name;
    `introspection` lets them ask for the schema, and `graphiql` serves them a page."""

    limits: DocumentLimits
    timeout: timedelta
    max_cost: int
    allowed: AllowedOperations
    introspection: bool
    graphiql: bool
