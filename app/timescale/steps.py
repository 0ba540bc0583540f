"""A step of a migration: one SQL statement, and what somebody who is about to run it wants to know."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Needs(Enum):
    """What a step needs of the database. Where it isn't there the step does nothing: `timescale-apply` makes up for it."""

    POSTGRES = "PostgreSQL"
    HYPERTABLES = "TimescaleDB"
    COMMUNITY = "TimescaleDB Community"


class Lock(Enum):
    """The strongest lock that a step takes on its table, and what waits for it meanwhile."""

    NONE = "no lock"
    ROW_EXCLUSIVE = "ROW EXCLUSIVE (reads and writes go on, but for writes to the same rows)"
    SHARE_UPDATE_EXCLUSIVE = "SHARE UPDATE EXCLUSIVE (reads and writes go on)"
    SHARE = "SHARE (reads go on, writes wait)"
    SHARE_ROW_EXCLUSIVE = "SHARE ROW EXCLUSIVE (reads go on, writes wait)"
    ACCESS_EXCLUSIVE = "ACCESS EXCLUSIVE (reads and writes wait)"
    UNKNOWN = "a lock that AurumAI can't tell"


@dataclass(frozen=True)
class Step:
    """`sql` is one statement without a semicolon at its end.

    `table` is what `lock` is taken on. `moves_data` says that its time grows with the rows of the table. A step that isn't
    `transactional` runs by itself after those that are; where `values` is given, a query of one row of SQL texts, they
    stand in `sql` under their names as :name, and without a row there is nothing to do. `cleanup` is run before it each time:
    it takes away what an attempt that was cut off has left.
    `instead` says what happens where the database lacks what the step needs, other than nothing.
    """

    sql: str
    table: str
    lock: Lock
    needs: Needs = Needs.POSTGRES
    transactional: bool = True
    moves_data: bool = False
    values: str | None = None
    cleanup: str | None = None
    instead: str | None = None


def describe_step(step: Step) -> str:
    """An SQL comment for whoever reads the statement before it runs."""
    notes = [f"{step.table}: {step.lock.value}"]
    if step.needs is not Needs.POSTGRES:
        instead = "" if step.instead is None else f", where {step.instead}"
        notes.append(f"left out without {step.needs.value}{instead}")
    if step.moves_data:
        notes.append("its time grows with the rows")
    if not step.transactional:
        notes.append("after the transaction, by itself")
    return f"-- {'; '.join(notes)}"


def guard(needs: Needs, body: str) -> str:
    """A DO block that runs `body` (PL/pgSQL) where the database has what it needs, asking when it runs."""
    condition = {
        Needs.POSTGRES: "true",
        Needs.HYPERTABLES: "EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')",
        Needs.COMMUNITY: (
            "EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')"
            " AND current_setting('timescaledb.license', true) = 'timescale'"
        ),
    }[needs]
    indented = "\n".join(f"    {line}" if line else "" for line in body.strip().splitlines())
    return f"DO $aurum$\nBEGIN\n  IF {condition} THEN\n{indented}\n  END IF;\nEND\n$aurum$"
