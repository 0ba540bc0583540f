"""A step of a migration: one SQL statement, and what somebody who is about to run it wants to know."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from textwrap import dedent, indent

from app.timescale.statements import ENABLE_TIMESCALE
from app.timescale.tokens import quote_text, read_tokens

# A DDL statement that waits for a long reader makes everyone else wait behind it: rather give up, and try again later.
LOCK_TIMEOUT = timedelta(seconds=2)


class Needs(Enum):
    """What a step needs of the database. Where it isn't there the step does nothing: `timescale-apply` makes up for it."""

    POSTGRES = "PostgreSQL"
    HYPERTABLES = "TimescaleDB"
    COMMUNITY = "TimescaleDB Community"


class Lock(Enum):
    """The locks that PostgreSQL takes on a table, each stronger than the ones before it, and what waits for it meanwhile."""

    NONE = "no lock"
    NEW = "new, nobody waits"
    ACCESS_SHARE = "ACCESS SHARE (reads and writes go on)"
    ROW_SHARE = "ROW SHARE (reads and writes go on)"
    ROW_EXCLUSIVE = "ROW EXCLUSIVE (reads and writes go on, but for writes to the same rows)"
    SHARE_UPDATE_EXCLUSIVE = "SHARE UPDATE EXCLUSIVE (reads and writes go on)"
    SHARE = "SHARE (reads go on, writes wait)"
    SHARE_ROW_EXCLUSIVE = "SHARE ROW EXCLUSIVE (reads go on, writes wait)"
    EXCLUSIVE = "EXCLUSIVE (reads go on, writes wait)"
    ACCESS_EXCLUSIVE = "ACCESS EXCLUSIVE (reads and writes wait)"
    UNKNOWN = "a lock that AurumAI can't tell"

    def __lt__(self, other: Lock) -> bool:
        return _ORDER[self] < _ORDER[other]


_ORDER = {lock: place for place, lock in enumerate(Lock)}


class Reach(Enum):
    """Which tables a lock is on, seen from the one that is named: it, or others, which only a database can tell."""

    TABLE = "{}"
    INDEXED = "the table of the index {}"
    REFERRED = "the tables that {} refers to"
    TIED = "the tables that foreign keys tie to {}"
    DEPENDENT = "the tables and views that depend on {}"


@dataclass(frozen=True)
class Hold:
    """The strongest lock that a step takes on a table, or on those that lead to it or that it leads to.

    `part` is the column or the constraint that leads there; empty for all of them.
    """

    table: str
    lock: Lock
    reach: Reach = Reach.TABLE
    part: str = ""

    @property
    def where(self) -> str:
        """What it is on, in words."""
        return self.reach.value.format(f"{self.table}.{self.part}" if self.part else self.table)


# What can't be read may lock anything.
ANYTHING = (Hold("any table", Lock.UNKNOWN),)


class Work(Enum):
    """What a step does to the rows that are there: all but NOTHING take longer the more rows there are."""

    NOTHING = ""
    READS = "reads every row"
    INDEXES = "builds an index over every row"
    GROWS = "its time grows with the rows"
    MAY_REWRITE = "writes every row anew, unless they can stay as they are stored"
    REWRITES = "writes every row anew"

    def __lt__(self, other: Work) -> bool:
        return _EFFORT[self] < _EFFORT[other]


_EFFORT = {work: place for place, work in enumerate(Work)}


@dataclass(frozen=True)
class Step:
    """`sql` is one statement without a semicolon at its end.

    `holds` are its locks, on each table the strongest, the first table being what the step is about. A step that isn't
    `transactional` runs by itself after those that are; where `values` is given, a query of one row of SQL texts, they
    stand in `sql` under their names as :name, and without a row there is nothing to do. `cleanup`, asked before it each time,
    finds the statement that takes away what an attempt that was cut off has left, and no row where it left nothing. `instead` says what happens where the database lacks what the
    step needs, other than nothing. A step that `asks` is a question of a raw step, and what comes after it may depend on the
    answer.
    """

    sql: str
    holds: tuple[Hold, ...] = ()
    needs: Needs = Needs.POSTGRES
    transactional: bool = True
    work: Work = Work.NOTHING
    values: str | None = None
    cleanup: str | None = None
    instead: str | None = None
    asks: bool = False


def describe_step(step: Step) -> str:
    """An SQL comment for whoever reads the statement before it runs."""
    locks = sorted({hold.lock for hold in step.holds}, reverse=True)
    notes = [
        f"{', '.join(hold.where for hold in step.holds if hold.lock is lock)}: {lock.value}" for lock in locks
    ] or ["locks no table"]
    if step.needs is not Needs.POSTGRES:
        instead = "" if step.instead is None else f", where {step.instead}"
        notes.append(f"left out without {step.needs.value}{instead}")
    return f"-- {'; '.join([*notes, *list_facts(step)])}"


def list_facts(step: Step) -> list[str]:
    """What else there is to know of a step wherever it runs, a phrase each."""
    facts = [] if step.work is Work.NOTHING else [step.work.value]
    if not step.transactional:
        facts.append("in no transaction, by itself")
    if step.asks:
        facts.append("a question: what comes after it may depend on the answer")
    return facts


def format_interval(span: timedelta) -> str:
    """A PostgreSQL interval literal of exactly that many microseconds."""
    return f"INTERVAL '{span // timedelta(microseconds=1)} microseconds'"


_GUARD = "\nBEGIN\n  IF {condition} THEN\n{body}\n  END IF;\nEND\n"
_INDENT = "    "


def guard(needs: Needs, body: str) -> str:
    """A DO block that runs `body` (PL/pgSQL) where the database has what it needs, asking when it runs."""
    block = _GUARD.format(condition=CONDITIONS[needs], body=indent(body.strip(), _INDENT))
    return f"DO {quote_text(block, 'aurum')}"


def read_inside(step: Step) -> str:
    """The statements of a step without the guard around them, for a person to read."""
    if step.sql == ENABLE_TIMESCALE:
        return "CREATE EXTENSION timescaledb"
    head, tail = _GUARD.format(condition=CONDITIONS[step.needs], body="\0").split("\0")
    tokens = read_tokens(step.sql)
    block = tokens[-1].value if tokens[0].value == "do" else ""
    if not (block.startswith(head) and block.endswith(tail)):
        return step.sql
    return dedent(block.removeprefix(head).removesuffix(tail)).strip()


def sum_holds(holds: Iterable[Hold]) -> tuple[Hold, ...]:
    """Of each table the strongest lock, in the order in which the tables come first."""
    strongest: dict[tuple[str, Reach, str], Hold] = {}
    for hold in holds:
        key = (hold.table, hold.reach, hold.part)
        if key not in strongest or hold.lock > strongest[key].lock:
            strongest[key] = hold
    return tuple(strongest.values())


# SQL that says whether the database it runs in has what a step needs.
CONDITIONS = {
    Needs.POSTGRES: "true",
    Needs.HYPERTABLES: "EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')",
    Needs.COMMUNITY: (
        "EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')"
        " AND current_setting('timescaledb.license', true) = 'timescale'"
    ),
}
