"""What queries and changes of rows lock, and whether they are questions. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.timescale.steps import ANYTHING, Hold, Lock, Work, sum_holds

# Functions without an effect that anyone waits for. Of those that sqlglot doesn't know, any other may do anything.
_HARMLESS = {"setval", "nextval", "currval", "set_config", "pg_notify", "pg_sleep", "gen_random_uuid", "format"}
_HARMLESS |= {"quote_ident", "jsonb_typeof", "jsonb_set", "to_jsonb", "jsonb_build_object", "time_bucket"}
# Functions that are asked for their answer.
_READING = {"to_regclass", "current_setting", "obj_description", "pg_get_constraintdef", "pg_get_expr", "version"}


def describe_query(sql: str) -> tuple[tuple[Hold, ...], Work, bool]:
    """The locks, the work, and whether it asks for an answer rather than be run for what it does."""
    # Few migrations have one, and importing it takes a third of a second.
    import sqlglot  # noqa: PLC0415 - as said

    try:
        tree = sqlglot.parse_one(sql, dialect="postgres")
    except sqlglot.errors.SqlglotError:
        return ANYTHING, Work.NOTHING, False
    holds = sum_holds(_find_holds(tree))
    calls = _find_calls(tree)
    if calls - _HARMLESS - _READING:
        holds = (*holds, *ANYTHING)
    return holds, Work.GROWS if holds and not _is_counted(tree) else Work.NOTHING, _asks(tree)


def _is_counted(tree: Any) -> bool:
    """Whether it adds the rows that it names, however many others there are."""
    from sqlglot import exp  # noqa: PLC0415 - as above

    return isinstance(tree, exp.Insert) and tree.find(exp.Select) is None


def _find_holds(tree: Any) -> Iterator[Hold]:
    from sqlglot import exp  # noqa: PLC0415 - as above

    named = {each.alias for each in tree.find_all(exp.CTE)}
    changed = {id(each.find(exp.Table)) for each in tree.find_all(exp.Insert, exp.Update, exp.Delete, exp.Merge)}
    for table in tree.find_all(exp.Table):
        if not isinstance(table.this, exp.Identifier) or (table.name in named and not table.db):
            continue
        lock = Lock.ACCESS_SHARE
        if id(table) in changed:
            lock = Lock.ROW_EXCLUSIVE
        elif (select := table.find_ancestor(exp.Select)) is not None and select.args.get("locks"):
            lock = Lock.ROW_SHARE
        yield Hold(_name(table), lock)


def _name(table: Any) -> str:
    parts = (table.args.get("db"), table.this)
    return ".".join(part.name if part.quoted else part.name.lower() for part in parts if part is not None)


def _find_calls(tree: Any) -> set[str]:
    from sqlglot import exp  # noqa: PLC0415 - as above

    return {each.name.lower() for each in tree.find_all(exp.Anonymous)}


def _asks(tree: Any) -> bool:
    """A SELECT whose columns are no calls of functions that might do something."""
    from sqlglot import exp  # noqa: PLC0415 - as above

    if not isinstance(tree, exp.Query) or tree.find(exp.Insert, exp.Update, exp.Delete, exp.Merge):
        return False
    return not any(_find_calls(column) - _READING for column in tree.selects)
