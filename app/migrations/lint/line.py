"""Goes through one migration after the other as it would run, forwards and back, and asks the rules of each statement. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from app.errors import MigrationRefused
from app.migrations.lint.actions import Action, CreateTable, DropIndex, Reindex
from app.migrations.lint.grammar import read_actions
from app.migrations.lint.history import judge_history
from app.migrations.lint.rules import Place, Problem, describe_move, find_table, judge
from app.migrations.lint.tables import Line
from app.timescale.autogenerate import read_hypertables, read_indexes
from app.timescale.hypertable import Hypertable
from app.timescale.indexes import Index, plan_indexes
from app.timescale.manager import TimescaleMigrationManager
from app.timescale.moves import BATCH, DataMigrationManager
from app.timescale.statements import ENABLE_TIMESCALE
from app.timescale.steps import Step
from app.timescale.tokens import read_statements, read_tokens, split_statements
from app.timescale.transitions import plan_transition

_HOUSEKEEPING = {"analyze", "call", "cluster", "reindex", "vacuum"}


@dataclass
class Examination:
    """The problems of a migration, and its own statements forwards: in the transaction, and after it.

    `on_hypertables` are the statements about a table that is a hypertable when they run.
    """

    problems: list[Problem] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    later: list[str] = field(default_factory=list)
    on_hypertables: set[str] = field(default_factory=set)


async def examine_migrations(managers: Sequence[MigrationManager]) -> list[Examination]:
    """One of each, in the order in which they are applied."""
    line = Line()
    return [await _examine(manager, managers[:place], line) for place, manager in enumerate(managers)]


async def _examine(manager: MigrationManager, earlier: Sequence[MigrationManager], line: Line) -> Examination:
    found = Examination()
    if not isinstance(manager, TimescaleMigrationManager):
        message = (
            "a migration of Piccolo's own kind keeps no journal: make it with invoke migration or migration-empty."
        )
        found.problems.append(Problem("no-journal", message))
        return found
    before = line.copy()
    made = frozenset(table.tablename for table in manager.add_tables)
    found.statements, found.later = await _list_statements(manager, found, backwards=False)
    _declare(manager, line, first=True)
    _walk(found, found.statements, line, made, backwards=False)
    within = line.copy()
    _declare(manager, line, first=False)
    _walk_later(found, found.later, line, made, backwards=False)
    for change in manager.index_changes:
        line.indexes |= {index.name: change.tablename for index in change.new}
    found.problems.extend(_judge_transitions(manager, read_hypertables(earlier), made))
    found.problems.extend(_judge_index_changes(manager, read_indexes(earlier)))
    found.problems.extend(judge_history(manager))
    found.problems.extend(_judge_retention(manager, before, line, made))
    found.problems.extend(_judge_way_back(manager))

    statements, later = await _list_statements(manager, found, backwards=True)
    _walk(found, statements, within, made, backwards=True)
    _walk_later(found, later, before, made, backwards=True)
    found.problems = list(dict.fromkeys(found.problems))
    return found


def _declare(manager: TimescaleMigrationManager, line: Line, *, first: bool) -> None:
    for transition in manager.transitions:
        if transition.first is first:
            line.declare(transition.tablename, transition.new)


# --- statements ---------------------------------------------------------------------------------------------------


async def _list_statements(
    manager: TimescaleMigrationManager, found: Examination, *, backwards: bool
) -> tuple[list[str], list[str]]:
    """What the file itself says, in the transaction and after it: Piccolo's operations and raw steps, no transitions."""
    if isinstance(manager, DataMigrationManager):
        moved = [move.backwards if backwards else move.forwards for move in manager.moves]
        return [], [statement.replace(BATCH, "true") for statement in moved if statement]
    try:
        steps = await manager.list_steps(backwards=backwards)
    except MigrationRefused as error:
        found.problems.append(Problem("reads-database", f"{error} What is beside it is checked."))
        raw, raw_backwards = manager.raw, manager.raw_backwards
        manager.raw, manager.raw_backwards = [], []
        steps = await manager.list_steps(backwards=backwards)
        manager.raw, manager.raw_backwards = raw, raw_backwards
    planned = {ENABLE_TIMESCALE}
    for transition in manager.transitions:
        ends = (transition.new, transition.old) if backwards else (transition.old, transition.new)
        for dropped in (False, True):
            planned |= {step.sql for step in plan_transition(transition.tablename, *ends, dropped=dropped)}
    planned |= {step.sql for step in _plan_indexes(manager, backwards=backwards)}
    own = [step for step in steps if step.sql not in planned]
    return [step.sql for step in own if step.transactional], [step.sql for step in own if not step.transactional]


def _plan_indexes(manager: TimescaleMigrationManager, *, backwards: bool) -> Iterator[Step]:
    """The steps of declared indexes, but for those that others wait for."""
    made = {table.tablename for table in (manager.drop_tables if backwards else manager.add_tables)}
    for change in manager.index_changes:
        old, new = (change.new, change.old) if backwards else (change.old, change.new)
        busy = change.tablename not in made
        steps = plan_indexes(change.tablename, old, new, hypertable=change.hypertable, busy=busy)
        yield from (step for step in steps if not (busy and step.transactional))


def _walk(found: Examination, statements: Sequence[str], line: Line, made: frozenset[str], *, backwards: bool) -> None:
    place = Place(backwards=backwards, made=made, coming=frozenset() if backwards else made)
    for sql in statements:
        created = {action.name for action in _read(sql) if isinstance(action, CreateTable)}
        place = replace(place, coming=place.coming - created)
        _judge_statement(found, sql, line, place)


def _walk_later(
    found: Examination, statements: Sequence[str], line: Line, made: frozenset[str], *, backwards: bool
) -> None:
    place = Place(backwards=backwards, made=made, transactional=False)
    for sql in statements:
        _judge_statement(found, sql, line, place)
        dropped = {name for action in _read(sql) if isinstance(action, DropIndex) for name in action.names}
        place = replace(place, dropped_indexes=place.dropped_indexes | dropped)


def _read(sql: str) -> Iterator[Action]:
    for statement in read_statements(sql):
        yield from read_actions(statement)


def _judge_statement(found: Examination, sql: str, line: Line, place: Place) -> None:
    for statement in read_statements(sql):
        for action in read_actions(statement):
            if any(table in line.tables for table in _find_tables(action, line)):
                found.on_hypertables.add(sql)
            for rule, message in judge(action, line, replace(place, guarded=statement.guarded)):
                said = f"going back, {message}" if place.backwards else message
                found.problems.append(Problem(rule, said, sql))
            line.take(action)


def _find_tables(action: Action, line: Line) -> list[str | None]:
    match action:
        case DropIndex(names=names):
            return [line.indexes.get(name) for name in names]
        case Reindex(name=name):
            return [name, line.indexes.get(name)]
        case _:
            return [find_table(action)]


# --- transitions --------------------------------------------------------------------------------------------------


def _judge_transitions(
    manager: TimescaleMigrationManager, known: dict[str, Hypertable], made: frozenset[str]
) -> Iterator[Problem]:
    """Those that start from what isn't there, and those that move rows."""
    for renamed in manager.rename_tables:
        if renamed.old_tablename in known:
            known[renamed.new_tablename] = known.pop(renamed.old_tablename)
    dropped = {table.tablename for table in manager.drop_tables}
    for transition in manager.transitions:
        table, old, new = transition.tablename, transition.old, transition.new
        if old != known.get(table):
            yield Problem(
                "stale-transition",
                f"{table} is not what the transition takes for old: the migrations before say {known.get(table)}. It was "
                "written on another branch: generate it again.",
            )
        if table not in made | dropped and _moves_rows(old, new):
            yield Problem("moves-rows", describe_move(table))
        if new is None:
            known.pop(table, None)
        else:
            known[table] = new


def _judge_index_changes(manager: TimescaleMigrationManager, known: dict[str, tuple[Index, ...]]) -> Iterator[Problem]:
    for renamed in manager.rename_tables:
        if renamed.old_tablename in known:
            known[renamed.new_tablename] = known.pop(renamed.old_tablename)
    for change in manager.index_changes:
        before = known.get(change.tablename, ())
        if set(change.old) != set(before):
            yield Problem(
                "stale-transition",
                f"the indexes of {change.tablename} are not what the migration takes for old: those before say {before}. It was "
                "written on another branch: generate it again.",
            )
        known[change.tablename] = change.new


def _moves_rows(old: Hypertable | None, new: Hypertable | None) -> bool:
    if old is None or new is None:
        return old is not new
    return (old.time_column, old.default_indexes) != (new.time_column, new.default_indexes)


def _judge_retention(
    manager: TimescaleMigrationManager, before: Line, line: Line, made: frozenset[str]
) -> Iterator[Problem]:
    names = {each.new_tablename: each.old_tablename for each in manager.rename_tables}
    for table, state in sorted(line.tables.items()):
        was = before.tables.get(names.get(table, table))
        for name in sorted(state.find_emptied() - (was.find_emptied() if was else set())):
            yield Problem(
                "retention-window",
                f"rows of {table} are dropped after {state.retention}, and the aggregate {name} refreshes further back: a "
                "reading that comes late has a bucket counted again without the rows that are gone. Keep rows longer, or let "
                "start_offset be shorter than the retention.",
            )
        kept = was.retention if was else None
        if state.retention is not None and table not in made and (kept is None or state.retention < kept):
            yield Problem(
                "loses-rows",
                f"rows of {table} older than {state.retention} go soon after, and going back doesn't bring "
                "them back. If they may go, allow it and say why.",
            )


def _judge_way_back(manager: TimescaleMigrationManager) -> Iterator[Problem]:
    if manager.raw and not manager.raw_backwards:
        yield Problem(
            "no-backwards",
            "add_raw() without add_raw_backwards(): going back leaves what it did. Say how to undo it, or allow it and say "
            "why nothing needs undoing.",
        )
    for forwards, backwards in manager.afterwards:
        # What only keeps house changes nothing.
        tokens = read_tokens(forwards)
        if tokens and not split_statements(backwards) and tokens[0].value not in _HOUSEKEEPING:
            message = "run_after_commit() with an empty way back: going back leaves what it did. Say how to undo it."
            yield Problem("no-backwards", message, forwards)
