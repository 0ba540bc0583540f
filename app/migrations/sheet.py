"""A preview as a person reads it: SQL, with comments that say what it does to whom."""

from __future__ import annotations

from collections.abc import Iterable

from app.migrations.extent import Extent
from app.migrations.losses import describe_losses
from app.migrations.preview import BASE, MigrationPreview, Preview, StepPreview
from app.timescale.journal import Event
from app.timescale.steps import Lock


def describe_preview(preview: Preview) -> Iterable[str]:
    """The lines that show it."""
    yield f"-- {preview.server}, at {preview.at or BASE}. Nothing of this is run."
    if preview.leftovers:
        yield "\n-- ==== Left over from a migration that was cut off: runs first, each step by itself"
        for step in preview.leftovers:
            yield from _describe_step(step)
    for migration in preview.migrations:
        yield f"\n-- ==== {migration.migration}  {migration.description}: {_BECOMES[migration.event]}"
        if migration.refusal is not None:
            yield f"-- {migration.refusal}"
            continue
        yield from _describe_steps(migration)
    if not preview.migrations:
        yield "\n-- Nothing to apply or to reverse."
    if preview.losses:
        yield f"\n-- Going back drops {describe_losses(preview.losses)}, and only with --yes."


def _describe_steps(migration: MigrationPreview) -> Iterable[str]:
    together = [step for step in migration.steps if step.transactional]
    alone = [step for step in migration.steps if not step.transactional]
    bookkeeping = "the bookkeeping in migration and migration_journal"
    if migration.rows_done is not None:
        if migration.rows_done:
            yield f"-- It was cut off with {migration.rows_done:,} rows behind it, and goes on from there."
        for step in alone:
            yield from _describe_step(step)
        yield f"\n-- and {bookkeeping} when all of it is done"
        return
    for step in together:
        yield from _describe_step(step)
    yield f"\n-- and {bookkeeping}; all of this is one transaction"
    for step in alone:
        yield from _describe_step(step)


_BECOMES = {Event.APPLIED: "to be applied", Event.REVERSED: "to be reversed"}


def _describe_step(step: StepPreview) -> Iterable[str]:
    yield ""
    new = [locked.table for locked in step.locks if locked.lock == Lock.NEW.value]
    if new:
        yield f"-- {', '.join(new)}: {Lock.NEW.value}"
    for locked in step.locks:
        if locked.lock != Lock.NEW.value:
            yield f"-- {locked.table}: {locked.lock}{_describe_extent(locked.extent)}"
    for note in step.notes:
        yield f"-- {note}"
    if step.cleared is not None:
        yield f"-- after what an attempt that was cut off has left is cleared away: {step.cleared}"
    elif step.cleanup is not None:
        yield "-- after what an attempt that was cut off may have left is cleared away"
    if step.values is not None:
        yield "-- with what is found when it comes to it"
    yield f"{step.shown};" if not step.shown.endswith(";") else step.shown


def _describe_extent(extent: Extent | None) -> str:
    if extent is None:
        return ""
    rows = "rows that were never counted" if extent.rows is None else f"about {_count(extent.rows, 'row')}"
    if extent.rows is not None and extent.uncounted:
        rows += f" and those of {_count(extent.uncounted, 'chunk')} that were never counted"
    chunks = "" if extent.chunks is None else f" in {_count(extent.chunks, 'chunk')}"
    return f": {rows}, {_describe_size(extent.size_bytes)}{chunks}"


def _count(many: int, what: str) -> str:
    return f"{many:,} {what}{'' if many == 1 else 's'}"


def _describe_size(size_bytes: int) -> str:
    size, unit = float(size_bytes), "bytes"
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1024 or unit == "TB":
            break
        size /= 1024
    return f"{size:,.0f} {unit}" if unit in {"bytes", "kB"} else f"{size:,.1f} {unit}"
