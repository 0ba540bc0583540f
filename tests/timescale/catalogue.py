"""What a database holds, and what its tables' declarations alone would make: both in the server's own words."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
from piccolo.table import Table, sort_table_classes

from app.database import probe_edition
from app.timescale.declared import get_hypertable
from app.timescale.definitions import Catalogue, read_catalogue
from app.timescale.indexes import plan_indexes
from app.timescale.transitions import plan_transition


async def look(url: str, schema: str = "public") -> Catalogue:
    """What is there."""
    connection = await asyncpg.connect(url)
    try:
        edition = await probe_edition(connection, timescale="auto")
        return await read_catalogue(connection, schema, hypertables=edition.has_hypertables)
    finally:
        await connection.close()


async def build(url: str, tables: Sequence[type[Table]]) -> Catalogue:
    """What the declarations make where there is nothing yet, without any migration. Piccolo must know an engine."""
    connection = await asyncpg.connect(url)
    try:
        edition = await probe_edition(connection, timescale="auto")
        await connection.execute("BEGIN; CREATE SCHEMA fresh; SET LOCAL search_path = fresh, public")
        for table in sort_table_classes(list(tables)):
            for statement in table.create_table().ddl:
                await connection.execute(statement)
            name, declared = table._meta.tablename, get_hypertable(table)
            indexes = getattr(table, "declared_indexes", ())
            for step in (
                *plan_transition(name, None, declared),
                *plan_indexes(name, (), indexes, hypertable=declared is not None, busy=False),
            ):
                if step.transactional:
                    await connection.execute(step.sql)
        return await read_catalogue(connection, "fresh", hypertables=edition.has_hypertables)
    finally:
        await connection.close()
