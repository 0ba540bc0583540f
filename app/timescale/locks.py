"""What a statement that we did not plan ourselves locks, and what it does to the rows that are there. Pure.

By PostgreSQL's documentation, versions 15 to 18, and a test that asks a server of every rule. Left out is what nobody but
DDL waits for: the ROW SHARE of a foreign key's check, and locks on indexes, sequences and the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from app.timescale.alterations import Finding, describe_alteration, find_references
from app.timescale.queries import describe_query
from app.timescale.retypes import find_checked
from app.timescale.steps import ANYTHING, Hold, Lock, Reach, Step, Work, sum_holds
from app.timescale.tokens import Reader, read_tokens

_FREE: Finding = ((), Work.NOTHING)
_UNKNOWN: Finding = (ANYTHING, Work.NOTHING)
# What a new table may be made after, and the lock on that.
_MODELS = {
    "partition of": Lock.ACCESS_EXCLUSIVE,
    "inherits (": Lock.SHARE_UPDATE_EXCLUSIVE,
    "( like": Lock.ACCESS_SHARE,
    ", like": Lock.ACCESS_SHARE,
}
# What may come after the query of a table or view.
_LAST = [["with", "no", "data"], ["with", "data"]]
_QUERIES = {"select", "with", "values", "table", "insert", "update", "delete", "merge"}


def describe_statement(sql: str, *, transactional: bool = True) -> Step:
    """The step that a statement of Piccolo's, or of a raw step, is. What can't be read has an UNKNOWN lock."""
    checked = find_checked(sql)
    if checked is not None:
        return Step(sql, (Hold(checked, Lock.ACCESS_EXCLUSIVE),), transactional=transactional, work=Work.READS)
    reader = Reader(read_tokens(sql), sql)
    if any(reader.peek(word) for word in _QUERIES):
        holds, work, asks = describe_query(sql)
        return Step(sql, holds, transactional=transactional, work=work, asks=asks)
    phrase = reader.take_any(*_RULES)
    holds, work = _UNKNOWN if phrase is None else _RULES[phrase](reader)
    return Step(sql, sum_holds(holds), transactional=transactional, work=work, asks=phrase == "show")


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
            # The locks on other tables are for the sake of the rows.
            holds = tuple(hold for hold in holds if hold.reach is Reach.TABLE)
        holds = sum_holds(
            replace(hold, lock=min(hold.lock, Lock.NEW)) if hold.table in made and hold.reach is Reach.TABLE else hold
            for hold in holds
        )
        settled.append(replace(step, holds=holds, work=Work.NOTHING if bare else step.work))
        made |= new
        empty |= new if step.work is Work.NOTHING else set()
        empty -= {hold.table for hold in step.holds if hold.lock is Lock.ROW_EXCLUSIVE}
    return settled


def _take(lock: Lock, work: Work = Work.NOTHING) -> Callable[[Reader], Finding]:
    """The rule of a statement whose tables come next."""

    def rule(reader: Reader) -> Finding:
        reader.take("if", "exists")
        return tuple(Hold(table, lock) for table in reader.take_tables()), work

    return rule


def _take_on(lock: Lock, word: str = "on") -> Callable[[Reader], Finding]:
    """The rule of a statement that names its table after ON, or another word."""

    def rule(reader: Reader) -> Finding:
        return ((Hold(reader.take_table(), lock),), Work.NOTHING) if reader.skip_to(word) else _UNKNOWN

    return rule


def _let_go(_: Reader) -> Finding:
    return _FREE


def _create_table(reader: Reader) -> Finding:
    reader.take("if", "not", "exists")
    table = reader.take_path()
    holds = [Hold(table, Lock.NEW), *find_references(reader, table)]
    for phrase, lock in _MODELS.items():
        holds += [Hold(name, lock) for place in reader.find_all(*phrase.split()) for name in place.take_tables()]
    return _add_sources(holds, reader, Work.GROWS)


def _create_view(reader: Reader) -> Finding:
    return _add_sources([Hold(reader.take_path(), Lock.NEW)], reader, Work.NOTHING)


def _replace_view(reader: Reader) -> Finding:
    return _add_sources([Hold(reader.take_path(), Lock.ACCESS_EXCLUSIVE)], reader, Work.NOTHING)


def _create_materialized_view(reader: Reader) -> Finding:
    reader.take("if", "not", "exists")
    view = Hold(reader.take_path(), Lock.NEW)
    # An aggregate of TimescaleDB's puts a trigger on the table, up to version 2.22.
    continuous = reader.contains(".", "continuous")
    filled = not reader.contains("with", "no", "data")
    holds, work = _add_sources([view], reader, Work.GROWS if filled else Work.NOTHING)
    if continuous:
        holds = tuple(replace(hold, lock=max(hold.lock, Lock.SHARE_ROW_EXCLUSIVE)) for hold in holds if hold != view)
        return (view, *holds), work
    return holds, work


def _add_sources(holds: list[Hold], reader: Reader, work: Work) -> Finding:
    """With the tables that the query after AS reads, if there is one."""
    if not reader.skip_to("as"):
        return tuple(holds), Work.NOTHING
    words = [token.value for token in reader.rest]
    end = next((-len(last) for last in _LAST if words[-len(last) :] == last), None)
    query = Reader(reader.rest[:end], reader.sql)
    return (*holds, *describe_query(query.text)[0]), work


def _create_index(reader: Reader) -> Finding:
    lock = Lock.SHARE_UPDATE_EXCLUSIVE if reader.take("concurrently") else Lock.SHARE
    reader.skip_to("on")
    return (Hold(reader.take_table(), lock),), Work.INDEXES


def _drop_table(reader: Reader) -> Finding:
    reader.take("if", "exists")
    tables = reader.take_tables()
    reach = Reach.DEPENDENT if reader.take("cascade") else None
    return tuple(
        hold
        for table in tables
        for hold in (
            Hold(table, Lock.ACCESS_EXCLUSIVE),
            Hold(table, Lock.ACCESS_EXCLUSIVE, Reach.REFERRED),
            *((Hold(table, Lock.ACCESS_EXCLUSIVE, reach),) if reach else ()),
        )
    ), Work.NOTHING


def _drop_index(reader: Reader) -> Finding:
    lock = Lock.SHARE_UPDATE_EXCLUSIVE if reader.take("concurrently") else Lock.ACCESS_EXCLUSIVE
    reader.take("if", "exists")
    return tuple(Hold(index, lock, Reach.INDEXED) for index in reader.take_tables()), Work.NOTHING


def _drop_other(reader: Reader) -> Finding:
    """What has no lock on a table of its own, unless it takes others along."""
    return _UNKNOWN if reader.contains("cascade") else _FREE


def _drop_view(reader: Reader) -> Finding:
    reader.take("if", "exists")
    views = reader.take_tables()
    reaches = (Reach.TABLE, Reach.DEPENDENT) if reader.take("cascade") else (Reach.TABLE,)
    return tuple(Hold(view, Lock.ACCESS_EXCLUSIVE, reach) for view in views for reach in reaches), Work.NOTHING


def _truncate(reader: Reader) -> Finding:
    reader.take("table")
    tables = reader.take_tables()
    reaches = (Reach.TABLE, Reach.DEPENDENT) if reader.contains("cascade") else (Reach.TABLE,)
    return tuple(Hold(table, Lock.ACCESS_EXCLUSIVE, reach) for table in tables for reach in reaches), Work.NOTHING


def _lock(reader: Reader) -> Finding:
    reader.take("table")
    tables = reader.take_tables()
    mode = "_".join(token.value for token in reader.rest if token.value not in {"in", "mode", "nowait"}).upper()
    lock = Lock[mode] if mode in Lock.__members__ else Lock.UNKNOWN if mode else Lock.ACCESS_EXCLUSIVE
    return tuple(Hold(table, lock) for table in tables), Work.NOTHING


def _comment(reader: Reader) -> Finding:
    if reader.take_any("constraint", "trigger", "policy", "rule") is not None:
        return _take_on(Lock.ACCESS_SHARE)(reader)
    kind = reader.take_any("table", "view", "materialized view", "column")
    if kind is None:
        return _FREE
    name = reader.take_path()
    return (Hold(name.rpartition(".")[0] if kind == "column" else name, Lock.SHARE_UPDATE_EXCLUSIVE),), Work.NOTHING


def _reindex(reader: Reader) -> Finding:
    options = reader.take_bracketed()
    kind = reader.take_any("table", "index")
    if kind is None:
        return _UNKNOWN
    beside = reader.take("concurrently") or Reader(options).contains("concurrently")
    lock = Lock.SHARE_UPDATE_EXCLUSIVE if beside else Lock.SHARE
    reach = Reach.TABLE if kind == "table" else Reach.INDEXED
    return (Hold(reader.take_path(), lock, reach),), Work.INDEXES


def _refresh(reader: Reader) -> Finding:
    lock = Lock.EXCLUSIVE if reader.take("concurrently") else Lock.ACCESS_EXCLUSIVE
    return (Hold(reader.take_path(), lock),), Work.GROWS


def _vacuum(reader: Reader) -> Finding:
    full = reader.contains("full")
    while reader.take_any("full", "freeze", "verbose", "analyze") is not None:
        pass
    reader.take_bracketed()
    if not reader.rest:
        return _UNKNOWN
    lock = Lock.ACCESS_EXCLUSIVE if full else Lock.SHARE_UPDATE_EXCLUSIVE
    return (Hold(reader.take_table(), lock),), Work.REWRITES if full else Work.READS


def _call(reader: Reader) -> Finding:
    if reader.take_path().rpartition(".")[2] != "refresh_continuous_aggregate":
        return _UNKNOWN
    first = reader.take_bracketed()[:1]
    name = Reader(read_tokens(first[0].value)).take_path() if first else ""
    return (Hold(name, Lock.EXCLUSIVE),), Work.GROWS


def _grant(reader: Reader) -> Finding:
    reader.skip_to("on")
    if reader.take_any("schema", "sequence", "function", "procedure", "database", "type", "all", "language", "domain"):
        return _FREE
    reader.take("table")
    return tuple(Hold(table, Lock.ACCESS_SHARE) for table in reader.take_tables()), Work.NOTHING


_OBJECTS = ["schema", "sequence", "type", "function", "procedure", "extension", "role", "user", "domain", "collation"]

# By the first words of a statement, the longer before the shorter.
_RULES: dict[str, Callable[[Reader], Finding]] = {
    "alter table": describe_alteration,
    **dict.fromkeys(["alter view", "alter materialized view"], _take(Lock.ACCESS_EXCLUSIVE)),
    **dict.fromkeys(["alter trigger", "alter policy"], _take_on(Lock.ACCESS_EXCLUSIVE)),
    **dict.fromkeys(["alter index", "alter sequence", "alter type", "alter function", "alter schema"], _let_go),
    **dict.fromkeys(
        ["create table", "create temp table", "create temporary table", "create unlogged table"], _create_table
    ),
    **dict.fromkeys(["create index", "create unique index"], _create_index),
    "create view": _create_view,
    "create or replace view": _replace_view,
    "create materialized view": _create_materialized_view,
    **dict.fromkeys(
        ["create trigger", "create or replace trigger", "create constraint trigger"],
        _take_on(Lock.SHARE_ROW_EXCLUSIVE),
    ),
    **dict.fromkeys(["create rule", "create or replace rule"], _take_on(Lock.ACCESS_EXCLUSIVE, "to")),
    "create policy": _take_on(Lock.ACCESS_EXCLUSIVE),
    "create statistics": _take_on(Lock.SHARE_UPDATE_EXCLUSIVE, "from"),
    **dict.fromkeys([f"create {each}" for each in _OBJECTS], _let_go),
    **dict.fromkeys(["create or replace function", "create or replace procedure"], _let_go),
    "drop table": _drop_table,
    "drop index": _drop_index,
    **dict.fromkeys(["drop view", "drop materialized view"], _drop_view),
    **dict.fromkeys(["drop trigger", "drop policy", "drop rule"], _take_on(Lock.ACCESS_EXCLUSIVE)),
    **dict.fromkeys([f"drop {each}" for each in _OBJECTS if each != "extension"], _drop_other),
    "truncate": _truncate,
    "lock": _lock,
    "comment on": _comment,
    **dict.fromkeys(["analyze", "vacuum"], _vacuum),
    "cluster": _take(Lock.ACCESS_EXCLUSIVE, Work.REWRITES),
    "reindex": _reindex,
    "refresh materialized view": _refresh,
    **dict.fromkeys(["grant", "revoke"], _grant),
    **dict.fromkeys(["set", "reset", "show", "notify", "savepoint", "release", "rollback to"], _let_go),
    "call": _call,
}
