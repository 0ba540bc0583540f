"""What migrate-lint finds: for each rule a migration that breaks it and one that nearly does; what it says TimescaleDB
refuses is refused by the servers of the tests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.errors import MigrationRefused
from app.migrations.lint.linter import Finding, lint_migrations
from app.migrations.lint.rules import RULES
from app.timescale.autogenerate import draft_data, draft_empty
from tests.conftest import ROOT, run_command
from tests.timescale.project import Project

TABLES = """
from app.timescale.indexes import Index

class Machine(Declared, Table, tablename="machines"):
    machine_id = Text(primary_key=True, default=None)
    size = BigInt(default=0)

class Reading(Declared, CompositeKey, Table, tablename="readings", hypertable=Hypertable("timestamp", timedelta(days=1))):
    machine_id = ForeignKey(Machine, null=False, default=None)
    timestamp = KeyTimestamptz(primary_key=True, default=None, index=True)
    value = Real(default=None)
    readings_pkey = PrimaryKey([machine_id, timestamp])

class Packed(Declared, CompositeKey, Table, tablename="packed", hypertable=Hypertable(
    "timestamp", timedelta(days=1), compression=Compression(timedelta(days=7), ("machine_id",)))):
    machine_id = ForeignKey(Machine, null=False, default=None)
    timestamp = KeyTimestamptz(primary_key=True, default=None)
    value = {packed}
    other = Real(default=0.0)
    packed_pkey = PrimaryKey([machine_id, timestamp])

class Summed(Declared, CompositeKey, Table, tablename="summed", hypertable=Hypertable(
    "timestamp", timedelta(days=1), aggregates=(ContinuousAggregate(
        "summed_hourly", timedelta(hours=1), ("machine_id",), (("mean", "avg(value)"),),
        Refresh(timedelta(hours=1), timedelta(days=30), timedelta(hours=1))),))):
    machine_id = ForeignKey(Machine, null=False, default=None)
    timestamp = KeyTimestamptz(primary_key=True, default=None)
    value = Real(default=None)
    other = Real(default=0.0)
    summed_pkey = PrimaryKey([machine_id, timestamp])
"""
NOWHERE = "postgresql://127.0.0.1:1/nobody_connects"
REAL, DOUBLE = "Real(default=None)", "DoublePrecision(default=None)"
LAST = "    return manager"
PER_CHUNK = "WITH (timescaledb.transaction_per_chunk)"
CONTINUOUS = (
    "CREATE MATERIALIZED VIEW daily WITH (timescaledb.continuous) AS "
    "SELECT time_bucket('1 day', \"timestamp\") AS bucket, avg(value) AS mean FROM readings GROUP BY 1"
)


def raw(*statements: str, back: str = "SELECT 1") -> str:
    """The lines of a migration that run these statements in its transaction."""
    runs = "".join(f"        await find_engine().run_ddl({sql!r})\n" for sql in statements)
    return (
        f"    from app.timescale.manager import find_engine\n\n    async def do():\n{runs}\n"
        f"    async def undo():\n        await find_engine().run_ddl({back!r})\n\n"
        "    manager.add_raw(do)\n    manager.add_raw_backwards(undo)\n"
    )


def later(*statements: str, back: str = "SELECT 1") -> str:
    """The lines of a migration that run each of these statements after its transaction."""
    return "".join(f"    manager.run_after_commit({sql!r}, {back!r})\n" for sql in statements)


def guarded(sql: str) -> str:
    return f"DO $$ BEGIN IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN {sql}; END IF; END $$"


@dataclass(frozen=True)
class Case:
    """A statement that breaks exactly these rules, what a server says of it, and one that doesn't break the first of them.

    `refused` is what TimescaleDB says: any edition, or Community alone.
    """

    breaks: tuple[str, ...]
    broken: str
    fine: str
    refused: str | None = None
    community: bool = False
    transactional: bool = True

    def write(self, sql: str) -> str:
        return raw(sql) if self.transactional else later(sql)


CASES = [
    Case(
        ("concurrently", "cut-off"),
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS r ON public.readings (value)",
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS r ON machines (size)",
        "hypertables do not support concurrent index creation",
        transactional=False,
    ),
    Case(
        ("concurrently",),
        'REINDEX TABLE CONCURRENTLY "readings"',
        "REINDEX TABLE CONCURRENTLY machines",
        "concurrent index creation on hypertables is not supported",
        transactional=False,
    ),
    Case(
        ("concurrently",),
        "DROP INDEX CONCURRENTLY IF EXISTS readings_timestamp",
        "DROP INDEX CONCURRENTLY IF EXISTS machines_size",
        "DROP INDEX CONCURRENTLY does not support dropping multiple objects",
        community=True,  # that is, since 2.23: releases before it take it
        transactional=False,
    ),
    Case(
        ("not-in-transaction",),
        "CREATE INDEX CONCURRENTLY m ON machines (size)",
        "CREATE INDEX m ON machines (size)",
        "CREATE INDEX CONCURRENTLY cannot run inside a transaction block",
    ),
    Case(
        ("not-in-transaction", "by-hand"),
        f"CREATE INDEX r ON readings (value) {PER_CHUNK}",
        "CREATE INDEX r ON readings (value)",
        "transaction_per_chunk) cannot run inside a transaction block",
    ),
    Case(
        ("not-in-transaction",),
        guarded("CALL refresh_continuous_aggregate('summed_hourly', NULL, NULL)"),
        guarded("PERFORM compress_chunk(chunk) FROM show_chunks('packed') AS chunk"),
        "refresh_continuous_aggregate() cannot ",
        community=True,
    ),
    Case(
        ("not-in-transaction", "by-hand"),
        CONTINUOUS,
        f"{CONTINUOUS} WITH NO DATA",
        "WITH DATA cannot run inside a transaction block",
        community=True,
    ),
    Case(("not-in-transaction",), "VACUUM readings", "ANALYZE readings", "VACUUM cannot run inside a transaction block"),
    Case(
        ("column-in-use", "changing-column-type"),
        "ALTER TABLE packed ALTER COLUMN other TYPE double precision",
        "ALTER TABLE readings ALTER COLUMN value TYPE double precision",
        "operation not supported on hypertables",
        community=True,
    ),
    Case(
        ("column-in-use", "changing-column-type"),
        'ALTER TABLE IF EXISTS "public"."summed" ALTER "value" SET DATA TYPE float8 USING value::float8',
        "ALTER TABLE summed ALTER COLUMN other TYPE double precision",
        "cannot alter type of a column used by a view or rule",
        community=True,
    ),
    Case(
        ("column-in-use", "loses-rows"),
        "ALTER TABLE packed DROP COLUMN machine_id",
        "ALTER TABLE packed DROP COLUMN other",
        "cannot drop orderby or segmentby column from a hypertable with c",
        community=True,
    ),
    Case(
        ("column-in-use", "loses-rows"),
        "ALTER TABLE summed DROP COLUMN IF EXISTS value",
        "ALTER TABLE summed DROP COLUMN IF EXISTS other",
        "cannot drop desired object(s) because other objects depend on them",
        community=True,
    ),
    Case(
        ("on-compressed",),
        "ALTER TABLE packed ADD COLUMN since timestamptz DEFAULT now()",
        "ALTER TABLE packed ADD COLUMN since timestamptz DEFAULT '2026-01-01'",
        "cannot add column with non-constant default expression to a hypertable that has c",
        community=True,
    ),
    Case(
        ("on-compressed",),
        "ALTER TABLE packed ADD COLUMN since timestamptz, ADD COLUMN level bigint DEFAULT -(1)",
        "ALTER TABLE packed ADD COLUMN since timestamptz, ADD COLUMN level bigint DEFAULT -1",
        None,
        community=True,
    ),
    Case(
        ("on-compressed",),
        "ALTER TABLE packed ADD COLUMN note text NOT NULL",
        "ALTER TABLE packed ADD COLUMN note text NOT NULL DEFAULT ''",
        "cannot add column with NOT NULL constraint without default to a hypertable that has c",
        community=True,
    ),
    Case(
        ("on-compressed", "adding-foreign-key-constraint"),
        "ALTER TABLE packed ADD COLUMN maker text REFERENCES machines",
        "ALTER TABLE packed ADD COLUMN maker text",
        "cannot add column with constraints to a hypertable that has c",
        community=True,
    ),
    Case(
        ("on-compressed",),
        "ALTER TABLE packed VALIDATE CONSTRAINT known",
        "ALTER TABLE readings VALIDATE CONSTRAINT known",
        "operation not supported on hypertables",
        community=True,
    ),
    Case(
        ("hypertable-key", "index-on-hypertable"),
        "ALTER TABLE readings ADD CONSTRAINT one UNIQUE (value)",
        'ALTER TABLE readings ADD CONSTRAINT one UNIQUE ("timestamp", value)',
        'cannot create a unique index without the column "timestamp"',
    ),
    Case(
        ("hypertable-key", "index-on-hypertable"),
        "CREATE UNIQUE INDEX one ON readings USING btree (value)",
        'CREATE UNIQUE INDEX one ON readings USING btree (value, "timestamp" DESC)',
        'cannot create a unique index without the column "timestamp"',
    ),
    Case(
        ("hypertable-key",),
        "ALTER TABLE readings ADD COLUMN serial_number bigint UNIQUE",
        "ALTER TABLE machines ADD COLUMN serial_number bigint UNIQUE",
        'cannot create a unique index without the column "timestamp"',
    ),
    Case(
        ("hypertable-key",),
        "ALTER TABLE readings ADD CONSTRAINT one UNIQUE USING INDEX one_index",
        "ALTER TABLE machines ADD CONSTRAINT one UNIQUE USING INDEX size_index",
        "hypertables do not support adding a constraint using an existing index",
    ),
    Case(
        ("hypertable-key", "adding-foreign-key-constraint"),
        'ALTER TABLE readings ADD FOREIGN KEY (machine_id, "timestamp") REFERENCES packed (machine_id, "timestamp")',
        "ALTER TABLE readings ADD FOREIGN KEY (machine_id) REFERENCES machines (machine_id)",
        "hypertables cannot be used as foreign key references of hypertables",
    ),
    Case(
        ("moves-rows", "by-hand"),
        "SELECT create_hypertable('machines', by_range('at'))",
        "SELECT compress_chunk(chunk) FROM show_chunks('packed') AS chunk",
    ),
    Case(
        ("by-hand", "loses-rows"),
        guarded("PERFORM add_retention_policy('readings', INTERVAL '30 days')"),
        guarded("PERFORM decompress_chunk(chunk) FROM show_chunks('packed') AS chunk"),
    ),
    Case(("by-hand",), "ALTER TABLE readings SET (timescaledb.compress)", "ALTER TABLE readings SET (fillfactor = 90)"),
    Case(
        ("by-hand",),
        "SELECT decompress_chunk(chunk, true) FROM show_chunks('packed') AS chunk",
        guarded("PERFORM decompress_chunk(chunk, true) FROM show_chunks('packed') AS chunk"),
    ),
    Case(("loses-rows",), "DELETE FROM ONLY readings WHERE value < 0", "UPDATE readings SET value = 0 WHERE value < 0"),
    Case(("loses-rows",), "TRUNCATE TABLE readings, packed", "LOCK TABLE readings"),
    Case(("loses-rows",), "DROP TABLE IF EXISTS readings", "ALTER TABLE readings SET (fillfactor = 90)"),
    Case(
        ("loses-rows",),
        guarded("PERFORM drop_chunks('readings', INTERVAL '1 year')"),
        guarded("PERFORM show_chunks('readings')"),
    ),
    Case(("loses-rows", "ban-drop-view"), "DROP MATERIALIZED VIEW summed_hourly", "DROP MATERIALIZED VIEW IF EXISTS something_else"),
    Case(("index-on-hypertable",), "CREATE INDEX r ON readings (value)", "CREATE INDEX m ON machines (size)"),
    Case(
        ("index-on-hypertable",),
        "ALTER TABLE packed ADD UNIQUE (machine_id, \"timestamp\", value)",
        "ALTER TABLE packed ADD CHECK (value > 0)",
    ),
    Case(
        ("reads-database",),
        "SELECT machine_id FROM machines",
        "UPDATE readings SET value = 0 FROM machines WHERE machines.machine_id = readings.machine_id",
    ),
    Case(
        ("cut-off",),
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS m ON machines (size)",
        "ANALYZE machines",
        transactional=False,
    ),
    Case(
        ("cut-off",),
        "DROP INDEX CONCURRENTLY machines_size",
        "DROP INDEX CONCURRENTLY IF EXISTS machines_size",
        transactional=False,
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
async def first_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The name and the text of the migration that makes the tables."""
    with pytest.MonkeyPatch.context() as patch:
        made = Project(tmp_path_factory.mktemp("first"), NOWHERE, patch)
        made.declare(TABLES.format(packed=REAL))
        draft = await made.generate()
        assert draft is not None
        return draft.path.name, draft.text


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_file: tuple[str, str]) -> Project:
    """Files alone: a linter needs no server."""
    made = Project(tmp_path, NOWHERE, monkeypatch)
    name, text = first_file
    (made.folder / name).write_text(text)
    return made


async def write(project: Project, body: str) -> Path:
    """A migration by hand, after those that are there."""
    draft = await draft_empty(project.app, "by hand")
    draft.path.write_text(draft.text.replace(LAST, f"{body}\n{LAST}"))
    return draft.path


async def lint(project: Project) -> list[Finding]:
    project.forget_files()
    return await lint_migrations(project.app)


async def find_rules(project: Project) -> list[str]:
    return sorted({finding.rule for finding in await lint(project)})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.broken[:60])
async def test_a_statement_breaks_its_rules_and_its_neighbour_does_not(project: Project, case: Case) -> None:
    path = await write(project, case.write(case.broken))
    findings = await lint(project)
    assert sorted({finding.rule for finding in findings}) == sorted(case.breaks)
    assert {finding.file for finding in findings} == {path.name}
    assert {finding.statement for finding in findings} <= {case.broken, None}
    path.unlink()
    await write(project, case.write(case.fine))
    assert case.breaks[0] not in await find_rules(project)


async def test_a_generated_change_of_type_takes_compression_off_and_is_no_problem_for_timescaledb(
    project: Project,
) -> None:
    project.declare(TABLES.format(packed=DOUBLE))
    draft = await project.generate()
    assert draft is not None
    # What it locks is PostgreSQL's doing, and a reviewer's to weigh.
    assert await find_rules(project) == ["changing-column-type"]
    draft.path.write_text(re.sub(r"    manager\.alter_hypertable\(.*?\n    \)\n", "", draft.text, flags=re.DOTALL))
    assert await find_rules(project) == ["changing-column-type", "column-in-use"]


async def test_the_tables_are_taken_as_they_are_at_that_place_and_not_as_they_are_now(project: Project) -> None:
    change = "ALTER TABLE packed ALTER COLUMN other TYPE numeric"
    early = await write(project, raw(change))
    project.declare(
        TABLES.format(packed=REAL).replace(', compression=Compression(timedelta(days=7), ("machine_id",))', "")
    )
    await project.generate()
    await write(project, raw(change))
    found = [finding.file for finding in await lint(project) if finding.rule == "column-in-use"]
    assert found == [early.name]


async def test_what_raw_steps_made_of_a_table_counts_for_later_ones(project: Project) -> None:
    await write(
        project, raw("ALTER TABLE readings SET (timescaledb.compress, timescaledb.compress_segmentby = 'machine_id')")
    )
    late = await write(project, raw("ALTER TABLE readings DROP COLUMN machine_id"))
    await write(project, raw("ALTER TABLE readings SET (timescaledb.compress = false)"))
    await write(project, raw("ALTER TABLE readings DROP COLUMN machine_id"))
    await write(project, raw(f"{CONTINUOUS} WITH NO DATA", "ALTER TABLE readings RENAME COLUMN value TO level"))
    last = await write(project, raw("ALTER TABLE readings ALTER COLUMN level TYPE numeric"))
    found = [finding for finding in await lint(project) if finding.rule == "column-in-use"]
    assert [finding.file for finding in found] == [late.name, last.name]
    assert found[1].message.startswith("readings.level can't change under the aggregate daily. ")


async def test_a_table_keeps_its_state_under_a_new_name(project: Project) -> None:
    await write(project, raw("ALTER TABLE packed RENAME TO dense"))
    await write(project, raw("ALTER TABLE dense ALTER COLUMN other TYPE numeric"))
    assert "column-in-use" in await find_rules(project)


async def test_rows_that_move_under_a_lock_are_told_unless_the_table_is_new(project: Project) -> None:
    plain = 'class More(Declared, CompositeKey, Table, tablename="more"{}):\n    at = KeyTimestamptz(primary_key=True, default=None)\n    more_pkey = PrimaryKey([at])\n'
    declared = plain.format(', hypertable=Hypertable("at", timedelta(days=1))')
    project.declare(TABLES.format(packed=REAL) + declared)
    together = await project.generate()
    assert together is not None
    assert await lint(project) == []
    together.path.unlink()

    project.declare(TABLES.format(packed=REAL) + plain.format(""))
    await project.generate()
    for source in (declared, declared.replace("days=1)", "days=1), default_indexes=True"), plain.format("")):
        project.declare(TABLES.format(packed=REAL) + source)
        draft = await project.generate()
        assert draft is not None
        moved = [finding for finding in await lint(project) if finding.file == draft.path.name]
        assert [finding.rule for finding in moved] == ["moves-rows"]
        assert moved[0].message.startswith(
            "every row of more moves while an ACCESS EXCLUSIVE lock keeps all others out"
        )


async def test_a_retention_shorter_than_the_window_of_an_aggregate(project: Project) -> None:
    rules = ["by-hand", "loses-rows"]
    fine = await write(project, raw(guarded("PERFORM add_retention_policy('summed', INTERVAL '30 days')")))
    assert await find_rules(project) == rules
    fine.unlink()
    await write(project, raw(guarded("PERFORM add_retention_policy('summed', drop_after => INTERVAL '4 weeks')")))
    found = await lint(project)
    assert sorted({finding.rule for finding in found}) == [*rules, "retention-window"]
    (finding,) = [finding for finding in found if finding.rule == "retention-window"]
    assert finding.message == (
        "rows of summed are dropped after 28 days, 0:00:00, and the aggregate summed_hourly refreshes further back: a "
        "reading that comes late has a bucket counted again without the rows that are gone. Keep rows longer, or let "
        "start_offset be shorter than the retention."
    )


async def test_a_window_that_grows_over_the_retention_is_found_in_a_transition_too(project: Project) -> None:
    project.declare(TABLES.format(packed=REAL).replace(", aggregates=", ", retention=timedelta(days=40), aggregates="))
    kept = await project.generate()
    assert kept is not None
    kept.path.write_text(
        kept.text.replace("retention=datetime.timedelta(days=40)", "retention=datetime.timedelta(days=29)")
    )
    assert await find_rules(project) == ["loses-rows", "retention-window"]


async def test_a_retention_that_grows_loses_nothing_and_a_shorter_one_does(project: Project) -> None:
    source = TABLES.format(packed=REAL)
    for days, loses in ((90, True), (120, False), (60, True)):
        declared = f'tablename="readings", hypertable=Hypertable("timestamp", timedelta(days=1), retention=timedelta(days={days}))'
        project.declare(
            source.replace('tablename="readings", hypertable=Hypertable("timestamp", timedelta(days=1))', declared)
        )
        draft = await project.generate()
        assert draft is not None
        found = [finding.rule for finding in await lint(project) if finding.file == draft.path.name]
        assert found == (["loses-rows"] if loses else [])


async def test_an_aggregate_that_no_longer_shows_its_history(project: Project) -> None:
    source = TABLES.format(packed=REAL)
    start = source.index(", aggregates=")
    changes = {
        ('"avg(value)"', '"avg(value * 2)"'): "mean of the aggregate summed_hourly goes or says something else. ",
        ("hours=1), (", "hours=2), ("): "the aggregate summed_hourly gets other buckets or groups. ",
        (source[start : source.index("))):", start) + 1], ""): "the aggregate summed_hourly goes. ",
    }
    where = (
        "Of rows of summed that are dropped by then it isn't shown any more what they came to: that stays in the table "
        "summed_hourly__archive, or summed_hourly__archive_2 and so on where there is one, and going back shows it again. "
        "If it may stay there, allow it and say why."
    )
    for (old, new), what in changes.items():
        project.declare(source.replace(old, new))
        draft = await project.generate()
        assert draft is not None
        found = [(each.rule, each.message) for each in await lint(project) if each.file == draft.path.name]
        assert found == [("hides-history", what + where)]
        draft.path.unlink()
        project.forget_files()


async def test_an_aggregate_that_is_made_anew_and_shows_the_same(project: Project) -> None:
    source = TABLES.format(packed=REAL)
    head, tail = source.split("class Summed")
    more = '(("mean", "avg(value)"), ("peak", "max(value)"))'
    changes = (
        (head + "class Summed" + tail.replace(REAL, DOUBLE), False),  # taken off before and put back after
        (source.replace('(("mean", "avg(value)"),)', more), False),
        (head + "class Summed" + tail.replace("value = ", "level = ").replace("(value)", "(level)"), True),
    )
    for changed, renames in changes:
        project.declare(changed)
        draft = await project.generate(renames=renames)
        assert draft is not None
        assert "hides-history" not in {each.rule for each in await lint(project) if each.file == draft.path.name}
        draft.path.unlink()
        project.forget_files()


async def test_what_has_no_way_back(project: Project) -> None:
    path = await write(
        project, raw("UPDATE machines SET size = 1").replace("    manager.add_raw_backwards(undo)\n", "")
    )
    assert await find_rules(project) == ["no-backwards"]
    path.unlink()
    path = await write(project, later("COMMENT ON TABLE machines IS 'presses'", back=""))
    assert await find_rules(project) == ["no-backwards"]
    path.unlink()
    await write(project, later("ANALYZE machines", back="ANALYZE machines") + raw("UPDATE machines SET size = 1"))
    assert await lint(project) == []


async def test_a_column_that_cannot_come_back_into_a_table_with_rows(project: Project) -> None:
    for column, rules in (("Text(default='')", ["loses-rows"]), ("Text(default=None)", ["loses-rows", "no-backwards"])):
        base = TABLES.format(packed=REAL)
        with_note = base.replace("    size = ", f"    note = {column}\n    size = ")
        project.declare(with_note)
        added = await project.generate()
        project.declare(base)
        dropped = await project.generate()
        assert added is not None
        assert dropped is not None
        found = [finding for finding in await lint(project) if finding.file == dropped.path.name]
        assert sorted({finding.rule for finding in found}) == rules
        if "no-backwards" in rules:
            assert found[-1].message.startswith("going back, machines.note comes back as NOT NULL without a default")


async def test_going_back_is_looked_at_as_well(project: Project) -> None:
    await write(project, raw("ANALYZE packed", back="ALTER TABLE packed ALTER COLUMN other TYPE real"))
    (finding,) = await lint(project)
    assert finding.rule == "column-in-use"
    assert finding.message.startswith(
        "going back, TimescaleDB refuses another type for packed.other while compression is on."
    )


async def test_housekeeping_has_no_way_back_and_needs_none(project: Project) -> None:
    await write(project, later("VACUUM (ANALYZE) machines", "analyze readings", back=""))
    assert await lint(project) == []


async def test_a_declared_index_is_no_problem_but_where_writers_wait_for_it(project: Project) -> None:
    declared = TABLES.format(packed=REAL)
    for index, rules in (
        ('Index("slow", ("value DESC",))', []),
        ('Index("slow", ("value DESC", "timestamp"), unique=True)', ["index-on-hypertable"]),
        ('Index("fast", ("value",))', []),
    ):
        project.declare(declared.replace('tablename="readings",', f'tablename="readings", indexes=({index},),'))
        draft = await project.generate()
        assert draft is not None
        found = [finding for finding in await lint(project) if finding.file == draft.path.name]
        assert [finding.rule for finding in found] == rules
        last = draft
    last.path.write_text(last.text.replace("unique=True", "unique=False"))
    assert "stale-transition" in await find_rules(project)
    last.path.write_text(last.text)
    await write(project, later("DROP INDEX CONCURRENTLY IF EXISTS fast"))
    assert "concurrently" in await find_rules(project)


async def test_a_data_migration_is_read_as_well(project: Project) -> None:
    draft = await draft_data(project.app, "fewer rows")
    move = "    manager.move_rows('machines', ('machine_id',), {!r}, '')\n"
    draft.path.write_text(draft.text.replace(LAST, move.format("DELETE FROM machines WHERE {batch}") + LAST))
    (finding,) = await lint(project)
    assert (finding.rule, finding.statement) == ("loses-rows", "DELETE FROM machines WHERE true")
    draft.path.write_text(draft.text.replace(LAST, move.format("UPDATE machines SET size = 1 WHERE {batch}") + LAST))
    assert await lint(project) == []


async def test_an_index_after_the_transaction_that_bears_to_be_cut_off(project: Project) -> None:
    drop = "DROP INDEX CONCURRENTLY IF EXISTS m"
    create = "CREATE INDEX CONCURRENTLY IF NOT EXISTS m ON machines (size)"
    await write(project, later(drop, create, back=drop))
    assert await lint(project) == []


async def test_a_raw_step_that_needs_a_table_of_its_own_migration(project: Project) -> None:
    source = TABLES.format(packed=REAL)
    project.declare(
        source + 'class Note(Declared, Table, tablename="notes"):\n    note = Text(primary_key=True, default=None)\n'
    )
    draft = await project.generate()
    assert draft is not None
    for table, found in (("notes", ["too-early"]), ("machines", [])):
        index = f"CREATE INDEX n ON {table} USING gin (x)"
        draft.path.write_text(draft.text.replace(LAST, raw(index) + LAST))
        rules = [rule for rule in await find_rules(project) if rule != "require-concurrent-index-creation"]
        assert rules == found


async def test_a_transition_that_was_written_on_another_branch(project: Project) -> None:
    interval = '"readings", hypertable=Hypertable("timestamp", timedelta(days={})'
    for days in (2, 3):
        project.declare(TABLES.format(packed=REAL).replace(interval.format(1), interval.format(days)))
        draft = await project.generate()
        assert draft is not None
        assert await lint(project) == []
        last = draft
    last.path.write_text(last.text.replace("timedelta(days=2)", "timedelta(days=1)"))
    (finding,) = await lint(project)
    assert (finding.file, finding.rule) == (last.path.name, "stale-transition")
    assert finding.message.startswith("readings is not what the transition takes for old")


async def test_a_raw_step_that_goes_by_what_it_reads_cannot_be_followed_and_the_rest_is(project: Project) -> None:
    reading = (
        "    from app.timescale.manager import find_engine\n\n    async def do():\n"
        "        rows = await find_engine().run_ddl('SELECT size FROM machines')\n        rows[0]['size']\n\n"
        "    manager.add_raw(do)\n    manager.add_raw_backwards(do)\n"
    )
    await write(project, reading + later("REINDEX TABLE CONCURRENTLY readings"))
    found = await lint(project)
    assert [finding.rule for finding in found] == ["reads-database", "concurrently"]
    assert "reads the database (IndexError without an answer)" in found[0].message


async def test_a_migration_of_piccolo_s_own_kind(project: Project) -> None:
    path = await write(project, "")
    path.write_text(
        path.read_text().replace(
            "from app.timescale.manager import TimescaleMigrationManager",
            "from piccolo.apps.migrations.auto.migration_manager import MigrationManager as TimescaleMigrationManager",
        )
    )
    assert await find_rules(project) == ["no-journal"]


async def test_a_finding_is_allowed_with_a_reason(project: Project) -> None:
    body = raw("DELETE FROM readings WHERE value < 0")
    path = await write(project, f"    # migrate-lint: allow loses-rows because a sensor sent nonsense\n{body}")
    assert await lint(project) == []
    for comment, rules, said in (
        (
            "# migrate-lint: allow loses-rows",
            ["allow", "loses-rows"],
            "must read: # migrate-lint: allow RULE because REASON",
        ),
        (
            "# migrate-lint: allow loses-rows because",
            ["allow", "loses-rows"],
            "must read: # migrate-lint: allow RULE because",
        ),
        (
            "# migrate-lint: allow loses-row because of it",
            ["allow", "loses-rows"],
            "allows loses-row, which nothing in this file",
        ),
        ('x = "# migrate-lint: allow loses-rows because this is a string"', ["loses-rows"], ""),
    ):
        path.write_text(re.sub(r"# migrate-lint.*", comment, path.read_text(), count=1))
        found = await lint(project)
        assert sorted(finding.rule for finding in found) == rules
        assert said in " ".join(finding.message for finding in found)
        path.write_text(re.sub(r"(x = \")?# migrate-lint.*", "# migrate-lint", path.read_text(), count=1))


async def test_an_allowance_that_nothing_needs_is_one_too_many(project: Project) -> None:
    path = await write(project, "    # migrate-lint: allow moves-rows because there are ten of them")
    (finding,) = await lint(project)
    line = path.read_text().splitlines().index("    # migrate-lint: allow moves-rows because there are ten of them") + 1
    assert finding.message == f"line {line} allows moves-rows, which nothing in this file breaks: take it out."


# --- squawk -------------------------------------------------------------------------------------------------------


async def test_squawk_says_what_is_plain_postgresql_with_the_way_that_is_right_here(project: Project) -> None:
    source = TABLES.format(packed=REAL)
    project.declare(
        source.replace(
            "size = BigInt(default=0)", "size = BigInt(default=0, index=True)\n    name = Text(default=None)"
        )
    )
    draft = await project.generate()
    assert draft is not None
    found = {finding.rule: finding for finding in await lint(project)}
    assert set(found) == {"adding-required-field", "require-concurrent-index-creation"}
    assert found["require-concurrent-index-creation"].message == (
        "During normal index creation, table updates are blocked, but reads are still allowed. "
        "Declare the index on the table, indexes=(Index(...),) in app/tables.py: it is built after the transaction while "
        "others go on writing, on a hypertable chunk by chunk, and again where it was cut off."
    )
    assert (
        found["adding-required-field"].statement
        == 'ALTER TABLE "machines" ADD COLUMN "name" TEXT NOT NULL DEFAULT null'
    )


async def test_what_squawk_advises_against_timescaledb_is_not_said_of_a_hypertable(project: Project) -> None:
    await write(
        project,
        raw(
            "ALTER TABLE packed ADD CONSTRAINT known CHECK (value >= 0)",
            "CREATE INDEX r ON readings (value)",
            "DROP INDEX r",
        ),
    )
    assert await find_rules(project) == ["index-on-hypertable"]


async def test_a_statement_of_many_lines_is_found_again(project: Project) -> None:
    update = "UPDATE machines\nSET size = 1\nWHERE size\n= 0"
    drop = "ALTER TABLE machines\n\n  ALTER COLUMN size\n  SET NOT NULL"
    await write(project, raw(update, drop, update))
    (finding,) = await lint(project)
    assert (finding.rule, finding.statement) == ("adding-not-nullable-field", drop)


async def test_without_squawk_it_says_what_to_do(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(MigrationRefused, match=r"^squawk isn't installed beside this Python: run uv sync"):
        await lint(project)


# --- our own ------------------------------------------------------------------------------------------------------


def test_the_migrations_that_are_shipped_are_clean() -> None:
    done = run_command("invoke", "migrate-lint", database_url="")
    assert (done.returncode, done.stdout) == (0, "Nothing is wrong with the migrations.\n"), done.stderr
    assert run_command("invoke", "migrate-lint", "--json", database_url="").stdout == "[]\n"


def test_every_rule_is_in_the_guide() -> None:
    guide = (ROOT / "docs" / "migrations.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z-]+)` \|", guide, re.MULTILINE) == sorted(RULES)
