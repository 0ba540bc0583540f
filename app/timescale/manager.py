"""The MigrationManager of AurumAI's migration files: Piccolo's, and what it can't say about TimescaleDB.

Forwards it runs, in one transaction with its entry in the journal: the statement that enables TimescaleDB, the transitions
that must come before Piccolo's operations (a column can't change under a compressed chunk), Piccolo's operations, the
other transitions; and then, one by one, the steps that can't run in a transaction. Backwards the same the other way round.

Migration files import this class: its module path must never change.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from io import StringIO
from typing import Any

from piccolo.conf.apps import AppConfig, Finder, MigrationModule

from app.engine import Engine, find_engine
from app.errors import MigrationRefused
from app.timescale.aggregates import rename_groups
from app.timescale.files import compute_checksum, find_folder, list_files, load_manager
from app.timescale.hypertable import Hypertable
from app.timescale.indexes import Index, find_index, make_transactional, plan_indexes
from app.timescale.journal import Event, hold_lock, is_done, write_entry
from app.timescale.leftovers import record_steps, run_leftovers
from app.timescale.locks import describe_statement, settle_new
from app.timescale.operations import TableOperations, read_new_names
from app.timescale.renames import rename_in_hypertable, rename_in_index
from app.timescale.statements import ENABLE_TIMESCALE
from app.timescale.steps import LOCK_TIMEOUT, Step, describe_step
from app.timescale.tape import Tape
from app.timescale.tokens import split_statements
from app.timescale.transitions import plan_transition


@dataclass(frozen=True)
class Transition:
    """What a table was and becomes; `first` says that it comes before Piccolo's operations."""

    tablename: str
    old: Hypertable | None
    new: Hypertable | None
    first: bool


@dataclass(frozen=True)
class IndexChange:
    """The indexes that a table had and gets; `hypertable` says what it's declared to be."""

    tablename: str
    old: tuple[Index, ...]
    new: tuple[Index, ...]
    hypertable: bool


class TimescaleMigrationManager(TableOperations):
    """One migration."""

    def __init__(self, migration_id: str, app_name: str, description: str) -> None:
        super().__init__(migration_id=migration_id, app_name=app_name, description=description)
        self.transitions: list[Transition] = []
        self.index_changes: list[IndexChange] = []
        self.afterwards: list[tuple[str, str]] = []
        self.enables_timescale = False

    def enable_timescale(self) -> None:
        """CREATE EXTENSION timescaledb where the server has it and AURUM_TIMESCALE allows it. It stays when going back."""
        self.enables_timescale = True

    def alter_hypertable(
        self, tablename: str, old: Hypertable | None, new: Hypertable | None, *, first: bool = False
    ) -> None:
        """Makes a table that is as `old` says (None: a plain one) as `new` says."""
        self.transitions.append(Transition(tablename, old, new, first))

    def alter_indexes(
        self, tablename: str, old: tuple[Index, ...], new: tuple[Index, ...], *, hypertable: bool = False
    ) -> None:
        """Gives a table that has the declared indexes `old` those of `new`."""
        self.index_changes.append(IndexChange(tablename, old, new, hypertable))

    def run_after_commit(self, forwards: str, backwards: str) -> None:
        """One statement each that can't run in a transaction, such as CREATE INDEX CONCURRENTLY.

        It is written down with the migration and run after it, again where it was cut off: it must bear that. An empty one
        is nothing to do.
        """
        self.afterwards.append((forwards, backwards))

    async def run(self, backwards: bool = False) -> None:
        """Runs it, unless it is done already; with Piccolo's --preview, shows it. What it would skip or repeat is asked
        of the journal, under the lock of the migrations."""
        if self.preview:
            for step in await self.list_steps(backwards=backwards):
                print(f"\n{describe_step(step)}\n{step.sql};")  # noqa: T201 - Piccolo's preview prints
            return
        engine = find_engine()
        event = Event.REVERSED if backwards else Event.APPLIED
        began = time.monotonic()
        runner = engine.held
        async with hold_lock(engine) as connection:
            async with engine.transaction():
                if await is_done(connection, self.migration_id, event):
                    # Piccolo records it after this, a second time where another process that we waited for has done so.
                    # Its row stays meanwhile: without it the database would be taken for one that lacks the migration.
                    return
                await set_lock_timeout(connection)
                later = await self._run_steps(engine, backwards)
                await record_steps(connection, self.migration_id, later)
                took = timedelta(seconds=time.monotonic() - began)
                await write_entry(connection, self.migration_id, event, self._compute_checksum(), took)
            if runner is None:  # else this is within its transaction, and it sees to what comes later
                await run_leftovers(connection)

    async def rehearse(self, engine: Engine, *, hypertables: bool) -> None:
        """Runs the migration forwards in the transaction that is open, but for the extension; with `hypertables` or without.

        What makes or drops an index after the transaction is run as if it needn't wait for it; the other statements there
        define nothing.
        """
        before, after = self._plan(backwards=False, rehearsed=True)
        if not hypertables:
            before, after = [], list(self._plan_indexes(backwards=False, rehearsed=True))
        await _run_all(engine, before)
        await super().run()
        await _run_all(engine, after)
        for statement, _ in self.afterwards:
            if find_index(statement) is not None:
                await engine.run_ddl(make_transactional(statement))

    async def list_steps(self, *, backwards: bool = False) -> list[Step]:
        """All that `run` would run, in order, raw steps too. Touches no database."""
        engine, tape = find_engine(), Tape()
        before, after = self._plan(backwards=backwards)
        enabling = [Step(ENABLE_TIMESCALE)] if self.enables_timescale and not backwards else []
        self.preview = False
        unknown = "what it would do can't be told without running it."
        refusal = f"A raw step of the migration {self.migration_id} opens a connection of its own: {unknown}"
        with engine.hold(tape, refusal=refusal), redirect_stdout(StringIO()):
            try:
                await super().run(backwards=backwards)
            except MigrationRefused:
                raise
            except Exception as error:
                if not (self.raw_backwards if backwards else self.raw):
                    raise
                raise MigrationRefused(
                    f"A raw step of the migration {self.migration_id} reads the database "
                    f"({type(error).__name__} without an answer): {unknown}"
                ) from error
        steps = [step for step in (*enabling, *before, *tape.steps, *after) if step.transactional]
        return [*settle_new(steps), *self._list_later(before, after, backwards=backwards)]

    async def _run_steps(self, engine: Engine, backwards: bool) -> list[Step]:
        """Runs what can run in the transaction; returns what can't."""
        before, after = self._plan(backwards=backwards)
        if self.enables_timescale and not backwards:
            await engine.run_ddl(ENABLE_TIMESCALE)
        await _run_all(engine, before)
        await super().run(backwards=backwards)
        await _run_all(engine, after)
        return self._list_later(before, after, backwards=backwards)

    def _list_later(self, before: list[Step], after: list[Step], *, backwards: bool) -> list[Step]:
        planned = [step for step in (*before, *after) if not step.transactional]
        statements = (
            [pair[1] for pair in reversed(self.afterwards)] if backwards else [pair[0] for pair in self.afterwards]
        )
        # An empty way back, or forth, is no step.
        later = [sql for sql in statements if split_statements(sql)]
        return [*planned, *(describe_statement(sql, transactional=False) for sql in later)]

    def _plan(self, *, backwards: bool, rehearsed: bool = False) -> tuple[list[Step], list[Step]]:
        """The steps of the transitions before and after Piccolo's operations."""
        first, last = (list(self._plan_side(backwards, first=first)) for first in (True, False))
        before, after = (last, first) if backwards else (first, last)
        return before, [*after, *self._plan_indexes(backwards, rehearsed)]

    def _plan_indexes(self, backwards: bool, rehearsed: bool) -> Iterator[Step]:
        made, gone = ({table.tablename for table in tables} for tables in (self.add_tables, self.drop_tables))
        if backwards:
            made, gone = gone, made
        for change in self.index_changes:
            table, names = change.tablename, read_new_names(self, change.tablename)
            if table in gone:
                continue
            busy = table not in made and not rehearsed
            old, new = change.old, change.new
            if backwards:  # and the old names are back by then
                table = next((each.old_tablename for each in self.rename_tables if each.new_tablename == table), table)
                old, new = new, old
                names = {now: before for before, now in names.items()}
            old = tuple(rename_in_index(index, names) for index in old)
            yield from plan_indexes(table, old, new, hypertable=change.hypertable, busy=busy)

    def _plan_side(self, backwards: bool, *, first: bool) -> Iterator[Step]:
        gone = {table.tablename for table in (self.add_tables if backwards else self.drop_tables)}
        chosen = [transition for transition in self.transitions if transition.first is first]
        for transition in reversed(chosen) if backwards else chosen:
            table, old, new = transition.tablename, transition.old, transition.new
            # The others come when columns have their new names, and go before these are taken back.
            names = {} if first else read_new_names(self, table)
            renamed = old and rename_in_hypertable(old, names)
            if backwards:
                yield from plan_transition(table, new, renamed, dropped=table in gone)
                yield from rename_groups(table, renamed, {now: before for before, now in names.items()})
            else:
                yield from rename_groups(table, old, names)
                yield from plan_transition(table, renamed, new, dropped=table in gone)

    def _compute_checksum(self) -> str:
        folder = find_folder(Finder().get_app_config(app_name=self.app_name))
        return compute_checksum(list_files(folder)[self.migration_id])


async def load_own_manager(app: AppConfig, migration_id: str, module: MigrationModule) -> TimescaleMigrationManager:
    """What one file asks for. Raises MigrationRefused, also where the file is one of Piccolo's own."""
    manager = await load_manager(app, migration_id, module)
    if not isinstance(manager, TimescaleMigrationManager):
        raise MigrationRefused(
            f"The migration {migration_id} is Piccolo's own kind, which keeps no journal: "
            "make it with invoke migration or invoke migration-empty."
        )
    return manager


async def set_lock_timeout(connection: Any) -> None:
    """For the transaction that is open."""
    await connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT // timedelta(milliseconds=1)}")


async def _run_all(engine: Engine, steps: list[Step]) -> None:
    for step in steps:
        if step.transactional:
            await engine.run_ddl(step.sql)
