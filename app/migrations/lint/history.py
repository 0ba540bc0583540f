"""Which aggregates no longer show their history, and where it stays. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from app.migrations.lint.rules import Problem
from app.timescale.hypertable import ContinuousAggregate, Hypertable
from app.timescale.manager import TimescaleMigrationManager
from app.timescale.operations import read_new_names
from app.timescale.renames import rename_in_hypertable


def judge_history(manager: TimescaleMigrationManager) -> Iterator[Problem]:
    """From before a migration to after it: what is taken off and put back within it goes on showing the same."""
    for table, (old, new) in sorted(_find_ends(manager).items()):
        coming = {aggregate.name: aggregate for aggregate in new.aggregates} if new else {}
        for aggregate in old.aggregates if old else ():
            gone = _describe_gone(aggregate, coming.get(aggregate.name))
            if gone is not None:
                name = aggregate.name
                yield Problem(
                    "hides-history",
                    f"{gone}. Of rows of {table} that are dropped by then it isn't shown any more what they came to: that "
                    f"stays in the table {name}__archive, or {name}__archive_2 and so on where there is one, and going back "
                    "shows it again. If it may stay there, allow it and say why.",
                )


def _find_ends(manager: TimescaleMigrationManager) -> dict[str, tuple[Hypertable | None, Hypertable | None]]:
    """What each table was before the first transition, and is after the last, both under the names of after the migration."""
    new_names = {each.old_tablename: each.new_tablename for each in manager.rename_tables}
    ends: dict[str, tuple[Hypertable | None, Hypertable | None]] = {}
    for transition in manager.transitions:
        table = new_names.get(transition.tablename, transition.tablename)
        names = read_new_names(manager, table)
        old = transition.old and rename_in_hypertable(transition.old, names)
        # Those that come first stand before the columns get their new names.
        new = rename_in_hypertable(transition.new, names) if transition.first and transition.new else transition.new
        ends[table] = (ends[table][0] if table in ends else old, new)
    return ends


def _describe_gone(old: ContinuousAggregate, new: ContinuousAggregate | None) -> str | None:
    if new is None:
        return f"the aggregate {old.name} goes"
    if (old.bucket, old.group_by) != (new.bucket, new.group_by):
        return f"the aggregate {old.name} gets other buckets or groups"
    gone = [name for name, expression in old.columns if (name, expression) not in new.columns]
    if gone:
        return f"{', '.join(gone)} of the aggregate {old.name} {'go or say' if len(gone) > 1 else 'goes or says'} something else"
    return None
