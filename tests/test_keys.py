"""Keys of machine and time, and hypertables, as they are declared on the tables."""

from __future__ import annotations

import inspect
from datetime import timedelta

import pytest
from piccolo.columns import Text
from piccolo.columns.column_types import PrimaryKey as PiccoloPrimaryKey
from piccolo.table import Table

from app.piccolo_app import APP_CONFIG
from app.tables import Alert, EsgRecord, Feature, Machine, Outbox, Prediction, RawMeasurement, Rollup
from app.timescale.declared import find_hypertables
from app.timescale.hypertable import Hypertable
from app.timescale.keys import CompositeKey, KeyTimestamptz, PrimaryKey
from app.timescale.statements import ENABLE_TIMESCALE
from app.timescale.steps import format_interval
from app.timescale.transitions import plan_transition

KEYED: list[type[Table]] = [RawMeasurement, Feature, Prediction, EsgRecord, Rollup]


def find_key(table: type[Table]) -> list[str]:
    """The columns of a table's primary key."""
    composite = [each for each in table._meta.constraints if isinstance(each, PrimaryKey)]
    if not composite:
        return [table._meta.primary_key._meta.db_column_name]
    assert len(composite) == 1
    names: list[str] = composite[0].get_column_names()  # type: ignore[no-untyped-call]  # Piccolo's has no annotations
    return names


@pytest.mark.parametrize("method", ["save", "remove", "update_self", "refresh"])
@pytest.mark.parametrize("table", KEYED)
def test_what_would_touch_other_machines_rows_is_refused_with_what_to_do(table: type[Table], method: str) -> None:
    name = table.__name__
    with pytest.raises(TypeError) as caught:
        getattr(table(_ignore_missing=True), method)()
    assert str(caught.value) == (
        f"{name}.{method}() would address rows by their time alone and touch other machines' rows: "
        f"use {name}.insert(), or update() and delete() with where() over the whole key."
    )


def test_it_is_refused_whatever_is_given() -> None:
    row = RawMeasurement(_ignore_missing=True)
    with pytest.raises(TypeError, match=r"\ARawMeasurement\.save\(\)"):
        row.save([RawMeasurement.metrics])
    with pytest.raises(TypeError, match=r"\ARawMeasurement\.update_self\(\)"):
        row.update_self({"metrics": "{}"})
    with pytest.raises(TypeError, match=r"\ARawMeasurement\.refresh\(\)"):
        row.refresh(columns=[RawMeasurement.metrics], load_json=True)


def test_every_table_with_a_composite_key_is_protected_and_no_other() -> None:
    protected = {table for table in APP_CONFIG.table_classes if issubclass(table, CompositeKey)}
    assert protected == {table for table in APP_CONFIG.table_classes if len(find_key(table)) > 1} == set(KEYED)


def test_nothing_that_addresses_one_row_is_forgotten() -> None:
    """Piccolo's public methods of a row; one that is new here must be judged."""
    methods = {
        name
        for name, member in inspect.getmembers(Table, inspect.isfunction)
        if not name.startswith("_") and next(iter(inspect.signature(member).parameters), "") == "self"
    }
    harmless = {"get_related", "get_m2m", "add_m2m", "remove_m2m", "to_dict"}
    assert methods - harmless == {"save", "remove", "update_self", "refresh"}


@pytest.mark.parametrize(
    ("table", "key"),
    [
        (Machine, ["machine_id"]),
        (RawMeasurement, ["machine_id", "timestamp"]),
        (Feature, ["machine_id", "timestamp"]),
        (Prediction, ["machine_id", "timestamp", "model_version"]),
        (EsgRecord, ["machine_id", "timestamp"]),
        (Alert, ["id"]),
        (Outbox, ["id"]),
    ],
)
def test_each_table_has_the_key_it_was_given(table: type[Table], key: list[str]) -> None:
    assert find_key(table) == key


def test_a_composite_key_is_said_once_for_all_its_columns() -> None:
    ddl = {each._meta.name: each.ddl for each in Prediction._meta.constraints if isinstance(each, PrimaryKey)}
    assert ddl == {"predictions_pkey": 'PRIMARY KEY ("machine_id", "timestamp", "model_version")'}
    assert [each.ddl for each in RawMeasurement._meta.constraints if isinstance(each, PrimaryKey)] == [
        'PRIMARY KEY ("machine_id", "timestamp")'
    ]


@pytest.mark.parametrize("table", KEYED)
def test_the_time_column_says_nothing_of_the_key(table: type[Table]) -> None:
    column = table._meta.primary_key
    assert isinstance(column, KeyTimestamptz)
    name = column._meta.name
    assert name == ("bucket" if table is Rollup else "timestamp")
    assert column.ddl == f'"{name}" TIMESTAMPTZ NOT NULL DEFAULT null'


def test_an_ordinary_key_says_that_it_is_one() -> None:
    assert Machine.machine_id.ddl == '"machine_id" TEXT PRIMARY KEY NOT NULL DEFAULT null'


def test_every_declared_hypertable_has_its_time_in_its_key_and_in_a_timestamptz() -> None:
    declared = find_hypertables(APP_CONFIG.table_classes)
    assert declared == {
        "raw_measurements": Hypertable("timestamp", timedelta(days=1)),
        "features": Hypertable("timestamp", timedelta(days=7)),
        "predictions": Hypertable("timestamp", timedelta(days=7)),
        "esg_records": Hypertable("timestamp", timedelta(days=7)),
    }
    tables = {table._meta.tablename: table for table in APP_CONFIG.table_classes}
    for name, hypertable in declared.items():
        assert hypertable.time_column in find_key(tables[name]), name
        column = tables[name]._meta.get_column_by_name(hypertable.time_column)
        assert column.column_type == "TIMESTAMPTZ", name


def test_no_table_has_the_key_that_piccolo_would_give_it() -> None:
    assert not any(isinstance(table._meta.primary_key, PiccoloPrimaryKey) for table in APP_CONFIG.table_classes)


def test_only_a_declaration_makes_a_hypertable() -> None:
    class Plain(Table):
        name = Text()

    class Odd(Table):
        hypertable = "timestamp"

    assert find_hypertables([Plain, Odd]) == {}


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(microseconds=1), "INTERVAL '1 microseconds'"),
        (timedelta(minutes=1), "INTERVAL '60000000 microseconds'"),
        (timedelta(days=7, microseconds=1), "INTERVAL '604800000001 microseconds'"),
        (timedelta(days=36_500), "INTERVAL '3153600000000000 microseconds'"),
        (-timedelta(seconds=1), "INTERVAL '-1000000 microseconds'"),
    ],
)
def test_an_interval_is_exact(span: timedelta, text: str) -> None:
    assert format_interval(span) == text


def test_the_statement_of_a_hypertable_keeps_rows_and_can_run_again() -> None:
    (step,) = plan_transition("raw_measurements", None, Hypertable("timestamp", timedelta(days=1)))
    assert step.sql == (
        "DO $aurum$\n"
        "BEGIN\n"
        "  IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN\n"
        "    PERFORM create_hypertable(\n"
        "      '\"raw_measurements\"'::regclass,\n"
        "      by_range('timestamp', INTERVAL '86400000000 microseconds'),\n"
        "      create_default_indexes => false, if_not_exists => true, migrate_data => true\n"
        "    );\n"
        "  END IF;\n"
        "END\n"
        "$aurum$"
    )


def test_no_statement_ends_its_own_block_early() -> None:
    (step,) = plan_transition("t", None, Hypertable("timestamp", timedelta(days=1)))
    for statement in (ENABLE_TIMESCALE, step.sql):
        assert statement.startswith("DO $aurum$\n")
        assert statement.endswith("\n$aurum$")
        assert statement.count("$aurum$") == 2
