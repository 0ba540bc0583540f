"""Generated migrations of hypertables: each kind of change, on every edition, forwards and back, with rows that stay."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import asyncpg
import pytest
from piccolo.apps.migrations.commands.forwards import run_forwards

from app.errors import MigrationRefused
from app.migrations.losses import count_losses
from app.timescale.leftovers import has_leftovers
from tests.timescale.project import (
    COMPRESSION,
    DOUBLE,
    MEAN,
    OFTEN,
    OTHER_COMPRESSION,
    PEAK,
    RETENTION,
    ROWS,
    Project,
    daily,
    declare,
    is_community,
    step,
    stop_jobs,
    sum_up,
)

HOURS = "SELECT count(*), sum(readings)::int8, sum(readings * mean)::float8 FROM {}"
ALL_HOURS = [(167, 1000, 499500.0)]


async def prepare(project: Project, hypertable: str) -> tuple[Any, ...]:
    """The tables with a thousand readings of a week, and their sums."""
    await step(project, declare(hypertable))
    await project.fetch("INSERT INTO machines VALUES ('A')")
    await project.fetch(ROWS)
    whole = await sum_up(project)
    assert whole[:2] == (1000, 499500.0)
    return whole


async def compress(project: Project) -> None:
    if await is_community(project):
        await project.fetch("SELECT compress_chunk(chunk, true) FROM show_chunks('readings') AS chunk")


async def test_rows_stay_through_every_change_of_their_table_and_back(project: Project) -> None:
    await stop_jobs(project)
    whole = await prepare(project, "None")
    changes = [
        await step(project, declare(daily())),
        await step(project, declare('Hypertable("timestamp", timedelta(days=2))')),
        await step(project, declare('Hypertable("timestamp", timedelta(days=2), default_indexes=True)')),
        await step(project, declare(daily(COMPRESSION))),
    ]
    await compress(project)
    changes.append(await step(project, declare(daily(OTHER_COMPRESSION))))
    await compress(project)
    changes.append(await step(project, declare(daily(OTHER_COMPRESSION + RETENTION), DOUBLE)))
    await compress(project)
    changes.append(await step(project, declare("None", DOUBLE)))
    assert await sum_up(project) == whole
    for migration_id in reversed(changes):
        await project.backwards(migration_id)
        await compress_if_declared(project)
        assert await sum_up(project) == whole
    await project.forwards()
    assert await sum_up(project) == whole
    keys = await project.fetch(
        "SELECT conname::text, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE conrelid = 'readings'::regclass AND contype <> 'n' ORDER BY 1"
    )
    assert keys == [
        (
            "readings_machine_id_fkey",
            "FOREIGN KEY (machine_id) REFERENCES machines(machine_id) ON UPDATE CASCADE ON DELETE CASCADE",
        ),
        ("readings_pkey", 'PRIMARY KEY (machine_id, "timestamp")'),
        ("readings_value_known", "CHECK ((value >= (0)::double precision))"),
    ]
    indexes = await project.fetch("SELECT indexname::text FROM pg_indexes WHERE tablename = 'readings' ORDER BY 1")
    assert indexes == [("readings_pkey",), ("readings_timestamp",)]


async def compress_if_declared(project: Project) -> None:
    if await is_community(project) and await project.fetch(
        "SELECT FROM timescaledb_information.hypertables WHERE hypertable_name = 'readings' AND compression_enabled"
    ):
        await compress(project)


async def test_an_aggregate_changes_and_keeps_what_its_dropped_rows_said(project: Project) -> None:
    whole = await prepare(project, daily(COMPRESSION))
    await compress(project)
    first = await step(project, declare(daily(COMPRESSION + RETENTION + MEAN)))
    if not await is_community(project):
        assert await project.fetch("SELECT to_regclass('readings_hourly')::text") == [(None,)]
        await step(project, declare(daily(COMPRESSION + RETENTION + OFTEN), DOUBLE))
        await project.backwards(first)
        assert await sum_up(project) == whole
        return
    assert await project.fetch(HOURS.format("readings_hourly")) == ALL_HOURS
    await project.fetch("SELECT drop_chunks('readings', '2026-01-04'::timestamptz)")
    left = await sum_up(project)
    assert left[0] < 1000

    await step(project, declare(daily(COMPRESSION + RETENTION + PEAK)))
    assert await project.fetch(HOURS.format("readings_hourly")) == ALL_HOURS
    ((known, peak),) = await project.fetch("SELECT count(peak), max(peak) FROM readings_hourly")
    assert 0 < known < 167
    assert peak == 999

    await step(project, declare(daily(COMPRESSION + RETENTION + OFTEN)))
    await compress(project)
    await step(project, declare(daily(COMPRESSION + RETENTION + OFTEN), DOUBLE))
    assert await project.fetch(HOURS.format("readings_hourly")) == ALL_HOURS

    gone = await step(project, declare(daily(), DOUBLE))
    assert await project.fetch(HOURS.format("readings_hourly__archive")) == ALL_HOURS
    await project.backwards(gone)
    assert await project.fetch(HOURS.format("readings_hourly")) == ALL_HOURS
    assert await project.fetch("SELECT to_regclass('readings_hourly__archive')::text") == [(None,)]

    await project.backwards(first)
    assert await project.fetch(HOURS.format("readings_hourly__archive")) == ALL_HOURS
    assert await sum_up(project) == left


async def test_an_aggregate_of_other_buckets_leaves_the_old_ones_in_its_archive(project: Project) -> None:
    await prepare(project, daily(MEAN))
    await step(project, declare(daily(MEAN.replace("timedelta(hours=1), (", "timedelta(hours=2), ("))))
    if await is_community(project):
        assert await project.fetch(HOURS.format("readings_hourly__archive")) == ALL_HOURS
        assert await project.fetch(HOURS.format("readings_hourly")) == [(84, 1000, 499500.0)]


async def test_a_table_with_an_aggregate_can_go_and_come_back(project: Project) -> None:
    await prepare(project, daily(COMPRESSION + MEAN))
    gone = await step(project, declare("None").split("class Reading", maxsplit=1)[0])
    assert await project.fetch("SELECT to_regclass('readings')::text") == [(None,)]
    await project.backwards(gone)
    assert await project.fetch("SELECT count(*) FROM readings") == [(0,)]
    if await is_community(project):
        assert await project.fetch(HOURS.format("readings_hourly")) == ALL_HOURS


async def test_a_step_that_was_cut_off_after_the_transaction_is_made_up_for(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(project, daily())

    async def crash(connection: asyncpg.Connection[asyncpg.Record]) -> None:
        if await has_leftovers(connection):
            raise KeyboardInterrupt

    project.declare(declare(daily(MEAN)))
    await project.generate()
    with monkeypatch.context() as patch:
        patch.setattr("app.migrations.runner.run_leftovers", crash)
        with pytest.raises(KeyboardInterrupt) if await is_community(project) else nullcontext():
            await project.forwards()
    if await is_community(project):
        assert await project.fetch("SELECT count(*) FROM migration_step") == [(1,)]
    assert (await project.forwards())[0].startswith("Nothing to apply")
    assert await project.fetch("SELECT to_regclass('migration_step')::text") == [(None,)]
    if await is_community(project):
        stored = await project.fetch(
            "SELECT count(*) FROM _timescaledb_catalog.continuous_aggs_watermark WHERE watermark > 0"
        )
        assert stored == [(1,)]


async def test_the_file_says_both_sides_and_can_be_read(project: Project) -> None:
    project.declare(declare(daily(RETENTION)))
    draft = await project.generate()
    assert draft is not None
    assert draft.text.splitlines()[0] == "import datetime"
    assert (
        """
    manager.alter_hypertable(
        tablename="readings",
        old=None,
        new=Hypertable(
            time_column="timestamp",
            chunk_interval=datetime.timedelta(days=1),
            default_indexes=False,
            compression=None,
            retention=datetime.timedelta(days=365),
            aggregates=(),
        ),
    )

    return manager
"""
        in draft.text
    )


async def test_a_constraint_that_says_something_else_under_its_name_is_refused(project: Project) -> None:
    await step(project, declare(daily()))
    project.declare(declare(daily()).replace("value >= 0", "value > 0"))
    with pytest.raises(MigrationRefused) as caught:
        await project.generate()
    assert str(caught.value) == (
        "The constraint readings_value_known of readings says CHECK (value > 0) and said CHECK (value >= 0): "
        "give what is new a new name, so that the old one is dropped and the new one added."
    )


async def test_a_column_that_may_be_renamed_is_asked_for(project: Project) -> None:
    await prepare(project, daily())
    renamed = declare(daily()).replace("    value =", "    level =").replace("readings_value_known", "level_known")
    project.declare(renamed.replace("value >= 0", "level >= 0"))
    with pytest.raises(MigrationRefused, match="In readings, value is gone and level is new: say with --renames"):
        await project.generate()
    assert await project.generate(renames=True) is not None
    await project.forwards()
    assert await project.fetch("SELECT sum(level)::float8 FROM readings") == [(499500.0,)]


async def test_a_preview_says_what_each_step_locks_and_needs(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    await step(project, declare(daily()))
    project.declare(declare(daily(RETENTION + MEAN)))
    await project.generate()
    result = await run_forwards("app", preview=True)
    assert result.success
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("-- ")]
    assert notes == [
        "-- readings: SHARE ROW EXCLUSIVE (reads go on, writes wait); readings_hourly: new, nobody waits; "
        "left out without TimescaleDB Community; its time grows with the rows",
        "-- readings_hourly: no lock; left out without TimescaleDB Community",
        "-- readings: no lock; left out without TimescaleDB Community, where the service drops what is too old",
        "-- readings_hourly: EXCLUSIVE (reads go on, writes wait); readings: ACCESS SHARE (reads and writes go on); "
        "left out without TimescaleDB Community; its time grows with the rows; in no transaction, by itself",
    ]
    assert await project.fetch("SELECT to_regclass('readings_hourly')::text") == [(None,)]


async def test_what_going_back_would_lose_is_counted_under_its_present_name(project: Project) -> None:
    first = await step(project, declare("None"))
    second = await step(
        project, declare("None").replace("    value =", "    more = Text(default=None, null=True)\n    value =")
    )
    await project.fetch("INSERT INTO machines VALUES ('A')")
    await project.fetch(ROWS)
    await project.fetch("UPDATE readings SET more = 'x' WHERE value < 10")
    assert await count_losses(project.engine, project.app, [second]) == {"readings.more": 10}

    project.declare(declare("None").replace("    value =", "    extra = Text(default=None, null=True)\n    value ="))
    third = await project.generate(renames=True)
    assert third is not None
    await project.forwards()
    assert await count_losses(project.engine, project.app, [second, third.migration_id]) == {"readings.extra": 10}
    assert await count_losses(project.engine, project.app, [third.migration_id]) == {}

    await project.fetch("DROP TABLE readings")
    assert await count_losses(project.engine, project.app, [first, second, third.migration_id]) == {"machines": 1}


@pytest.mark.parametrize(
    ("one", "other", "named"),
    [
        ("place = Text(null=True)", "spot = Text(null=True)", "column machines.location"),
        (None, None, "table of Machine"),
    ],
    ids=["both rename", "both drop"],
)
async def test_two_branches_that_change_the_same_are_refused_in_one_sentence(
    project: Project, one: str | None, other: str | None, named: str
) -> None:
    source = (
        'class Plant(Declared, Table, tablename="plants"):\n    plant_id = Text(primary_key=True, default=None)\n'
        'class Machine(Declared, Table, tablename="machines"):\n    machine_id = Text(primary_key=True, default=None)\n    '
    )
    await step(project, source + "location = Text(null=True)")
    drafts = []
    for column in (one, other):
        project.declare(source.partition("class Machine")[0] if column is None else source + column)
        draft = await project.generate(renames=True)
        assert draft is not None
        drafts.append(draft)
        draft.path.unlink()
        project.forget_files()
    for draft in drafts:
        draft.path.write_text(draft.text)
    newest = max(draft.migration_id for draft in drafts)
    with pytest.raises(
        MigrationRefused,
        match=f"^The migration {newest} changes the {named}, which the migrations before it have dropped or renamed, on "
        "another branch most likely: write it anew after them.$",
    ):
        await project.forwards()
    assert await project.fetch("SELECT max(name) FROM migration") == [(min(draft.migration_id for draft in drafts),)]
