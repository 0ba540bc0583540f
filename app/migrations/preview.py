"""What a run would do to this very database, statement by statement. Reads only: it creates nothing, not even bookkeeping."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace

import asyncpg
import msgspec
from piccolo.conf.apps import AppConfig

from app.database import Connection, explain_refusal, probe_edition, translate_errors
from app.engine import Engine
from app.errors import MigrationRefused
from app.migrations.extent import Extent, measure_tables, resolve_holds
from app.migrations.losses import count_losses
from app.migrations.state import MigrationState, read_state, require_known, require_order, require_unedited
from app.timescale.files import find_folder, load_modules
from app.timescale.indexes import describe_leftover, settle_holds
from app.timescale.journal import Event
from app.timescale.leftovers import read_leftovers
from app.timescale.manager import TimescaleMigrationManager, load_own_manager
from app.timescale.moves import DataMigrationManager, read_rows_done
from app.timescale.statements import CAN_ENABLE, ENABLE_TIMESCALE, TIMESCALE_POLICY
from app.timescale.steps import CONDITIONS, Hold, Lock, Needs, Reach, Step, list_facts, read_inside

BASE = "base"  # before the first migration


class LockedTable(msgspec.Struct, frozen=True):
    """A lock that a step takes, what waits for it, and the table with its extent, which is None where it isn't there yet."""

    table: str
    lock: str
    extent: Extent | None


class StepPreview(msgspec.Struct, frozen=True):
    """`statement` runs as it is; `shown` is what a person wants to read of it: without the question for the edition, and
    with what the query `values` finds just now in the places of its :names. `cleared` is what the query `cleanup` finds
    just now, a statement that runs before it; `locks` are those of both.

    `left_out` is None where only the run can tell.
    """

    statement: str
    shown: str
    locks: list[LockedTable]
    notes: list[str]
    left_out: bool | None
    transactional: bool
    values: str | None
    cleanup: str | None
    cleared: str | None


class MigrationPreview(msgspec.Struct, frozen=True):
    """`event` is what would become of it; `refusal` says why its steps can't be told, where they can't.

    `rows_done` are those that a data migration, cut off, has behind it in the table that it is at; None where it is none.
    """

    migration: str
    description: str
    event: Event
    rows_done: int | None
    steps: list[StepPreview]
    refusal: str | None


class Preview(msgspec.Struct, frozen=True):
    """`at` is the newest migration the database has; `leftovers` run before anything else; `losses` are counted rows."""

    at: str | None
    server: str
    leftovers: list[StepPreview]
    migrations: list[MigrationPreview]
    losses: dict[str, int]


async def preview_migrations(engine: Engine, app: AppConfig, to: str | None = None) -> Preview:
    """What invoke migrate would do or, with `to`, what invoke migrate-to would, in either direction.

    Raises what they would raise before they do anything.
    """
    modules = load_modules(app)
    with explain_refusal():
        connection = await engine.get_new_connection()
    try:
        with translate_errors():
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                state = await read_state(connection, tuple(modules))
                require_known(state)
                chosen, event = _choose(state, to)
                if event is Event.APPLIED:
                    require_order(state)
                await require_unedited(connection, find_folder(app), state, accept=False)
                viewer = _Viewer(connection, **(await connection.fetch(_ABILITIES))[0])
                leftovers = [await viewer.view(step) for step in await _read_leftovers(connection, chosen, event)]
                migrations = [
                    await _preview_one(viewer, await load_own_manager(app, name, modules[name]), event)
                    for name in chosen
                ]
                server = str(await probe_edition(connection, timescale="auto"))
    finally:
        await connection.close()
    losses = await count_losses(engine, app, chosen) if event is Event.REVERSED else {}
    return Preview(state.applied[-1] if state.applied else None, server, leftovers, migrations, losses)


def _choose(state: MigrationState, to: str | None) -> tuple[list[str], Event]:
    """What to go through, in order."""
    surplus = [name for name in state.applied if to is not None and (to == BASE or name > to)]
    if surplus:
        return surplus[::-1], Event.REVERSED
    return [name for name in state.pending if to is None or (to in state.pending and name <= to)], Event.APPLIED


async def _preview_one(viewer: _Viewer, manager: TimescaleMigrationManager, event: Event) -> MigrationPreview:
    steps: list[Step] = []
    refusal = rows_done = None
    try:
        steps = await manager.list_steps(backwards=event is Event.REVERSED)
    except MigrationRefused as error:
        refusal = str(error)
    if isinstance(manager, DataMigrationManager):
        rows_done = await read_rows_done(viewer.connection, manager.migration_id, event)
    viewed = [await viewer.view(step) for step in steps]
    return MigrationPreview(manager.migration_id, manager.description, event, rows_done, viewed, refusal)


async def _read_leftovers(connection: Connection, chosen: list[str], event: Event) -> list[Step]:
    """What would run first. Of migrations that are reversed alone, nothing is."""
    left = {migration for migration, _ in await read_leftovers(connection)}
    if not left or (event is Event.REVERSED and left <= set(chosen)):
        return []
    return [
        replace(describe_leftover(row["statement"]), values=row["query"], cleanup=row["cleanup"])
        for row in await connection.fetch("SELECT * FROM migration_step ORDER BY id")
    ]


_ABILITIES = f"""
SELECT {CONDITIONS[Needs.HYPERTABLES]} AS hypertables, coalesce({CONDITIONS[Needs.COMMUNITY]}, false) AS community,
       {CAN_ENABLE} AS can_enable, {TIMESCALE_POLICY} = 'require' AS required
"""


@dataclass
class _Viewer:
    """Looks at steps in the order in which they would run, in a database that can do this much."""

    connection: Connection
    hypertables: bool
    community: bool
    can_enable: bool
    required: bool
    _enabled: bool = False
    _extents: dict[str, Extent] = field(default_factory=dict)

    async def view(self, step: Step) -> StepPreview:
        left_out, note = self._find_left_out(step)
        shown = read_inside(step) if left_out else await self._fill(step)
        cleared = None if left_out else await self._find_cleared(step)
        holds: tuple[Hold, ...] = ()
        if not left_out:
            settled = settle_holds(step, shown, cleared, hypertables=self.hypertables or self._enabled)
            holds = await resolve_holds(self.connection, settled)
        await self._measure({hold.table for hold in holds if hold.lock > Lock.NEW})
        notes = [*([note] if note else []), *(list_facts(step) if not left_out else [])]
        return StepPreview(
            statement=step.sql,
            shown=shown,
            locks=[LockedTable(hold.where, hold.lock.value, self._find_extent(hold)) for hold in holds],
            notes=notes,
            left_out=left_out,
            transactional=step.transactional,
            values=step.values,
            cleanup=step.cleanup,
            cleared=cleared,
        )

    async def _find_cleared(self, step: Step) -> str | None:
        return None if step.cleanup is None else await self.connection.fetchval(step.cleanup)

    async def _fill(self, step: Step) -> str:
        """The statement as it would run now; as it is written where the table isn't there yet."""
        shown = read_inside(step)
        if step.values is not None:
            with suppress(asyncpg.PostgresError):
                async with self.connection.transaction():
                    for name, value in (await self.connection.fetchrow(step.values) or {}).items():
                        # Where nothing comes in its place, the space before it goes too.
                        shown = shown.replace(f" :{name}", f" {value}" if value else "").replace(f":{name}", value)
        return shown

    async def _measure(self, tables: set[str]) -> None:
        # A hypertable is measured chunk by chunk, which is worth doing once.
        self._extents |= await measure_tables(self.connection, tables - self._extents.keys())

    def _find_extent(self, hold: Hold) -> Extent | None:
        return self._extents.get(hold.table) if hold.lock > Lock.NEW and hold.reach is Reach.TABLE else None

    def _find_left_out(self, step: Step) -> tuple[bool | None, str | None]:
        if step.sql == ENABLE_TIMESCALE:
            self._enabled = self.can_enable
            if self.can_enable:
                return False, None
            if self.required and not self.hypertables:
                return False, "fails here: AURUM_TIMESCALE=require, and it can't be had"
            why = "it is there already" if self.hypertables else "it can't be had, or AURUM_TIMESCALE=off"
            return True, f"left out here: {why}"
        has = {Needs.POSTGRES: True, Needs.HYPERTABLES: self.hypertables, Needs.COMMUNITY: self.community}[step.needs]
        if has or (self._enabled and step.needs is Needs.HYPERTABLES):
            return False, None
        if self._enabled:
            return None, f"left out unless the TimescaleDB that is enabled here is {step.needs.value}"
        return True, f"left out here: needs {step.needs.value}"
