"""What ALTER TABLE locks, and what it does to the rows that are there. Pure."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeAlias

from app.timescale.cursor import Cursor
from app.timescale.steps import Hold, Lock, Reach, Work, sum_holds
from app.timescale.tokens import Kind, Token

Finding: TypeAlias = tuple[tuple[Hold, ...], Work]

_SERIALS = {"SMALLSERIAL", "SERIAL", "BIGSERIAL", "SERIAL2", "SERIAL4", "SERIAL8"}
# What a column's definition may go on with after its default.
_CLAUSES = {"CONSTRAINT", "NOT", "NULL", "CHECK", "GENERATED", "UNIQUE", "PRIMARY", "REFERENCES", "COLLATE"}
# Functions that say the same for all rows of a statement, so that a default is stored once; and some that don't.
_STEADY = {"NOW", "TRANSACTION_TIMESTAMP", "STATEMENT_TIMESTAMP", "TO_TIMESTAMP", "LOWER", "UPPER", "CURRENT_SETTING"}
_FICKLE = {"RANDOM", "GEN_RANDOM_UUID", "UUIDV4", "UUIDV7", "CLOCK_TIMESTAMP", "TIMEOFDAY", "NEXTVAL"}
# Storage parameters that change while reads and writes go on; the others, TimescaleDB's among them, lock them out.
_MILD = {"FILLFACTOR", "TOAST_TUPLE_TARGET", "PARALLEL_WORKERS", "VACUUM_INDEX_CLEANUP", "VACUUM_TRUNCATE"}

# The actions that say all of themselves in their first words.
_ACTIONS: dict[str, tuple[Lock, Work]] = {
    **dict.fromkeys(
        ["RENAME", "SET SCHEMA", "OWNER TO", "REPLICA IDENTITY", "ALTER CONSTRAINT"],
        (Lock.ACCESS_EXCLUSIVE, Work.NOTHING),
    ),
    **dict.fromkeys(
        [f"{each} ROW LEVEL SECURITY" for each in ("ENABLE", "DISABLE", "FORCE", "NO FORCE")],
        (Lock.ACCESS_EXCLUSIVE, Work.NOTHING),
    ),
    **dict.fromkeys(
        [f"{each} RULE" for each in ("ENABLE", "DISABLE", "ENABLE ALWAYS", "ENABLE REPLICA")],
        (Lock.ACCESS_EXCLUSIVE, Work.NOTHING),
    ),
    **dict.fromkeys(
        [f"{each} TRIGGER" for each in ("ENABLE", "DISABLE", "ENABLE ALWAYS", "ENABLE REPLICA")],
        (Lock.SHARE_ROW_EXCLUSIVE, Work.NOTHING),
    ),
    **dict.fromkeys(["CLUSTER ON", "SET WITHOUT CLUSTER"], (Lock.SHARE_UPDATE_EXCLUSIVE, Work.NOTHING)),
    **dict.fromkeys(
        ["SET LOGGED", "SET UNLOGGED", "SET TABLESPACE", "SET ACCESS METHOD"],
        (Lock.ACCESS_EXCLUSIVE, Work.MAY_REWRITE),
    ),
}
# What ALTER COLUMN does to it.
_CHANGES: dict[str, tuple[Lock, Work]] = {
    **dict.fromkeys(
        [
            *("SET DEFAULT", "DROP DEFAULT", "DROP NOT NULL", "SET STORAGE", "SET COMPRESSION", "ADD GENERATED"),
            *("SET GENERATED", "DROP IDENTITY", "DROP EXPRESSION", "RESTART"),
        ],
        (Lock.ACCESS_EXCLUSIVE, Work.NOTHING),
    ),
    "SET NOT NULL": (Lock.ACCESS_EXCLUSIVE, Work.READS),
    "SET EXPRESSION": (Lock.ACCESS_EXCLUSIVE, Work.REWRITES),
    **dict.fromkeys(["SET STATISTICS", "SET (", "RESET ("], (Lock.SHARE_UPDATE_EXCLUSIVE, Work.NOTHING)),
}


def describe_alteration(cursor: Cursor) -> Finding:
    """Of what comes after ALTER TABLE: the strongest locks of its actions, and the most work."""
    cursor.take("IF", "EXISTS")
    table = cursor.pop_table()
    found = [_describe_action(table, action) for action in cursor.split()]
    return sum_holds(hold for holds, _ in found for hold in holds), max(work for _, work in found)


def find_references(definition: Cursor, own: str) -> tuple[Hold, ...]:
    """The locks on the tables that foreign keys in a definition refer to, but for `own`."""
    names = [place.pop_name() for place in definition.find_all("REFERENCES")]
    return tuple(Hold(name, Lock.SHARE_ROW_EXCLUSIVE) for name in names if name != own)


def _describe_action(table: str, action: Cursor) -> Finding:
    if (phrase := action.take_any(*_ACTIONS)) is not None:
        lock, work = _ACTIONS[phrase]
        return (Hold(table, lock),), work
    verb = action.pop().word
    if verb in _VERBS:
        return _VERBS[verb](table, action)
    return (Hold(table, Lock.UNKNOWN),), Work.NOTHING


def _add(table: str, action: Cursor) -> Finding:
    named = action.take("CONSTRAINT")
    if named:
        action.pop_name()
    kind = action.take_any("CHECK", "NOT NULL", "UNIQUE", "PRIMARY KEY", "EXCLUDE", "FOREIGN KEY")
    if kind is None:
        return ((Hold(table, Lock.UNKNOWN),), Work.NOTHING) if named else _add_column(table, action)
    later = action.contains("NOT", "VALID")
    if kind == "FOREIGN KEY":
        holds = (Hold(table, Lock.SHARE_ROW_EXCLUSIVE), *find_references(action, table))
        return holds, Work.NOTHING if later else Work.READS
    work = Work.READS
    if later or (kind == "UNIQUE" and action.contains("USING", "INDEX")):
        work = Work.NOTHING
    elif kind in {"UNIQUE", "PRIMARY KEY", "EXCLUDE"} and not action.contains("USING", "INDEX", "("):
        work = Work.READS if action.peek("USING", "INDEX") else Work.INDEXES
    return (Hold(table, Lock.ACCESS_EXCLUSIVE),), work


def _add_column(table: str, action: Cursor) -> Finding:
    action.take("COLUMN")
    action.take("IF", "NOT", "EXISTS")
    action.pop_name()
    return (Hold(table, Lock.ACCESS_EXCLUSIVE), *find_references(action, table)), _find_work(action)


def _find_work(definition: Cursor) -> Work:
    """What a new column makes of the rows that are there: nothing, where its value can be stored once for all of them."""
    words = {token.word for token in definition.rest}
    if words & _SERIALS or definition.contains("AS", "IDENTITY") or "STORED" in words:
        return Work.REWRITES
    default = _read_default(Cursor(definition.rest))
    called = {name.word for name, after in pairwise(default) if name.kind is Kind.WORD and after.text == "("}
    if called & _FICKLE:
        return Work.REWRITES
    if called - _STEADY:
        return Work.MAY_REWRITE
    if "UNIQUE" in words or definition.contains("PRIMARY", "KEY"):
        return Work.INDEXES
    empty = not default or [token.word for token in default] == ["NULL"]
    # Where there is a default, be it NULL, PostgreSQL looks at every row's foreign key.
    if "CHECK" in words or {"REFERENCES", "DEFAULT"} <= words or (definition.contains("NOT", "NULL") and empty):
        return Work.READS
    return Work.NOTHING


def _read_default(definition: Cursor) -> list[Token]:
    if not definition.seek("DEFAULT"):
        return []
    default: list[Token] = []
    depth = 0
    for token in definition.rest:
        if default and depth == 0 and token.word in _CLAUSES:
            break
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        default.append(token)
    return default


def _alter_column(table: str, action: Cursor) -> Finding:
    action.take("COLUMN")
    column = action.pop_name()
    if action.take_any("TYPE", "SET DATA TYPE") is not None:
        tied = Hold(table, Lock.ACCESS_EXCLUSIVE, Reach.TIED, column)
        return (Hold(table, Lock.ACCESS_EXCLUSIVE), tied), Work.MAY_REWRITE
    phrase = action.take_any(*_CHANGES)
    lock, work = (Lock.UNKNOWN, Work.NOTHING) if phrase is None else _CHANGES[phrase]
    return (Hold(table, lock),), work


def _drop(table: str, action: Cursor) -> Finding:
    constraint = action.take("CONSTRAINT")
    if not constraint:
        action.take("COLUMN")
    action.take("IF", "EXISTS")
    part = action.pop_name()
    # Of a key that others refer to, CASCADE takes their foreign keys.
    reach = Reach.REFERRED if constraint and not action.contains("CASCADE") else Reach.TIED
    return (Hold(table, Lock.ACCESS_EXCLUSIVE), Hold(table, Lock.ACCESS_EXCLUSIVE, reach, part)), Work.NOTHING


def _validate(table: str, action: Cursor) -> Finding:
    action.take("CONSTRAINT")
    part = action.pop_name()
    holds = (Hold(table, Lock.SHARE_UPDATE_EXCLUSIVE), Hold(table, Lock.ROW_SHARE, Reach.REFERRED, part))
    return holds, Work.READS


def _set_parameters(table: str, action: Cursor) -> Finding:
    if not action.take("("):
        return (Hold(table, Lock.UNKNOWN),), Work.NOTHING
    names = {parameter.pop_name().upper().removeprefix("TOAST.") for parameter in action.split()}
    mild = all(name in _MILD or "AUTOVACUUM" in name for name in names)
    return (Hold(table, Lock.SHARE_UPDATE_EXCLUSIVE if mild else Lock.ACCESS_EXCLUSIVE),), Work.NOTHING


def _inherit(table: str, action: Cursor) -> Finding:
    action.take("INHERIT")
    parent = action.pop_name()
    return (Hold(table, Lock.ACCESS_EXCLUSIVE), Hold(parent, Lock.SHARE_UPDATE_EXCLUSIVE)), Work.NOTHING


def _attach(table: str, action: Cursor) -> Finding:
    action.take("PARTITION")
    partition = action.pop_name()
    return (Hold(table, Lock.SHARE_UPDATE_EXCLUSIVE), Hold(partition, Lock.ACCESS_EXCLUSIVE)), Work.READS


def _detach(table: str, action: Cursor) -> Finding:
    action.take("PARTITION")
    partition = action.pop_name()
    lock = Lock.SHARE_UPDATE_EXCLUSIVE if action.contains("CONCURRENTLY") else Lock.ACCESS_EXCLUSIVE
    return (Hold(table, lock), Hold(partition, Lock.ACCESS_EXCLUSIVE)), Work.NOTHING


_VERBS = {
    "ADD": _add,
    "ALTER": _alter_column,
    "DROP": _drop,
    "VALIDATE": _validate,
    "SET": _set_parameters,
    "RESET": _set_parameters,
    "INHERIT": _inherit,
    "NO": _inherit,
    "ATTACH": _attach,
    "DETACH": _detach,
}
