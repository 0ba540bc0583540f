"""The MigrationManager of AurumAI's migration files: Piccolo's, and what it can't say about TimescaleDB.

Forwards it runs, in one transaction: the statement that enables TimescaleDB, the transitions that must come before
Piccolo's operations (a column can't change under a compressed chunk), Piccolo's operations, the other transitions; and
then, one by one, the steps that can't run in a transaction. Backwards the same the other way round.

Migration files import this class: its module path must never change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.engine import engine_finder

from app.database import Engine
from app.timescale.hypertable import Hypertable
from app.timescale.leftovers import record_steps, run_leftovers
from app.timescale.statements import ENABLE_TIMESCALE
from app.timescale.steps import Step, describe_step
from app.timescale.transitions import plan_transition


@dataclass(frozen=True)
class Transition:
    """What a table was and becomes; `first` says that it comes before Piccolo's operations."""

    tablename: str
    old: Hypertable | None
    new: Hypertable | None
    first: bool


class TimescaleMigrationManager(MigrationManager):
    """One migration."""

    def __init__(self, migration_id: str, app_name: str, description: str) -> None:
        super().__init__(migration_id=migration_id, app_name=app_name, description=description)
        self.transitions: list[Transition] = []
        self._enables_timescale = False

    def enable_timescale(self) -> None:
        """CREATE EXTENSION timescaledb where the server has it and AURUM_TIMESCALE allows it. It stays when going back."""
        self._enables_timescale = True

    def alter_hypertable(
        self, tablename: str, old: Hypertable | None, new: Hypertable | None, *, first: bool = False
    ) -> None:
        """Makes a table that is as `old` says (None: a plain one) as `new` says."""
        self.transitions.append(Transition(tablename, old, new, first))

    async def run(self, backwards: bool = False) -> None:
        engine = engine_finder()
        if not isinstance(engine, Engine):
            raise TypeError("piccolo_conf.py must name a DB made by make_engine")
        sides = [list(self._plan(backwards, first=first)) for first in (True, False)]
        before, after = reversed(sides) if backwards else sides
        if self.preview:
            self._show(before)
            await super().run(backwards=backwards)
            self._show(after)
            return
        later = [step for step in (*before, *after) if not step.transactional]
        async with engine.transaction() as transaction:
            if self._enables_timescale and not backwards:
                await engine.run_ddl(ENABLE_TIMESCALE)
            await self._run_between(engine, before, after, backwards)
            await record_steps(transaction.connection, self.migration_id, later)
        # Within the transaction of a runner it isn't later yet: the runner sees to it.
        if not engine.transaction_exists():
            await run_leftovers(engine)

    async def rehearse(self, engine: Engine) -> None:
        """Runs the migration forwards in the transaction that is open, but for the extension and what comes after."""
        before, after = (list(self._plan(backwards=False, first=first)) for first in (True, False))
        await self._run_between(engine, before, after, backwards=False)

    async def _run_between(self, engine: Engine, before: list[Step], after: list[Step], backwards: bool) -> None:
        await _run_steps(engine, before)
        await super().run(backwards=backwards)
        await _run_steps(engine, after)

    def _plan(self, backwards: bool, *, first: bool) -> Iterator[Step]:
        """The steps of the transitions on one side of Piccolo's operations, in the order in which they run."""
        gone = {table.tablename for table in (self.add_tables if backwards else self.drop_tables)}
        chosen = [transition for transition in self.transitions if transition.first is first]
        for transition in reversed(chosen) if backwards else chosen:
            old, new = transition.old, transition.new
            if backwards:
                old, new = new, old
            yield from plan_transition(transition.tablename, old, new, dropped=transition.tablename in gone)

    def _show(self, steps: list[Step]) -> None:
        for step in steps:
            print(f"\n{describe_step(step)}\n{step.sql};")  # noqa: T201 - Piccolo's preview prints


async def _run_steps(engine: Engine, steps: list[Step]) -> None:
    for step in steps:
        if step.transactional:
            await engine.run_ddl(step.sql)
