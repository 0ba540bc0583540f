"""What ALTER TABLE locks, and what it does to the rows that are there. Pure."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeAlias

from app.timescale.steps import Hold, Lock, Reach, Work, sum_holds
from app.timescale.tokens import Kind, Reader, Token, is_balanced, split_commas

Finding: TypeAlias = tuple[tuple[Hold, ...], Work]

_SERIALS = {"smallserial", "serial", "bigserial", "serial2", "serial4", "serial8"}
# What a column's definition may go on with after its default.
_CLAUSES = {"constraint", "not", "null", "check", "generated", "unique", "primary", "references", "collate"}
# Functions that say the same for all rows of a statement, so that a default is stored once; and some that don't.
_STEADY = {"now", "transaction_timestamp", "statement_timestamp", "to_timestamp", "lower", "upper", "current_setting"}
_FICKLE = {"random", "gen_random_uuid", "uuidv4", "uuidv7", "clock_timestamp", "timeofday", "nextval"}
# Storage parameters that change while reads and writes go on; the others, TimescaleDB's among them, lock them out.
_MILD = {"fillfactor", "toast_tuple_target", "parallel_workers", "vacuum_index_cleanup", "vacuum_truncate"}

# The actions that say all of themselves in their first words.
_ACTIONS: dict[str, tuple[Lock, Work]] = {
    **dict.fromkeys(
        ["rename", "set schema", "owner to", "replica identity", "alter constraint"],
        (Lock.ACCESS_EXCLUSIVE, Work.NOTHING),
    ),
    **dict.fromkeys(
        [f"{each} row level security" for each in ("enable", "disable", "force", "no force")],
        (Lock.ACCESS_EXCLUSIVE, Work.NOTHING),
    ),
    **dict.fromkeys(
        [f"{each} rule" for each in ("enable", "disable", "enable always", "enable replica")],
        (Lock.ACCESS_EXCLUSIVE, Work.NOTHING),
    ),
    **dict.fromkeys(
        [f"{each} trigger" for each in ("enable", "disable", "enable always", "enable replica")],
        (Lock.SHARE_ROW_EXCLUSIVE, Work.NOTHING),
    ),
    **dict.fromkeys(["cluster on", "set without cluster"], (Lock.SHARE_UPDATE_EXCLUSIVE, Work.NOTHING)),
    **dict.fromkeys(
        ["set logged", "set unlogged", "set tablespace", "set access method"],
        (Lock.ACCESS_EXCLUSIVE, Work.MAY_REWRITE),
    ),
}
# What ALTER COLUMN does to it.
_CHANGES: dict[str, tuple[Lock, Work]] = {
    **dict.fromkeys(
        [
            *("set default", "drop default", "drop not null", "set storage", "set compression", "add generated"),
            *("set generated", "drop identity", "drop expression", "restart"),
        ],
        (Lock.ACCESS_EXCLUSIVE, Work.NOTHING),
    ),
    "set not null": (Lock.ACCESS_EXCLUSIVE, Work.READS),
    "set expression": (Lock.ACCESS_EXCLUSIVE, Work.REWRITES),
    **dict.fromkeys(["set statistics", "set (", "reset ("], (Lock.SHARE_UPDATE_EXCLUSIVE, Work.NOTHING)),
}


def describe_alteration(reader: Reader) -> Finding:
    """Of what comes after ALTER TABLE: the strongest locks of its actions, and the most work."""
    reader.take("if", "exists")
    table = reader.take_table()
    found = [_describe_action(table, Reader(action)) for action in split_commas(reader.rest)]
    if not found:
        return (Hold(table, Lock.UNKNOWN),), Work.NOTHING
    return sum_holds(hold for holds, _ in found for hold in holds), max(work for _, work in found)


def find_references(definition: Reader, own: str) -> tuple[Hold, ...]:
    """The locks on the tables that foreign keys in a definition refer to, but for `own`."""
    names = [place.take_path() for place in definition.find_all("references")]
    return tuple(Hold(name, Lock.SHARE_ROW_EXCLUSIVE) for name in names if name != own)


def _describe_action(table: str, action: Reader) -> Finding:
    if (phrase := action.take_any(*_ACTIONS)) is not None:
        lock, work = _ACTIONS[phrase]
        return (Hold(table, lock),), work
    verb = action.take_any(*_VERBS)
    return ((Hold(table, Lock.UNKNOWN),), Work.NOTHING) if verb is None else _VERBS[verb](table, action)


def _add(table: str, action: Reader) -> Finding:
    named = action.take("constraint")
    if named:
        action.take_path()
    kind = action.take_any("check", "not null", "unique", "primary key", "exclude", "foreign key")
    if kind is None:
        return ((Hold(table, Lock.UNKNOWN),), Work.NOTHING) if named else _add_column(table, action)
    later = action.contains("not", "valid")
    if kind == "foreign key":
        holds = (Hold(table, Lock.SHARE_ROW_EXCLUSIVE), *find_references(action, table))
        return holds, Work.NOTHING if later else Work.READS
    work = Work.READS
    if later or (kind == "unique" and action.peek("using", "index")):
        work = Work.NOTHING
    elif kind in {"unique", "primary key", "exclude"} and not action.peek("using", "index"):
        work = Work.INDEXES
    return (Hold(table, Lock.ACCESS_EXCLUSIVE),), work


def _add_column(table: str, action: Reader) -> Finding:
    action.take("column")
    action.take("if", "not", "exists")
    action.take_path()
    return (Hold(table, Lock.ACCESS_EXCLUSIVE), *find_references(action, table)), _find_work(action)


def _find_work(definition: Reader) -> Work:
    """What a new column makes of the rows that are there: nothing, where its value can be stored once for all of them."""
    words = {token.value for token in definition.rest if token.kind is Kind.WORD}
    if words & _SERIALS or definition.contains("as", "identity") or "stored" in words:
        return Work.REWRITES
    default = _read_default(definition)
    called = {name.value for name, after in pairwise(default) if name.kind is Kind.WORD and after.value == "("}
    if called & _FICKLE:
        return Work.REWRITES
    if called - _STEADY:
        return Work.MAY_REWRITE
    if "unique" in words or definition.contains("primary", "key"):
        return Work.INDEXES
    empty = not default or (len(default) == 1 and default[0].value == "null")
    # Where there is a default, be it NULL, PostgreSQL looks at every row's foreign key.
    if "check" in words or {"references", "default"} <= words or (definition.contains("not", "null") and empty):
        return Work.READS
    return Work.NOTHING


def _read_default(definition: Reader) -> list[Token]:
    reader = Reader(definition.rest)
    default: list[Token] = []
    if reader.skip_to("default"):
        for token in reader.rest:
            if default and token.kind is Kind.WORD and token.value in _CLAUSES and is_balanced(default):
                break
            default.append(token)
    return default


def _alter_column(table: str, action: Reader) -> Finding:
    action.take("column")
    column = action.take_path()
    if action.take_any("type", "set data type") is not None:
        tied = Hold(table, Lock.ACCESS_EXCLUSIVE, Reach.TIED, column)
        return (Hold(table, Lock.ACCESS_EXCLUSIVE), tied), Work.MAY_REWRITE
    phrase = action.take_any(*_CHANGES)
    lock, work = (Lock.UNKNOWN, Work.NOTHING) if phrase is None else _CHANGES[phrase]
    return (Hold(table, lock),), work


def _drop(table: str, action: Reader) -> Finding:
    constraint = action.take("constraint")
    if not constraint:
        action.take("column")
    action.take("if", "exists")
    part = action.take_path()
    # Of a key that others refer to, CASCADE takes their foreign keys.
    reach = Reach.REFERRED if constraint and not action.contains("cascade") else Reach.TIED
    return (Hold(table, Lock.ACCESS_EXCLUSIVE), Hold(table, Lock.ACCESS_EXCLUSIVE, reach, part)), Work.NOTHING


def _validate(table: str, action: Reader) -> Finding:
    action.take("constraint")
    part = action.take_path()
    holds = (Hold(table, Lock.SHARE_UPDATE_EXCLUSIVE), Hold(table, Lock.ROW_SHARE, Reach.REFERRED, part))
    return holds, Work.READS


def _set_parameters(table: str, action: Reader) -> Finding:
    if not action.peek("("):
        return (Hold(table, Lock.UNKNOWN),), Work.NOTHING
    names = {
        Reader(parameter).take_path().removeprefix("toast.") for parameter in split_commas(action.take_bracketed())
    }
    mild = all(name in _MILD or "autovacuum" in name for name in names)
    return (Hold(table, Lock.SHARE_UPDATE_EXCLUSIVE if mild else Lock.ACCESS_EXCLUSIVE),), Work.NOTHING


def _inherit(table: str, action: Reader) -> Finding:
    action.take("inherit")
    parent = action.take_path()
    return (Hold(table, Lock.ACCESS_EXCLUSIVE), Hold(parent, Lock.SHARE_UPDATE_EXCLUSIVE)), Work.NOTHING


def _attach(table: str, action: Reader) -> Finding:
    action.take("partition")
    partition = action.take_path()
    return (Hold(table, Lock.SHARE_UPDATE_EXCLUSIVE), Hold(partition, Lock.ACCESS_EXCLUSIVE)), Work.READS


def _detach(table: str, action: Reader) -> Finding:
    action.take("partition")
    partition = action.take_path()
    lock = Lock.SHARE_UPDATE_EXCLUSIVE if action.contains("concurrently") else Lock.ACCESS_EXCLUSIVE
    return (Hold(table, lock), Hold(partition, Lock.ACCESS_EXCLUSIVE)), Work.NOTHING


_VERBS = {
    "add": _add,
    "alter": _alter_column,
    "drop": _drop,
    "validate": _validate,
    "set": _set_parameters,
    "reset": _set_parameters,
    "inherit": _inherit,
    "no": _inherit,
    "attach": _attach,
    "detach": _detach,
}
