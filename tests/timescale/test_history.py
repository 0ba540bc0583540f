"""What hypertables and aggregates keep when their table changes: rows, history, indexes, names; there and back."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import pytest

from app.errors import MigrationFailed
from app.migrations.preview import preview_migrations
from tests.timescale.project import (
    COMPRESSION,
    DOUBLE,
    MEAN,
    PEAK,
    REAL,
    ROWS,
    Project,
    check,
    daily,
    declare,
    is_community,
    step,
    sum_up,
)

HOURS = "SELECT count(*), sum(readings)::int8, sum(readings * mean)::float8 FROM {}"
ALL_HOURS = [(167, 1000, 499500.0)]
BY_TWO = MEAN.replace("timedelta(hours=1), (", "timedelta(hours=2), (")
ALL_TWO_HOURS = [(84, 1000, 499500.0)]


async def prepare(project: Project, more: str, column: str = REAL) -> str:
    """A hypertable with a thousand readings of a week, compressed where that is declared; the migration's id."""
    made = await step(project, declare(daily(more), column))
    await project.fetch("INSERT INTO machines VALUES ('A')")
    await project.fetch(ROWS)
    await compress(project)
    return made


async def compress(project: Project) -> None:
    if await is_community(project) and await project.fetch(
        "SELECT FROM timescaledb_information.hypertables WHERE hypertable_name = 'readings' AND compression_enabled"
    ):
        await project.fetch("SELECT compress_chunk(chunk, true) FROM show_chunks('readings') AS chunk")


async def drop_old(project: Project) -> None:
    """What the policies do: the aggregate is brought up to date, and old rows go."""
    await project.fetch("CALL refresh_continuous_aggregate('readings_hourly', NULL, NULL)")
    await project.fetch("SELECT drop_chunks('readings', '2026-01-04'::timestamptz)")


async def list_archives(project: Project) -> list[str]:
    return [
        row[0]
        for row in await project.fetch(
            "SELECT relname::text FROM pg_class WHERE relname LIKE 'readings%archive%' ORDER BY 1"
        )
    ]


async def test_an_aggregate_of_other_buckets_and_back_again_keeps_all_that_was_said(project: Project) -> None:
    await prepare(project, MEAN)
    if not await is_community(project):
        pytest.skip("this edition has no aggregates")
    await drop_old(project)
    await step(project, declare(daily(BY_TWO)))
    assert await project.fetch(HOURS.format("readings_hourly__archive")) == ALL_HOURS
    left = await project.fetch(HOURS.format("readings_hourly"))
    assert left[0][1] < 1000
    by_day = MEAN.replace("timedelta(hours=1), (", "timedelta(days=1), (")
    await step(project, declare(daily(by_day)))
    assert await list_archives(project) == ["readings_hourly__archive", "readings_hourly__archive_2"]
    await project.backwards("1")
    assert await project.fetch(HOURS.format("readings_hourly")) == left
    await project.backwards("1")
    assert await project.fetch(HOURS.format("readings_hourly")) == ALL_HOURS
    assert await list_archives(project) == ["readings_hourly__archive_2", "readings_hourly__archive_3"]


async def test_a_column_that_says_something_else_under_its_name_does_not_get_the_old_values(project: Project) -> None:
    await prepare(project, MEAN)
    if not await is_community(project):
        pytest.skip("this edition has no aggregates")
    await drop_old(project)
    await step(project, declare(daily(MEAN.replace("avg(value)", "max(value)"))))
    said = "SELECT count(*), count(mean), min(mean) FROM readings_hourly WHERE bucket < '2026-01-04'"
    assert await project.fetch(said) == [(72, 0, None)]
    assert await project.fetch("SELECT sum(readings)::int8, max(mean) FROM readings_hourly") == [(1000, 999)]


async def test_history_of_a_column_that_says_something_else_is_there_again_on_the_way_back(project: Project) -> None:
    await prepare(project, MEAN)
    if not await is_community(project):
        pytest.skip("this edition has no aggregates")
    await drop_old(project)
    known = "SELECT count(*), count(mean), sum(mean)::float8 FROM readings_hourly WHERE bucket < '2026-01-04'"
    first = (72, 72, 15516.0)
    assert await project.fetch(known) == [first]
    await step(project, declare(daily(MEAN.replace("avg(value)", "avg(value * 2)"))))
    assert await project.fetch(known) == [(72, 0, None)]
    assert await project.fetch(HOURS.format("readings_hourly__archive")) == ALL_HOURS
    await project.fetch("INSERT INTO readings VALUES ('A', '2026-01-07 22:40', 1000)")
    await project.fetch("CALL refresh_continuous_aggregate('readings_hourly', '2026-01-05', NULL)")
    await project.backwards("1")
    assert await project.fetch(known) == [first]
    assert await project.fetch(HOURS.format("readings_hourly")) == [(167, 1001, 500500.0)]
    doubled = "SELECT count(*), count(mean), sum(mean)::float8 FROM readings_hourly WHERE bucket >= '2026-01-05'"
    assert await list_archives(project) == ["readings_hourly__archive_2"]
    await project.forwards()
    assert await project.fetch(known) == [(72, 0, None)]
    assert await project.fetch(doubled) == [(71, 71, 111966.0)]
    await project.backwards("1")
    assert await project.fetch(known) == [first]


async def test_history_of_a_column_that_goes_is_there_again_when_it_comes_back(project: Project) -> None:
    await prepare(project, MEAN)
    if not await is_community(project):
        pytest.skip("this edition has no aggregates")
    await step(project, declare(daily(PEAK)))
    await drop_old(project)
    known = "SELECT count(*), count(peak), sum(peak)::float8, sum(readings * mean)::float8 FROM readings_hourly"
    assert await project.fetch(known) == [(167, 167, 83999.0, 499500.0)]
    await project.backwards("1")
    assert await project.fetch(HOURS.format("readings_hourly")) == ALL_HOURS
    assert await project.fetch("SELECT count(peak) FROM readings_hourly__archive") == [(167,)]
    await project.fetch("SELECT drop_chunks('readings', '2026-01-05'::timestamptz)")
    await project.forwards()
    assert await project.fetch(known) == [(167, 167, 83999.0, 499500.0)]
    assert await list_archives(project) == []


async def test_history_goes_into_columns_of_another_type(project: Project) -> None:
    peak = MEAN.replace("avg(value)", "max(value)")
    await prepare(project, peak)
    if not await is_community(project):
        pytest.skip("this edition has no aggregates")
    await drop_old(project)
    text = "Text(default=None)\n    other = Real(default=0)"
    changed = declare(daily(peak), text).replace('Check("value >= 0")', "Check(\"value <> ''\")")
    await step(project, changed.replace("readings_value_known", "readings_value_said"))
    oldest = "SELECT mean FROM readings_hourly ORDER BY bucket LIMIT 2"
    assert await project.fetch(oldest) == [("5",), ("11",)]
    await project.backwards("1")
    assert await project.fetch(oldest) == [(5.0,), (11.0,)]


async def test_a_reading_that_came_after_those_around_it_were_dropped_empties_nothing(project: Project) -> None:
    """A refresh from there on would take what the rows in between said, which are gone."""
    await prepare(project, MEAN)
    if not await is_community(project):
        pytest.skip("this edition has no aggregates")
    await drop_old(project)
    await project.fetch("INSERT INTO readings VALUES ('A', '2026-01-02 05:00', 7), ('A', '2025-12-30 05:30', 9)")
    wider = MEAN.replace('("mean", "avg(value)")', '("mean", "avg(value)"), ("peak", "max(value)")')
    await step(project, declare(daily(wider)))
    late = ("2025-12-30 05:00:00+00", 1, 9.0, 9)
    first = "SELECT bucket::text, readings, mean, peak::int FROM readings_hourly ORDER BY bucket LIMIT 1"
    assert await project.fetch(first) == [late]
    assert await project.fetch(HOURS.format("readings_hourly") + " WHERE bucket >= '2026-01-01'") == ALL_HOURS
    known = "SELECT count(*), count(peak) FROM readings_hourly WHERE bucket >= '2026-01-01'"
    left = await project.fetch(
        "SELECT count(DISTINCT date_trunc('hour', timestamp)) FROM readings WHERE timestamp >= '2026-01-04'"
    )
    assert await project.fetch(known) == [(167, left[0][0])]
    assert await check(project) == (0, [])
    await project.backwards("1")
    assert await project.fetch(HOURS.format("readings_hourly") + " WHERE bucket >= '2026-01-01'") == ALL_HOURS


async def test_the_first_bucket_is_filled_although_it_is_not_whole(project: Project) -> None:
    await prepare(project, "")
    await project.fetch("DELETE FROM readings WHERE value = 0")
    await step(project, declare(daily(MEAN)))
    if await is_community(project):
        first = "SELECT bucket::text, readings, mean FROM readings_hourly ORDER BY bucket LIMIT 2"
        assert await project.fetch(first) == [("2026-01-01 00:00:00+00", 5, 3.0), ("2026-01-01 01:00:00+00", 6, 8.5)]
        assert await project.fetch(HOURS.format("readings_hourly")) == [(167, 999, 499500.0)]


async def test_columns_get_other_names_and_nothing_is_made_anew(project: Project) -> None:
    await prepare(project, COMPRESSION + MEAN)
    whole = await sum_up(project)
    community = await is_community(project)
    if community:
        await drop_old(project)
        whole = await sum_up(project)
    chunks = (
        "SELECT chunk_name::text, is_compressed FROM timescaledb_information.chunks WHERE hypertable_name = 'readings'"
    )
    known = await project.fetch(chunks + " ORDER BY 1") if community else []
    assert len(known) == (4 if community else 0)
    hypertable = daily(COMPRESSION + MEAN)
    source = declare(hypertable)
    for old, new in (("value", "level"), ("machine_id", "engine"), ("timestamp", "measured_at")):
        machine, reading = source.split("\n\n")
        source = f"{machine}\n\n{reading.replace(old, new)}"
        for name in ("readings_pkey", "readings_value_known", "readings_level_known"):
            source = source.replace(name, f"{name}_{new}")
        project.declare(source)
        assert await project.generate(renames=True) is not None
        assert await project.generate(renames=True) is None
        await project.forwards()
        assert await check(project) == (0, [])
    rows = "SELECT count(*), sum(level)::float8, min(measured_at), max(measured_at) FROM readings WHERE engine = 'A'"
    assert await project.fetch(rows) == [whole]
    if community:
        assert await project.fetch(chunks + " ORDER BY 1") == known
        assert await project.fetch(HOURS.format("readings_hourly") + " WHERE engine = 'A'") == ALL_HOURS
        assert await list_archives(project) == []
    for _ in range(3):
        await project.backwards("1")
    assert await sum_up(project) == whole
    if community:
        assert await project.fetch(HOURS.format("readings_hourly") + " WHERE machine_id = 'A'") == ALL_HOURS


async def test_the_index_on_time_is_there_as_long_as_it_is_declared(project: Project) -> None:
    bare = declare(daily()).replace(", default=None, index=True)", ", default=None)")
    indexes = "SELECT indexname::text FROM pg_indexes WHERE tablename = 'readings' ORDER BY 1"
    await step(project, declare(daily()))
    for source in (bare.replace("days=1)", "days=1), default_indexes=True"), declare(daily())):
        await step(project, source)
        assert await check(project) == (0, [])
    has_hypertables = await project.fetch("SELECT FROM pg_extension WHERE extname = 'timescaledb'") != []
    await project.backwards("1")
    own = [("readings_timestamp_idx",)] if has_hypertables else []
    assert await project.fetch(indexes) == [("readings_pkey",), *own]
    await step(project, bare.replace(daily(), "None"))
    assert await project.fetch(indexes) == [("readings_pkey",)]


async def test_chunks_of_another_span_are_compressed_in_its_rhythm(project: Project) -> None:
    """TimescaleDB takes it from the span of a chunk, once: a table that is made anew would have another."""
    await prepare(project, COMPRESSION)
    every = "SELECT schedule_interval::text FROM timescaledb_information.jobs WHERE proc_name = 'policy_compression'"
    community = await is_community(project)
    assert not community or await project.fetch(every) == [("12:00:00",)]
    await step(project, declare(daily(COMPRESSION)).replace("timedelta(days=1)", "timedelta(hours=7)"))
    assert not community or await project.fetch(every) == [("03:30:00",)]
    await project.backwards("1")
    assert not community or await project.fetch(every) == [("12:00:00",)]


async def test_a_column_comes_to_compressed_chunks_as_to_others(project: Project) -> None:
    """TimescaleDB refuses some, and leaves NULL in a column that is NOT NULL."""
    await prepare(project, COMPRESSION)
    whole = await sum_up(project)
    source = declare(daily(COMPRESSION))
    more = {
        "at": "Timestamptz()",
        "place": "BigSerial()",
        "plant": "ForeignKey(Machine)",
        "level": "Integer(default=7)",
    }
    for name, column in more.items():
        source = source.replace("    readings_pkey", f"    {name} = {column}\n    readings_pkey")
        await step(project, source)
        assert await check(project) == (0, [])
        await compress(project)
    filled = "SELECT count(at), count(DISTINCT place), count(plant), sum(level) FROM readings"
    assert await project.fetch(filled) == [(1000, 1000, 0, 7000)]
    project.declare(source.replace("    readings_pkey", "    must = Integer(default=None)\n    readings_pkey"))
    await project.generate()
    with pytest.raises(MigrationFailed, match=r'column "must" of relation .* contains null values'):
        await project.forwards()
    assert await sum_up(project) == whole


async def test_columns_may_be_called_like_words_of_sql(project: Project) -> None:
    source = """
class Machine(Declared, Table, tablename="machines"):
    machine_id = Text(primary_key=True, default=None)

class Reading(Declared, CompositeKey, Table, tablename="readings", hypertable={hypertable}, indexes=({index},)):
    group = Text(default=None)
    user = KeyTimestamptz(primary_key=True, default=None)
    order = Real(default=None)
    readings_pkey = PrimaryKey([group, user])
"""
    index = 'Index("readings_newest", ("group", "user DESC"), where=\'"order" > 0\')'
    first = 'Hypertable("user", timedelta(days=1), compression=Compression(timedelta(days=7)))'
    await step(project, source.format(hypertable=first, index=index))
    await project.fetch("""INSERT INTO readings SELECT 'A', '2026-01-01'::timestamptz + n * interval '1 hour', n
        FROM generate_series(0, 99) AS n""")
    await compress(project)
    second = (
        'Hypertable("user", timedelta(days=1), aggregates=(ContinuousAggregate("daily", timedelta(days=1), ("group",), '
        """(("most", 'max("order")'),), Refresh(timedelta(days=1), timedelta(days=30), timedelta(hours=1))),), """
        'compression=Compression(timedelta(days=7), ("group",), ("user DESC", "order ASC NULLS FIRST")))'
    )
    await step(project, source.format(hypertable=second, index=index))
    assert await check(project) == (0, [])
    await compress(project)
    if await is_community(project):
        assert await project.fetch("SELECT sum(most)::float8 FROM daily WHERE \"group\" = 'A'") == [(335.0,)]
        packed = (
            "SELECT count(*) FROM timescaledb_information.chunks WHERE is_compressed AND hypertable_name = 'readings'"
        )
        assert await project.fetch(packed) == [(5,)]
    indexes = "SELECT indexdef FROM pg_indexes WHERE tablename = 'readings' AND indexname = 'readings_newest'"
    assert await project.fetch(indexes) == [
        (
            'CREATE INDEX readings_newest ON public.readings USING btree ("group", "user" DESC) WHERE ("order" > (0)::double precision)',
        )
    ]
    await project.backwards("1")
    assert await project.fetch('SELECT count(*), sum("order")::float8 FROM readings') == [(100, 4950.0)]


async def test_values_that_a_new_type_would_change_stay_in_compressed_chunks(project: Project) -> None:
    await prepare(project, COMPRESSION)
    await project.fetch("UPDATE readings SET value = value + 0.5 WHERE value < 3")
    await compress(project)
    whole = await sum_up(project)
    project.declare(declare(daily(COMPRESSION), "Integer(default=None)"))
    await project.generate()
    shown = await preview_migrations(project.engine, project.app, None)
    (refusing,) = [each for each in shown.migrations[0].steps if "would be other ones" in each.statement]
    assert [(each.table, each.lock) for each in refusing.locks] == [
        ("readings", "ACCESS EXCLUSIVE (reads and writes wait)")
    ]
    assert refusing.notes == ["reads every row"]
    said = "As INTEGER, 3 of the values of readings.value would be other ones, 0.5 for one. If that may be, change them first, with an UPDATE in a"
    with pytest.raises(MigrationFailed, match=re.escape(said)):
        await project.forwards()
    assert await sum_up(project) == whole
    packed = "SELECT count(*) FROM timescaledb_information.chunks WHERE is_compressed"
    assert not await is_community(project) or await project.fetch(packed) == [(7,)]
    await project.fetch("UPDATE readings SET value = round(value::numeric)")
    await project.forwards()
    assert await check(project) == (0, [])
    assert (await sum_up(project))[1] == whole[1] + 1.5


async def test_a_hypertable_that_becomes_plain_keeps_its_sequence_trigger_and_comment(project: Project) -> None:
    serial = declare("None").replace("    value =", "    number = BigSerial()\n    value =")
    await step(project, serial)
    await project.fetch("INSERT INTO machines VALUES ('A')")
    await project.fetch(ROWS.replace("INTO readings", "INTO readings (machine_id, timestamp, value)"))
    await step(project, serial.replace("None,", "None,").replace("hypertable=None", f"hypertable={daily()}"))
    await project.fetch("CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
    await project.fetch("CREATE TRIGGER telling BEFORE INSERT ON readings FOR EACH ROW EXECUTE FUNCTION tell()")
    await project.fetch("COMMENT ON TABLE readings IS 'what was measured'")
    await project.backwards("1")
    await project.fetch("INSERT INTO readings (machine_id, timestamp, value) VALUES ('A', '2027-01-01', 1)")
    kept: list[tuple[Any, ...]] = await project.fetch(
        "SELECT count(DISTINCT number), max(number), obj_description('readings'::regclass), pg_get_serial_sequence('readings', 'number'), "
        "(SELECT array_agg(tgname::text) FROM pg_trigger WHERE tgrelid = 'readings'::regclass AND NOT tgisinternal) FROM readings"
    )
    assert kept == [(1001, 1001, "what was measured", "public.readings_number_seq", ["telling"])]
    await project.fetch("DROP TABLE readings CASCADE")
    assert await project.fetch("SELECT to_regclass('readings_number_seq')::text") == [(None,)]


# All that PostgreSQL keeps of a table and its parts, but for numbers that come with its making.
SAID_OF_READINGS = """
SELECT 'table', pg_get_userbyid(relowner), concat_ws(' ', relrowsecurity, relforcerowsecurity, relreplident, relpersistence,
  (SELECT array_agg(each::text ORDER BY each::text) FROM unnest(relacl) AS each),
  (SELECT array_agg(each ORDER BY each) FROM unnest(reloptions) AS each), obj_description(oid)) FROM pg_class WHERE oid = 'readings'::regclass
UNION ALL
SELECT 'column', attname, concat_ws(' ', format_type(atttypid, atttypmod), attnotnull, attgenerated, attidentity, attstorage,
  attcompression, attstattarget, attacl, attoptions, pg_get_expr(adbin, adrelid), col_description(attrelid, attnum))
FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attrelid = 'readings'::regclass AND attnum > 0 AND NOT attisdropped
UNION ALL
SELECT 'index', indexrelid::regclass::text, concat_ws(' ', pg_get_indexdef(indexrelid), indisreplident, indisclustered,
  obj_description(indexrelid)) FROM pg_index WHERE indrelid = 'readings'::regclass
UNION ALL
SELECT 'constraint', conname, concat_ws(' ', pg_get_constraintdef(oid), convalidated, obj_description(oid))
FROM pg_constraint WHERE conrelid = 'readings'::regclass
UNION ALL
SELECT 'trigger', tgname, concat_ws(' ', pg_get_triggerdef(oid), tgenabled, obj_description(oid))
FROM pg_trigger WHERE tgrelid = 'readings'::regclass AND NOT tgisinternal
UNION ALL
SELECT 'policy', policyname, concat_ws(' ', permissive, roles, cmd, qual, with_check) FROM pg_policies WHERE tablename = 'readings'
UNION ALL
SELECT 'statistics', stxname, pg_get_statisticsobjdef(oid) FROM pg_statistic_ext WHERE stxrelid = 'readings'::regclass
UNION ALL
SELECT 'sequence', pg_get_serial_sequence('readings', 'number'), ''
ORDER BY 1, 2
"""
SAYINGS = """
ALTER TABLE readings ADD COLUMN twice float8 GENERATED ALWAYS AS (value * 2) STORED;
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER silent BEFORE INSERT ON readings FOR EACH ROW EXECUTE FUNCTION tell();
CREATE TRIGGER telling BEFORE UPDATE ON readings FOR EACH ROW EXECUTE FUNCTION tell();
ALTER TABLE readings DISABLE TRIGGER silent;
ALTER TABLE readings ENABLE ALWAYS TRIGGER telling;
CREATE POLICY own ON readings AS RESTRICTIVE FOR SELECT TO {reader} USING (machine_id = 'B');
CREATE POLICY all_of_it ON readings TO PUBLIC USING (true) WITH CHECK (value > 0);
ALTER TABLE readings ENABLE ROW LEVEL SECURITY;
ALTER TABLE readings FORCE ROW LEVEL SECURITY;
GRANT SELECT ON readings TO {reader} WITH GRANT OPTION;
GRANT INSERT, DELETE ON readings TO PUBLIC;
GRANT UPDATE (value, "number") ON readings TO {reader};
ALTER TABLE readings ALTER COLUMN value SET STATISTICS 500;
ALTER TABLE readings ALTER COLUMN value SET (n_distinct = -0.5);
ALTER TABLE readings ALTER COLUMN machine_id SET STORAGE EXTERNAL;
ALTER TABLE readings ALTER COLUMN machine_id SET COMPRESSION pglz;
ALTER TABLE readings SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE STATISTICS both_ends ON machine_id, value FROM readings;
COMMENT ON TABLE readings IS 'what was measured';
COMMENT ON COLUMN readings.value IS 'in bar, isn''t it';
COMMENT ON INDEX readings_timestamp IS 'for the newest';
COMMENT ON CONSTRAINT readings_value_known ON readings IS 'a pressure';
COMMENT ON TRIGGER silent ON readings IS 'quiet';
ALTER TABLE readings REPLICA IDENTITY FULL;
ALTER TABLE readings OWNER TO {owner}
"""


async def test_a_hypertable_that_becomes_plain_is_the_table_that_it_was(project: Project) -> None:
    if not await project.fetch("SELECT FROM pg_extension WHERE extname = 'timescaledb'"):
        pytest.skip("this edition has no hypertables")
    serial = declare("None").replace("    value =", "    number = BigSerial()\n    value =")
    await step(project, serial)
    await project.fetch("INSERT INTO machines VALUES ('A')")
    await project.fetch(ROWS.replace("INTO readings", "INTO readings (machine_id, timestamp, value)"))
    roles = {"owner": f"owner_{uuid4().hex[:8]}", "reader": f"reader_{uuid4().hex[:8]}"}
    for role in roles.values():
        await project.fetch(f"CREATE ROLE {role}")
    try:
        await project.fetch(f"GRANT CREATE ON SCHEMA public TO {roles['owner']}")
        for statement in SAYINGS.format(**roles).split(";\n"):
            await project.fetch(statement)
        whole, said = await sum_up(project), await project.fetch(SAID_OF_READINGS)
        project.declare(serial.replace("hypertable=None", f"hypertable={daily()}"))
        await project.generate()
        await project.forwards()
        await project.backwards("1")
        assert await project.fetch(SAID_OF_READINGS) == said
        assert await sum_up(project) == whole
        assert await project.fetch("SELECT sum(twice) FROM readings") == [(999000.0,)]
    finally:
        await project.fetch("DROP TABLE readings")
        for role in roles.values():
            await project.fetch(f"DROP OWNED BY {role}")
            await project.fetch(f"DROP ROLE {role}")


async def test_a_hypertable_that_something_depends_on_is_left_as_it_is(project: Project) -> None:
    made = await step(project, declare("None"))
    await step(project, declare(daily()))
    if not await project.fetch("SELECT FROM pg_extension WHERE extname = 'timescaledb'"):
        pytest.skip("this edition has no hypertables")
    await project.fetch("CREATE VIEW newest AS SELECT max(timestamp) FROM readings")
    said = (
        "The hypertable readings can't become a plain table as it is: view newest depends on it. "
        "Take that away before, and give it to the plain table after."
    )
    with pytest.raises(MigrationFailed, match=re.escape(said)):
        await project.backwards("1")
    await project.fetch("DROP VIEW newest")
    await project.backwards(made)


async def test_a_table_with_aggregates_gets_another_name_and_another_type_at_once(project: Project) -> None:
    await prepare(project, COMPRESSION + MEAN)
    whole = await sum_up(project)
    renamed = declare(daily(COMPRESSION + MEAN), DOUBLE).replace('tablename="readings"', 'tablename="measurements"')
    await step(project, renamed)
    assert await check(project) == (0, [])
    assert await project.fetch("SELECT count(*), sum(value)::float8 FROM measurements") == [whole[:2]]
    if await is_community(project):
        assert await project.fetch(HOURS.format("readings_hourly")) == ALL_HOURS
    await project.backwards("1")
    assert await sum_up(project) == whole
    if await is_community(project):
        assert await project.fetch(HOURS.format("readings_hourly")) == ALL_HOURS
