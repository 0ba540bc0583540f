"""What a statement that we did not plan ourselves locks, and what it does to the rows that are there. Pure.

By PostgreSQL's documentation, versions 15 to 18, and a test that asks a server of every rule. Left out is what nobody but
DDL waits for: the ROW SHARE of a foreign key's check, and locks on indexes, sequences and the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from app.timescale.alterations import Finding, describe_alteration, find_references
from app.timescale.cursor import Cursor
from app.timescale.queries import describe_query
from app.timescale.steps import ANYTHING, Hold, Lock, Reach, Step, Work, sum_holds

_FREE: Finding = ((), Work.NOTHING)
_UNKNOWN: Finding = (ANYTHING, Work.NOTHING)
# What a new table may be made after, and the lock on that.
_MODELS = {
    "PARTITION OF": Lock.ACCESS_EXCLUSIVE,
    "INHERITS (": Lock.SHARE_UPDATE_EXCLUSIVE,
    "( LIKE": Lock.ACCESS_SHARE,
    ", LIKE": Lock.ACCESS_SHARE,
}
# What may come after the query of a table or view.
_LAST = [["WITH", "NO", "DATA"], ["WITH", "DATA"]]
_QUERIES = {"SELECT", "WITH", "VALUES", "TABLE", "INSERT", "UPDATE", "DELETE", "MERGE"}


def describe_statement(sql: str, *, transactional: bool = True) -> Step:
    """The step that a statement of Piccolo's, or of a raw step, is. What can't be read has an UNKNOWN lock."""
    cursor = Cursor(sql)
    if cursor.rest and cursor.rest[0].word in _QUERIES:
        holds, work, asks = describe_query(sql)
        return Step(sql, holds, transactional=transactional, work=work, asks=asks)
    phrase = cursor.take_any(*_RULES)
    holds, work = _UNKNOWN if phrase is None else _RULES[phrase](cursor)
    return Step(sql, sum_holds(holds), transactional=transactional, work=work, asks=phrase == "SHOW")


def settle_new(steps: Sequence[Step]) -> list[Step]:
    """The steps of one transaction, knowing that nobody waits for a table that it made, nor has such a table rows yet."""
    made: set[str] = set()
    empty: set[str] = set()
    settled = []
    for step in steps:
        new = {hold.table for hold in step.holds if hold.lock is Lock.NEW}
        holds = step.holds
        bare = bool(holds) and holds[0].table in empty
        if bare and step.work is Work.GROWS:
            holds = tuple(
                hold for hold in holds if hold.reach is Reach.TABLE
            )  # the others are for the sake of the rows
        holds = sum_holds(
            replace(hold, lock=min(hold.lock, Lock.NEW)) if hold.table in made and hold.reach is Reach.TABLE else hold
            for hold in holds
        )
        settled.append(replace(step, holds=holds, work=Work.NOTHING if bare else step.work))
        made |= new
        empty |= new if step.work is Work.NOTHING else set()
        empty -= {hold.table for hold in step.holds if hold.lock is Lock.ROW_EXCLUSIVE}
    return settled


def _take(lock: Lock, work: Work = Work.NOTHING) -> Callable[[Cursor], Finding]:
    """The rule of a statement whose tables come next."""

    def rule(cursor: Cursor) -> Finding:
        cursor.take("IF", "EXISTS")
        return tuple(Hold(table, lock) for table in cursor.pop_tables()), work

    return rule


def _take_on(lock: Lock, *words: str) -> Callable[[Cursor], Finding]:
    """The rule of a statement that names its table after ON, or another word."""

    def rule(cursor: Cursor) -> Finding:
        for word in words or ("ON",):
            if cursor.seek(word):
                return (Hold(cursor.pop_table(), lock),), Work.NOTHING
        return _UNKNOWN

    return rule


def _let_go(_: Cursor) -> Finding:
    return _FREE


def _create_table(cursor: Cursor) -> Finding:
    cursor.take("IF", "NOT", "EXISTS")
    table = cursor.pop_name()
    holds = [Hold(table, Lock.NEW), *find_references(cursor, table)]
    for phrase, lock in _MODELS.items():
        holds += [Hold(name, lock) for place in cursor.find_all(*phrase.split()) for name in place.pop_tables()]
    return _add_sources(holds, cursor, Work.GROWS)


def _create_view(cursor: Cursor) -> Finding:
    return _add_sources([Hold(cursor.pop_name(), Lock.NEW)], cursor, Work.NOTHING)


def _replace_view(cursor: Cursor) -> Finding:
    return _add_sources([Hold(cursor.pop_name(), Lock.ACCESS_EXCLUSIVE)], cursor, Work.NOTHING)


def _create_materialized_view(cursor: Cursor) -> Finding:
    cursor.take("IF", "NOT", "EXISTS")
    view = cursor.pop_name()
    filled = not cursor.contains("WITH", "NO", "DATA")
    return _add_sources([Hold(view, Lock.NEW)], cursor, Work.GROWS if filled else Work.NOTHING)


def _add_sources(holds: list[Hold], cursor: Cursor, work: Work) -> Finding:
    """With the tables that the query after AS reads, if there is one."""
    if not cursor.seek("AS"):
        return tuple(holds), Work.NOTHING
    words = [token.word for token in cursor.rest]
    end = next((-len(last) for last in _LAST if words[-len(last) :] == last), None)
    query = " ".join(token.text for token in cursor.rest[:end])
    return (*holds, *describe_query(query)[0]), work


def _create_index(cursor: Cursor) -> Finding:
    lock = Lock.SHARE_UPDATE_EXCLUSIVE if cursor.take("CONCURRENTLY") else Lock.SHARE
    cursor.seek("ON")
    return (Hold(cursor.pop_table(), lock),), Work.INDEXES


def _drop_table(cursor: Cursor) -> Finding:
    cursor.take("IF", "EXISTS")
    tables = cursor.pop_tables()
    reach = Reach.DEPENDENT if cursor.take("CASCADE") else None
    return tuple(
        hold
        for table in tables
        for hold in (
            Hold(table, Lock.ACCESS_EXCLUSIVE),
            Hold(table, Lock.ACCESS_EXCLUSIVE, Reach.REFERRED),
            *((Hold(table, Lock.ACCESS_EXCLUSIVE, reach),) if reach else ()),
        )
    ), Work.NOTHING


def _drop_index(cursor: Cursor) -> Finding:
    lock = Lock.SHARE_UPDATE_EXCLUSIVE if cursor.take("CONCURRENTLY") else Lock.ACCESS_EXCLUSIVE
    cursor.take("IF", "EXISTS")
    return tuple(Hold(index, lock, Reach.INDEXED) for index in cursor.pop_tables()), Work.NOTHING


def _drop_other(cursor: Cursor) -> Finding:
    """What has no lock on a table of its own, unless it takes others along."""
    return _UNKNOWN if cursor.contains("CASCADE") else _FREE


def _drop_view(cursor: Cursor) -> Finding:
    cursor.take("IF", "EXISTS")
    views = cursor.pop_tables()
    reaches = (Reach.TABLE, Reach.DEPENDENT) if cursor.take("CASCADE") else (Reach.TABLE,)
    return tuple(Hold(view, Lock.ACCESS_EXCLUSIVE, reach) for view in views for reach in reaches), Work.NOTHING


def _truncate(cursor: Cursor) -> Finding:
    cursor.take("TABLE")
    tables = cursor.pop_tables()
    reaches = (Reach.TABLE, Reach.DEPENDENT) if cursor.contains("CASCADE") else (Reach.TABLE,)
    return tuple(Hold(table, Lock.ACCESS_EXCLUSIVE, reach) for table in tables for reach in reaches), Work.NOTHING


def _lock(cursor: Cursor) -> Finding:
    cursor.take("TABLE")
    tables = cursor.pop_tables()
    mode = "_".join(token.word for token in cursor.rest if token.word not in {"IN", "MODE", "NOWAIT"})
    lock = Lock[mode] if mode in Lock.__members__ else Lock.UNKNOWN if mode else Lock.ACCESS_EXCLUSIVE
    return tuple(Hold(table, lock) for table in tables), Work.NOTHING


def _comment(cursor: Cursor) -> Finding:
    if cursor.take_any("CONSTRAINT", "TRIGGER", "POLICY", "RULE") is not None:
        return _take_on(Lock.ACCESS_SHARE)(cursor)
    kind = cursor.take_any("TABLE", "VIEW", "MATERIALIZED VIEW", "COLUMN")
    if kind is None:
        return _FREE
    name = cursor.pop_name()
    return (Hold(name.rpartition(".")[0] if kind == "COLUMN" else name, Lock.SHARE_UPDATE_EXCLUSIVE),), Work.NOTHING


def _reindex(cursor: Cursor) -> Finding:
    options = cursor.take("(")
    if options:
        cursor.seek(")")
    kind = cursor.take_any("TABLE", "INDEX")
    if kind is None:
        return _UNKNOWN
    lock = Lock.SHARE_UPDATE_EXCLUSIVE if cursor.take("CONCURRENTLY") else Lock.SHARE
    reach = Reach.TABLE if kind == "TABLE" else Reach.INDEXED
    return (Hold(cursor.pop_name(), lock, reach),), Work.INDEXES


def _refresh(cursor: Cursor) -> Finding:
    lock = Lock.EXCLUSIVE if cursor.take("CONCURRENTLY") else Lock.ACCESS_EXCLUSIVE
    return (Hold(cursor.pop_name(), lock),), Work.GROWS


def _vacuum(cursor: Cursor) -> Finding:
    full = cursor.contains("FULL")
    while cursor.take_any("FULL", "FREEZE", "VERBOSE", "ANALYZE") is not None:
        pass
    if cursor.take("("):
        cursor.seek(")")
    if not cursor.rest:
        return _UNKNOWN
    lock = Lock.ACCESS_EXCLUSIVE if full else Lock.SHARE_UPDATE_EXCLUSIVE
    return (Hold(cursor.pop_table(), lock),), Work.REWRITES if full else Work.READS


def _call(cursor: Cursor) -> Finding:
    if cursor.pop_name().rpartition(".")[2] != "refresh_continuous_aggregate":
        return _UNKNOWN
    cursor.take("(")
    name = cursor.pop().text.strip("'")
    return (Hold(name.strip('"'), Lock.EXCLUSIVE),), Work.GROWS


def _grant(cursor: Cursor) -> Finding:
    cursor.seek("ON")
    if cursor.take_any("SCHEMA", "SEQUENCE", "FUNCTION", "PROCEDURE", "DATABASE", "TYPE", "ALL", "LANGUAGE", "DOMAIN"):
        return _FREE
    cursor.take("TABLE")
    return tuple(Hold(table, Lock.ACCESS_SHARE) for table in cursor.pop_tables()), Work.NOTHING


_OBJECTS = ["SCHEMA", "SEQUENCE", "TYPE", "FUNCTION", "PROCEDURE", "EXTENSION", "ROLE", "USER", "DOMAIN", "COLLATION"]

# By the first words of a statement, the longer before the shorter.
_RULES: dict[str, Callable[[Cursor], Finding]] = {
    "ALTER TABLE": describe_alteration,
    **dict.fromkeys(["ALTER VIEW", "ALTER MATERIALIZED VIEW"], _take(Lock.ACCESS_EXCLUSIVE)),
    **dict.fromkeys(["ALTER TRIGGER", "ALTER POLICY"], _take_on(Lock.ACCESS_EXCLUSIVE)),
    **dict.fromkeys(["ALTER INDEX", "ALTER SEQUENCE", "ALTER TYPE", "ALTER FUNCTION", "ALTER SCHEMA"], _let_go),
    **dict.fromkeys(
        [f"CREATE{kind} TABLE" for kind in ("", " TEMP", " TEMPORARY", " UNLOGGED")],
        _create_table,
    ),
    **dict.fromkeys(["CREATE INDEX", "CREATE UNIQUE INDEX"], _create_index),
    "CREATE VIEW": _create_view,
    "CREATE OR REPLACE VIEW": _replace_view,
    "CREATE MATERIALIZED VIEW": _create_materialized_view,
    **dict.fromkeys(
        ["CREATE TRIGGER", "CREATE OR REPLACE TRIGGER", "CREATE CONSTRAINT TRIGGER"],
        _take_on(Lock.SHARE_ROW_EXCLUSIVE),
    ),
    **dict.fromkeys(["CREATE RULE", "CREATE OR REPLACE RULE"], _take_on(Lock.ACCESS_EXCLUSIVE, "TO")),
    "CREATE POLICY": _take_on(Lock.ACCESS_EXCLUSIVE),
    "CREATE STATISTICS": _take_on(Lock.SHARE_UPDATE_EXCLUSIVE, "FROM"),
    **dict.fromkeys([f"CREATE {each}" for each in _OBJECTS], _let_go),
    **dict.fromkeys(["CREATE OR REPLACE FUNCTION", "CREATE OR REPLACE PROCEDURE"], _let_go),
    "DROP TABLE": _drop_table,
    "DROP INDEX": _drop_index,
    **dict.fromkeys(["DROP VIEW", "DROP MATERIALIZED VIEW"], _drop_view),
    **dict.fromkeys(["DROP TRIGGER", "DROP POLICY", "DROP RULE"], _take_on(Lock.ACCESS_EXCLUSIVE)),
    **dict.fromkeys([f"DROP {each}" for each in _OBJECTS if each != "EXTENSION"], _drop_other),
    "TRUNCATE": _truncate,
    "LOCK": _lock,
    "COMMENT ON": _comment,
    **dict.fromkeys(["ANALYZE", "VACUUM"], _vacuum),
    "CLUSTER": _take(Lock.ACCESS_EXCLUSIVE, Work.REWRITES),
    "REINDEX": _reindex,
    "REFRESH MATERIALIZED VIEW": _refresh,
    **dict.fromkeys(["GRANT", "REVOKE"], _grant),
    **dict.fromkeys(["SET", "RESET", "SHOW", "NOTIFY", "SAVEPOINT", "RELEASE", "ROLLBACK TO"], _let_go),
    "CALL": _call,
}
