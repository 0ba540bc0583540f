"""Indexes that Piccolo can't declare: over several columns, in an order, of some rows only; and the steps that make them.

On a table that is there already they are built without stopping its writers: CONCURRENTLY, which TimescaleDB has not for
hypertables, and there a transaction for each chunk. Neither can be in the migration's own transaction.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from app.timescale.expressions import quote_term
from app.timescale.locks import describe_statement
from app.timescale.steps import Hold, Lock, Step, Work

_STATEMENT = re.compile(
    r"""\s*(?:CREATE(?:\s+UNIQUE)?|DROP)\s+INDEX\s+(?::?CONCURRENTLY\s+)?(?:IF\s+(?:NOT\s+)?EXISTS\s+)?"""
    r"""("(?:[^"]|"")+"|[\w$]+)""",
    re.IGNORECASE,
)
_UNHURRIED = re.compile(r"\bCONCURRENTLY\b|\bWITH\s*\(\s*timescaledb\.transaction_per_chunk\s*\)", re.IGNORECASE)


@dataclass(frozen=True)
class Index:
    """`columns` are terms like "created_at DESC"; `where` an SQL condition on the rows that it holds.

    A `unique` one of a hypertable holds its time column.
    """

    name: str
    columns: tuple[str, ...]
    where: str | None = None
    unique: bool = False
    method: str = "btree"


def plan_indexes(
    table: str, old: Collection[Index], new: Collection[Index], *, hypertable: bool, busy: bool
) -> list[Step]:
    """The steps that take a table from some indexes to others.

    `hypertable` says what it's declared to be; a table that isn't `busy` is empty and seen by nobody else: the same
    transaction has made it.
    """
    gone = [index for index in old if index not in new]
    come = [index for index in new if index not in old]
    if busy:
        return [
            *(_drop(table, index, hypertable) for index in gone),
            *(each for it in come for each in _build(table, it, hypertable)),
        ]
    return [
        *(Step(f'DROP INDEX "{index.name}"', (Hold(table, Lock.ACCESS_EXCLUSIVE),)) for index in gone),
        *(Step(_create(table, index, head=f"CREATE {_kind(index)}"), (Hold(table, Lock.SHARE),)) for index in come),
    ]


def find_index(statement: str) -> str | None:
    """The name of the index that a statement makes or drops; None where it does something else."""
    match = _STATEMENT.match(statement)
    if match is None:
        return None
    return match[1][1:-1].replace('""', '"') if match[1].startswith('"') else match[1].lower()


def describe_leftover(statement: str) -> Step:
    """The step that a statement is that was written down to be run after a transaction."""
    return replace(
        describe_statement(statement.replace(":concurrently", "CONCURRENTLY"), transactional=False), sql=statement
    )


def settle_holds(step: Step, filled: str, cleared: str | None, *, hypertables: bool) -> tuple[Hold, ...]:
    """The locks of a step, of which it is known how it would run now and, with `cleared`, what would run before it.

    Where there are `hypertables`, a table that is declared to be one may have become one by then.
    """
    holds = step.holds
    if step.values is not None and find_index(filled) is not None:
        found = max(hold.lock for hold in describe_statement(filled).holds)
        holds = tuple(replace(hold, lock=max(found, hold.lock) if hypertables else found) for hold in holds)
    return holds if cleared is None else (*holds, *describe_statement(cleared).holds)


def make_transactional(statement: str) -> str:
    """The statement that makes or drops an index, for a table that nobody uses, so that a transaction can have it."""
    return _UNHURRIED.sub("", statement)


def _kind(index: Index) -> str:
    return "UNIQUE INDEX" if index.unique else "INDEX"


def _drop(table: str, index: Index, hypertable: bool) -> Step:
    return Step(
        f'DROP INDEX :concurrently IF EXISTS "{index.name}"',
        (Hold(table, Lock.ACCESS_EXCLUSIVE if hypertable else Lock.SHARE_UPDATE_EXCLUSIVE),),
        transactional=False,
        values=_ways(table),
    )


def _build(table: str, index: Index, hypertable: bool) -> Iterator[Step]:
    if index.unique and hypertable:
        # A transaction for each chunk can't see to it that all of them together are unique.
        head = "CREATE UNIQUE INDEX IF NOT EXISTS"
        yield Step(_create(table, index, head=head), (Hold(table, Lock.SHARE),), work=Work.INDEXES)
        return
    yield Step(
        _create(table, index, head=f"CREATE {_kind(index)} :concurrently IF NOT EXISTS", options=" :options"),
        (Hold(table, Lock.SHARE if hypertable else Lock.SHARE_UPDATE_EXCLUSIVE),),
        transactional=False,
        work=Work.INDEXES,
        values=_ways(table),
        cleanup=f"""
SELECT 'DROP INDEX ' || CASE WHEN cut THEN '' ELSE 'CONCURRENTLY ' END || 'IF EXISTS "{index.name}"'
FROM {_ask(table)}
WHERE EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('"{index.name}"') AND NOT indisvalid)""".strip(),
    )


def _create(table: str, index: Index, *, head: str, options: str = "") -> str:
    condition = f" WHERE {index.where}" if index.where else ""
    columns = ", ".join(map(quote_term, index.columns))
    return f'{head} "{index.name}" ON "{table}" USING {index.method} ({columns}){options}{condition}'


def _ways(table: str) -> str:
    """How an index is built or dropped here, by what the table is when it comes to it."""
    return f"""
SELECT CASE WHEN cut THEN '' ELSE 'CONCURRENTLY' END AS concurrently,
       CASE WHEN cut THEN 'WITH (timescaledb.transaction_per_chunk)' ELSE '' END AS options
FROM {_ask(table)}""".strip()


def _ask(table: str) -> str:
    """Whether the table is `cut` into chunks. The view of hypertables isn't on every server."""
    look = f"SELECT 1 AS n FROM timescaledb_information.hypertables WHERE hypertable_schema = current_schema() AND hypertable_name = '{table}'"
    quoted = look.replace("'", "''")
    return f"""(SELECT CASE WHEN to_regclass('timescaledb_information.hypertables') IS NULL THEN false
             ELSE query_to_xml('{quoted}', true, false, '')::text LIKE '%<n>%' END AS cut) AS asked"""
