"""Changes of tables that Piccolo takes for less than they are: carried out, taken back without a trace, or refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.errors import MigrationFailed, MigrationRefused
from app.timescale.definitions import Catalogue
from app.timescale.drift import find_differences
from tests.conftest import make_database
from tests.timescale.catalogue import look
from tests.timescale.project import Project, check

PARTS = """
from piccolo.columns.indexes import IndexMethod

class Plant(Declared, Table, tablename="plants"):
    plant_id = Text(primary_key=True, default=None)

class Machine(Declared, Table, tablename="machines"):
    machine_id = Text(primary_key=True, default=None)

class Part(Declared, Table, tablename="parts"):
    part_id = Integer(primary_key=True, default=None)
"""


@pytest.fixture
async def project(server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Project]:
    """On the server of the tests, without TimescaleDB: none of it is about hypertables."""
    async with make_database(server_url) as url:
        yield Project(tmp_path, url, monkeypatch)


async def change(project: Project, source: str, *, renames: bool | None = None) -> Catalogue:
    """Declares, generates, applies; the second time there is nothing to generate, and nothing differs."""
    project.declare(source)
    assert await project.generate(renames=renames) is not None
    assert await project.generate(renames=renames) is None
    await project.forwards()
    assert await check(project) == (0, [])
    return await look(project.url)


async def require_way_back(project: Project, *states: Catalogue) -> None:
    """Takes migrations back, through these states to nothing; then all of them are applied again."""
    newest = await look(project.url)
    for state in (*reversed(states), {}):
        await project.backwards("1")
        assert [str(each) for each in find_differences(state, await look(project.url))] == []
    await project.forwards()
    assert await look(project.url) == newest


async def test_columns_become_what_they_are_declared_and_again_what_they_were(project: Project) -> None:
    before = await change(
        project,
        PARTS
        + "    name = Varchar(length=100, default=None)\n"
        + "    code = Varchar(length=10, default=None)\n"
        + "    weight = Numeric(digits=(5, 2), default=None)\n"
        + "    plant = Text(default=None, null=True)\n"
        + "    machine = ForeignKey(Machine)\n"
        + "    number = Integer(default=5, index=True, index_method=IndexMethod.hash)\n"
        + "    serial = Integer(default=None, null=True, unique=True)\n"
        + "    gone = Integer(default=7, index=True)\n",
    )
    await project.fetch("INSERT INTO plants VALUES ('P')")
    await project.fetch("INSERT INTO machines VALUES ('P')")
    await project.fetch("INSERT INTO parts VALUES (1, 'a', '12', 1.25, 'P', 'P', 3, 4)")
    after = await change(
        project,
        PARTS
        + "    name = Text(default=None)\n"
        + "    code = Varchar(length=None, default='x')\n"
        + "    weight = DoublePrecision(default=None)\n"
        + "    plant = ForeignKey(Plant)\n"
        + "    machine = ForeignKey(Plant, on_delete=OnDelete.restrict)\n"
        + "    number = Text(default='5', index=True)\n"
        + "    serial = Integer(default=None, null=True)\n"
        + "    come = Integer(default=8, index=True, index_method=IndexMethod.hash)\n",
        renames=False,
    )
    parts = {name.removeprefix("parts."): said for (_, name), said in before.items() if name.startswith("parts.")}
    assert parts == {
        "part_id": "integer NOT NULL",
        "parts_pkey": "PRIMARY KEY (part_id)",
        "name": "character varying(100) NOT NULL DEFAULT NULL::character varying",
        "code": "character varying(10) NOT NULL DEFAULT NULL::character varying",
        "weight": "numeric(5,2) NOT NULL DEFAULT NULL::numeric",
        "plant": "text",
        "machine": "text",
        "parts_machine_fkey": "FOREIGN KEY (machine) REFERENCES machines(machine_id) ON UPDATE CASCADE ON DELETE CASCADE",
        "number": "integer NOT NULL DEFAULT 5",
        "parts_number": "CREATE INDEX parts_number ON parts USING hash (number)",
        "serial": "integer",
        "parts_serial_key": "UNIQUE (serial)",
        "gone": "integer NOT NULL DEFAULT 7",
        "parts_gone": "CREATE INDEX parts_gone ON parts USING btree (gone)",
    }
    parts = {name.removeprefix("parts."): said for (_, name), said in after.items() if name.startswith("parts.")}
    assert parts == {
        "part_id": "integer NOT NULL",
        "parts_pkey": "PRIMARY KEY (part_id)",
        "name": "text NOT NULL",
        "code": "character varying NOT NULL DEFAULT 'x'::character varying",
        "weight": "double precision NOT NULL",
        "plant": "text",
        "parts_plant_fkey": "FOREIGN KEY (plant) REFERENCES plants(plant_id) ON UPDATE CASCADE ON DELETE CASCADE",
        "machine": "text",
        "parts_machine_fkey": "FOREIGN KEY (machine) REFERENCES plants(plant_id) ON UPDATE CASCADE ON DELETE RESTRICT",
        "number": "text NOT NULL DEFAULT '5'::text",
        "parts_number": "CREATE INDEX parts_number ON parts USING btree (number)",
        "serial": "integer",
        "come": "integer NOT NULL DEFAULT 8",
        "parts_come": "CREATE INDEX parts_come ON parts USING hash (come)",
    }
    assert await project.fetch("SELECT * FROM parts") == [(1, "a", "12", 1.25, "P", "P", "3", 4, 8)]
    await project.backwards("1")
    assert await look(project.url) == before
    rows = await project.fetch(
        "SELECT part_id, name, code, weight::text, plant, machine, number, serial, gone FROM parts"
    )
    assert rows == [(1, "a", "12", "1.25", "P", "P", 3, 4, 7)]
    await project.forwards()
    await require_way_back(project, before)


async def test_what_does_not_fit_is_refused_rather_than_cut_off(project: Project) -> None:
    await change(project, PARTS + "    number = Integer(default=None)\n")
    await project.fetch("INSERT INTO parts VALUES (1, 12345)")
    project.declare(PARTS + "    number = Varchar(length=2, default=None)\n")
    await project.generate()
    with pytest.raises(MigrationFailed, match=r"value too long for type character varying\(2\)"):
        await project.forwards()
    assert await project.fetch("SELECT number FROM parts") == [(12345,)]


@pytest.mark.parametrize(
    ("old", "new", "values", "said"),
    [
        (
            "DoublePrecision",
            "Integer",
            (1, 0.5, 2),
            "As INTEGER, 1 of the values of parts.it would be other ones, 0.5 ",
        ),
        ("Numeric", "DoublePrecision", ("1.5", "0.12345678901234567890"), "As DOUBLE PRECISION, 1 of"),
        ("Numeric", "Numeric(digits=(12, 3)", ("1.5", "0.0625", "1.23456"), "As NUMERIC(12, 3), 2 of"),
        ("DoublePrecision", "Real", (0.5, 0.1), "As REAL, 1 of the values of parts.it would be other ones, 0.1 for"),
        ("DoublePrecision", "Numeric(digits=(12, 3)", (0.5, 0.0625), "As NUMERIC(12, 3), 1 of"),
        ("BigInt", "DoublePrecision", (1, 2**53 + 1), "As DOUBLE PRECISION, 1 of the values of parts.it would be"),
        ("Integer", "Boolean", (0, 1, 5), "As BOOLEAN, 1 of the values of parts.it would be other ones, 5 for one."),
        ("Timestamptz", "Date", ("2026-01-01", "2026-01-02 10:00+00"), "As DATE, 1 of"),
        ("Interval", "Time", ("01:00", "26:00"), "As TIME, 1 of the values of parts.it would be other ones, 26:00:00 "),
        (
            "Text",
            "Numeric(digits=(12, 3)",
            ("1.50", "0.0625"),
            "As NUMERIC(12, 3), 1 of the values of parts.it would be",
        ),
        ("Text", "Real", ("1.50", "0.1", "16777217"), "As REAL, 1 of the values of parts.it would be other ones, 1677"),
        ("Text", "Date", ("2026-01-01", "2026-01-02 10:00"), "As DATE, 1 of"),
    ],
)
async def test_a_value_that_the_new_type_would_change_is_refused(
    project: Project, old: str, new: str, values: tuple[Any, ...], said: str
) -> None:
    declared = [f"    it = {kind}{'(' if '(' not in kind else ', '}default=None, null=True)\n" for kind in (old, new)]
    before = await change(project, PARTS + declared[0])
    for number, value in enumerate(values):
        await project.fetch(f"INSERT INTO parts VALUES ({number}, '{value}')")
    await project.fetch("INSERT INTO parts VALUES (99, NULL)")
    held = await project.fetch("SELECT it::text FROM parts ORDER BY part_id")
    project.declare(PARTS + declared[1])
    await project.generate()
    with pytest.raises(MigrationFailed) as refused:
        await project.forwards()
    assert said in str(refused.value)
    assert "for one. If that may be, change them first, with an UPDATE in a migration of invoke migration-data." in str(
        refused.value
    )
    assert await look(project.url) == before
    assert await project.fetch("SELECT it::text FROM parts ORDER BY part_id") == held
    await project.fetch("DELETE FROM parts WHERE part_id > 0 AND part_id < 99")
    await project.forwards()
    assert await check(project) == (0, [])


async def test_a_key_takes_the_place_of_another(project: Project) -> None:
    lines = """
class Line(Declared, CompositeKey, Table, tablename="lines"):
    machine_id = Text(default=None)
    timestamp = KeyTimestamptz(primary_key=True, default=None)
    place = Integer(default=None)
    {key} = PrimaryKey([{columns}])
    {unique} = Unique([machine_id, place])
"""
    first = await change(project, lines.format(key="lines_pkey", columns="machine_id, timestamp", unique="one_place"))
    second = await change(project, lines.format(key="lines_key", columns="timestamp, machine_id", unique="its_place"))
    assert first["constraint", "lines.lines_pkey"] == 'PRIMARY KEY (machine_id, "timestamp")'
    assert second["constraint", "lines.lines_key"] == 'PRIMARY KEY ("timestamp", machine_id)'
    assert {("constraint", "lines.lines_pkey"), ("constraint", "lines.one_place")} & second.keys() == set()
    await require_way_back(project, first)


async def test_a_new_name_is_that_of_keys_indexes_and_sequences_too(project: Project) -> None:
    """PostgreSQL leaves their names, and what is dropped later is looked for under the names of its table and column."""
    notes = """
class Machine(Declared, Table, tablename="machines"):
    machine_id = Text(primary_key=True, default=None)

class Note(Declared, Table, tablename="{table}"):
    note_id = BigSerial(primary_key=True)
    machine = ForeignKey(Machine)
    {text} = Text(default=None, unique={unique}, index={unique})
"""
    states = [await change(project, notes.format(table="notes", text="text", unique=True))]
    await project.fetch("INSERT INTO machines VALUES ('A')")
    await project.fetch("INSERT INTO notes (machine, text) VALUES ('A', 'x')")
    states.append(await change(project, notes.format(table="remarks", text="text", unique=True)))
    states.append(await change(project, notes.format(table="remarks", text="said", unique=True), renames=True))
    assert {(kind, name): said for (kind, name), said in states[-1].items() if name.startswith("remarks.")} == {
        ("column", "remarks.note_id"): "bigint NOT NULL DEFAULT nextval('remarks_note_id_seq'::regclass)",
        ("column", "remarks.machine"): "text",
        ("column", "remarks.said"): "text NOT NULL",
        ("sequence", "remarks.remarks_note_id_seq"): "AS bigint OWNED BY remarks.note_id",
        ("constraint", "remarks.remarks_pkey"): "PRIMARY KEY (note_id)",
        ("constraint", "remarks.remarks_said_key"): "UNIQUE (said)",
        ("constraint", "remarks.remarks_machine_fkey"): (
            "FOREIGN KEY (machine) REFERENCES machines(machine_id) ON UPDATE CASCADE ON DELETE CASCADE"
        ),
        ("index", "remarks.remarks_said"): "CREATE INDEX remarks_said ON remarks USING btree (said)",
    }
    await change(project, notes.format(table="remarks", text="said", unique=False))
    await project.fetch("INSERT INTO remarks (machine, said) VALUES ('A', 'y')")
    assert await project.fetch("SELECT note_id, said FROM remarks ORDER BY 1") == [(1, "x"), (2, "y")]
    await require_way_back(project, *states)


async def test_a_table_with_a_new_name_can_change_in_the_same_migration(project: Project) -> None:
    columns = "    plant = ForeignKey(Plant)\n    number = Integer(default=5)\n"
    before = await change(project, PARTS + columns)
    await project.fetch("INSERT INTO parts VALUES (1, NULL, 3)")
    other = "    number = Text(default=None, index=True)\n    more = Integer(default=6, index=True)\n    more_known = Check('more > 0')\n"
    await change(project, PARTS.replace('"parts"', '"pieces"') + other, renames=False)
    assert await project.fetch("SELECT * FROM pieces") == [(1, "3", 6)]
    await project.backwards("1")
    assert await project.fetch("SELECT part_id, plant, number FROM parts") == [(1, None, 3)]
    await project.forwards()
    await require_way_back(project, before)


async def test_tables_go_and_come_in_the_order_in_which_they_refer_to_each_other(project: Project) -> None:
    def declare(name: str, *columns: str) -> str:
        lines = [
            f"\nclass {name.title()}(Declared, Table, tablename={name!r}):",
            "    name = Text(primary_key=True, default=None)",
        ]
        return "\n    ".join(["\n".join(lines), *columns]) + "\n"

    hall, line = declare("hall"), declare("line", "hall = ForeignKey(Hall)")
    bench = declare("bench", "line = ForeignKey(Line)", "hall = ForeignKey(Hall)")
    states = [await change(project, hall + line), await change(project, hall + line + bench)]
    assert {name for kind, name in states[-1] if kind == "table"} == {"hall", "line", "bench"}
    states.append(await change(project, declare("bench", "line = Text(default=None, null=True)")))
    assert {name for kind, name in states[-1] if kind == "table"} == {"bench"}
    await require_way_back(project, *states[:-1])


async def test_a_class_alone_may_get_another_name(project: Project) -> None:
    before = await change(project, PARTS)
    renamed = PARTS.replace("class Part(", "class Piece(")
    project.declare(renamed)
    with pytest.raises(MigrationRefused, match=r"^Part is gone and Piece is new: say with --renames whether a table"):
        await project.generate()
    with pytest.raises(MigrationRefused, match=r"^parts is the table of a class that is gone and of one that is new"):
        await project.generate(renames=False)
    assert await change(project, renamed, renames=True) == before
    await require_way_back(project, before)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            "    one = Integer()\n    two = Integer()\n",
            "    three = Integer()\n    four = Integer()\n",
            "In parts, one, two are gone and four, three are new: which is which can't be told. "
            "Give one new name in a migration, the next in another.",
        ),
        (
            "    one = Integer()\n",
            "    two = Text()\n",
            "Not all of it fits into one migration: after it, parts.two would still differ. "
            "Take back one of the changes, a new name best, and make it in a migration of its own.",
        ),
        (
            "    one = Integer()\n",
            "    one = BigSerial()\n",
            "parts.one becomes a BigSerial, and a BigSerial comes with a sequence: no migration can be written for it. "
            "Make another column, or write it by hand.",
        ),
        (
            "",
            "    one = Integer(primary_key=True)\n",
            "parts.part_id becomes the primary key, or is no longer: no migration can be written for it. "
            "Make another table, and bring the rows there with invoke migration-data.",
        ),
    ],
)
async def test_what_cannot_be_told_or_done_is_refused(project: Project, before: str, after: str, said: str) -> None:
    await change(project, PARTS + before)
    source = PARTS + after
    project.declare(
        source.replace(
            "primary_key=True, default=None)\n    one = Integer(primary", "default=None)\n    one = Integer(primary"
        )
    )
    with pytest.raises(MigrationRefused) as refused:
        await project.generate(renames=True)
    assert str(refused.value) == said


async def test_a_table_that_gets_another_name_while_another_goes_is_refused(project: Project) -> None:
    await change(project, PARTS)
    project.declare(PARTS.split("class Part", maxsplit=1)[0].replace('"machines"', '"engines"'))
    with pytest.raises(MigrationRefused, match=r"^machines gets the name engines, and other tables come or go: make a"):
        await project.generate()
