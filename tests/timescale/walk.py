"""A project that is taken from one schema to the next, and back, with rows in it; and what must hold at every step."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from typing import Any

from hypothesis import note

from app.timescale.definitions import Catalogue
from app.timescale.drift import find_differences
from tests.timescale.catalogue import build, look
from tests.timescale.project import Project, check
from tests.timescale.schemas import NUMBERS, Aggregate, Column, Schema, TableState
from tests.timescale.sequences import Step

BEGIN = datetime.datetime(2026, 1, 1, 0, 10, tzinfo=datetime.UTC)  # within a bucket of every size
INTERVAL = datetime.timedelta(minutes=12)  # between two readings
READINGS = 24  # at every step
MIDDLE = BEGIN + datetime.timedelta(days=1, minutes=10)

NOW = "now"

Sign = tuple[str, str, str]  # of an aggregate: its name, its bucket, what it is grouped by
Row = dict[int, Any]  # values by the uid of their column
Said = dict[tuple[str, ...], dict[str, Any]]  # what an aggregate says, by bucket and group
Known = dict[tuple[str, str], dict[tuple[str, ...], Any]]  # what was ever said, by column and meaning, bucket and group

_SPANS = {
    f"{unit}={count}": datetime.timedelta(**{unit: count}) for unit, count in (("hours", 1), ("hours", 2), ("days", 1))
}
_INSTANT = datetime.timedelta(microseconds=1)


class Walk:
    """`community` says whether the server has all of TimescaleDB."""

    def __init__(self, project: Project, *, community: bool) -> None:
        self._project = project
        self._community = community
        self._passed: list[tuple[str, Schema, Catalogue]] = []
        self._rows: dict[str, dict[int, Row]] = {}  # by role and number
        self._inserted = 0
        self._dropped = False  # whether some readings were
        self._known: dict[Sign, Known] = {}

    async def walk(self, steps: list[Step]) -> None:
        """There, back to nothing, and there again."""
        for step in steps:
            await self._go(step)
        _, schema, end = self._passed[-1]
        while self._passed:
            await self._go_back()
        await self._project.forwards()
        await self._require(end)
        self._dropped = True  # all of them: what is left of them is history
        await self._compare_aggregates({}, Schema([]), schema)

    async def _go(self, step: Step) -> None:
        before = self._passed[-1][1] if self._passed else Schema([])
        await self._prepare(before, step)
        said = await self._read_aggregates(before)
        note(step.schema.render())
        self._project.declare(step.schema.render())
        draft = await self._project.generate(renames=step.renames)
        assert draft is not None
        note(draft.text)
        assert await self._project.generate(renames=step.renames) is None
        await self._project.forwards()
        assert await check(self._project) == (0, [])
        catalogue = await self._require(await build(self._project.url, self._project.app.table_classes))
        self._passed.append((draft.migration_id, step.schema, catalogue))
        await self._compare(said, before, step.schema)
        await self._insert(step.schema)

    async def _go_back(self) -> None:
        migration_id, schema, _ = self._passed.pop()
        _, before, catalogue = self._passed[-1] if self._passed else ("", Schema([]), {})
        await self._prepare(schema, Step(schema))
        said = await self._read_aggregates(schema)
        await self._project.backwards(migration_id)
        await self._require(catalogue)
        assert (await check(self._project))[1] == []
        await self._compare(said, schema, before)

    async def _compare(self, said: dict[Sign, Said], before: Schema, after: Schema) -> None:
        self._follow(before, after)
        await self._compare_rows(after)
        await self._compare_aggregates(said, before, after)

    async def _require(self, expected: Catalogue) -> Catalogue:
        catalogue = await look(self._project.url)
        assert [str(each) for each in find_differences(expected, catalogue)] == []
        return catalogue

    # --- the rows

    async def _insert(self, schema: Schema) -> None:
        for table in schema.tables:
            held = self._rows[table.role]
            if table.role in {"machines", "plants"} and held:
                continue
            numbers = range(self._inserted, self._inserted + (READINGS if table.role == "readings" else 2))
            rows = [_make_row(table, number) for number in numbers]
            places = ", ".join(f"${place}" for place in range(1, len(rows[0]) + 1))
            connection = await self._project.engine.get_new_connection()
            try:
                await connection.executemany(
                    f"INSERT INTO {table.tablename} ({', '.join(rows[0])}) VALUES ({places})",
                    [tuple(row.values()) for row in rows],
                )
            finally:
                await connection.close()
            held |= {number: {each.uid: _make_value(each, number) for each in table.columns} for number in numbers}
        self._inserted += READINGS

    def _follow(self, before: Schema, after: Schema) -> None:
        """What a migration does to the rows: a table that goes takes them along; a column that comes brings its default."""
        rows: dict[str, dict[int, Row]] = {}
        for table in after.tables:
            known = before.get(table.role)
            had = {column.uid for column in known.columns} if known else set()
            rows[table.role] = {
                number: {each.uid: row[each.uid] if each.uid in had else _make_default(each) for each in table.columns}
                for number, row in (self._rows[table.role] if known else {}).items()
            }
        self._rows = rows

    async def _compare_rows(self, schema: Schema) -> None:
        for table in schema.tables:
            shown = await self._project.fetch(
                f"SELECT {', '.join([_number(table), *(f'{each.name}::text' for each in table.columns)])} "
                f"FROM {table.tablename} ORDER BY 1"
            )
            expected = [
                [_show(row[each.uid]) for each in table.columns] for _, row in sorted(self._rows[table.role].items())
            ]
            assert (table.tablename, [[_show(value) for value in row[1:]] for row in shown]) == (
                table.tablename,
                expected,
            )
            if table.serial:
                numbered = f"SELECT count(*) = count(DISTINCT number) FROM {table.tablename}"
                assert await self._project.fetch(numbered) == [(True,)]

    # --- the history

    async def _prepare(self, schema: Schema, step: Step) -> None:
        """What happens to a hypertable between two migrations."""
        table = schema.get("readings")
        if not self._community or table is None or table.hyper is None:
            return
        for aggregate in table.aggregates:
            await self._refresh(table, aggregate)
        if step.compress and table.hyper.compression:
            await self._project.fetch(
                f"SELECT compress_chunk(chunk, true) FROM show_chunks('{table.tablename}') AS chunk"
            )
        if step.drop_old and table.aggregates:
            await self._project.fetch(f"SELECT drop_chunks('{table.tablename}', $1::timestamptz)", MIDDLE)
            left = {row[0] for row in await self._project.fetch(f"SELECT {_number(table)} FROM {table.tablename}")}
            self._dropped |= len(left) < len(self._rows["readings"])
            self._rows["readings"] = {number: row for number, row in self._rows["readings"].items() if number in left}

    async def _refresh(self, table: TableState, aggregate: Aggregate) -> None:
        """As its policy would, which reaches back no further than there are all rows."""
        span = f"{_SPANS[aggregate.bucket].total_seconds()} s"
        connection = await self._project.engine.get_new_connection()
        try:
            first = self._dropped and await connection.fetchval(
                f"SELECT time_bucket('{span}', min({table.time}) + '{span}'::interval - interval '1 us')::text "
                f"FROM {table.tablename}"
            )
            since = f"'{first}'" if first else "NULL"
            await connection.execute(f"CALL refresh_continuous_aggregate('{aggregate.name}', {since}, NULL)")
        finally:
            await connection.close()

    async def _read_aggregates(self, schema: Schema) -> dict[Sign, Said]:
        table = schema.get("readings") if self._community else None
        if table is None:
            return {}
        return {_sign(table, each): await self._read_aggregate(each.name) for each in table.aggregates}

    async def _read_aggregate(self, name: str) -> Said:
        connection = await self._project.engine.get_new_connection()
        try:
            records = [dict(record) for record in await connection.fetch(f"SELECT * FROM {name}")]
        finally:
            await connection.close()
        said = {}
        for record in records:
            values = {key: record.pop(key) for key in list(record) if key == "readings" or key[:1] == "c"}
            said[tuple(str(value) for value in record.values())] = values
        return said

    async def _compare_aggregates(self, said: dict[Sign, Said], before: Schema, after: Schema) -> None:
        """Readings that are there are counted; of the others is said whatever was said before and means the same."""
        self._remember(said, before)
        renamed = self._rename_known(before, after)
        shown = await self._read_aggregates(after)
        for sign, rows in shown.items():
            first, known = self._find_first_whole(sign), self._known.get(sign, {})
            current = {bucket: values["readings"] for bucket, values in rows.items() if _is_since(bucket, first)}
            assert current == self._count_readings(sign, first)
            history = {bucket for each in known.values() for bucket in each if not _is_since(bucket, first)}
            for bucket in history:
                for name, meaning in _read_meanings(after, sign).items():
                    value = known.get((name, meaning), {}).get(bucket)
                    assert _show(rows[bucket][name]) == _show(value), (sign, bucket, name)
        for sign, known in self._known.items():
            archives = await self._project.fetch(
                "SELECT relname::text FROM pg_class WHERE relname LIKE $1 AND relkind = 'r'", rf"{sign[0]}\_\_archive%"
            )
            held = [await self._read_aggregate(name) for (name,) in archives]
            if sign in said.keys() - shown.keys() - renamed:
                assert said[sign] in held
            is_shown = _read_meanings(after, sign).items() if sign in shown else {}
            for (name, _), values in ((key, each) for key, each in known.items() if key not in is_shown):
                for bucket, value in values.items():
                    kept = [_show(each[bucket].get(name)) for each in held if bucket in each]
                    assert value is None or _show(value) in kept, (sign, bucket, name)

    def _remember(self, said: dict[Sign, Said], schema: Schema) -> None:
        for sign, rows in said.items():
            known = self._known.setdefault(sign, {})
            for name, meaning in _read_meanings(schema, sign).items():
                known.setdefault((name, meaning), {}).update({bucket: values[name] for bucket, values in rows.items()})

    def _rename_known(self, before: Schema, after: Schema) -> set[Sign]:
        """What an aggregate says goes on under the new names of columns, and isn't archived; returns the old signs."""
        old, new = (schema.get("readings") if self._community else None for schema in (before, after))
        if old is None or new is None or [*_list_names(old)] == [*_list_names(new)]:
            return set()
        renamed = set()
        for was in old.aggregates:
            for now in (each for each in new.aggregates if each == was):
                renamed.add(_sign(old, was))
                meanings = _read_meanings(after, _sign(new, now))
                for name, meaning in _read_meanings(before, _sign(old, was)).items():
                    values = self._known[_sign(old, was)].pop((name, meaning))
                    known = self._known.setdefault(_sign(new, now), {})
                    known.setdefault((name, meanings[name]), {}).update(values)
        return renamed

    def _find_first_whole(self, sign: Sign) -> datetime.datetime | None:
        """The first bucket that has all its readings; None where there are none."""
        if not self._dropped:
            return datetime.datetime.min.replace(tzinfo=datetime.UTC)
        first = min(self._rows.get("readings", {}), default=None)
        return None if first is None else _cut(_get_time(first) + _SPANS[sign[1]] - _INSTANT, sign)

    def _count_readings(self, sign: Sign, first: datetime.datetime | None) -> dict[tuple[str, ...], int]:
        counted: dict[tuple[str, ...], int] = {}
        for number in self._rows.get("readings", {}):
            bucket = (str(_cut(_get_time(number), sign)), *("AB"[number % 2] if sign[2] else ""))
            if _is_since(bucket, first):
                counted[bucket] = counted.get(bucket, 0) + 1
        return counted


def _sign(table: TableState, aggregate: Aggregate) -> Sign:
    """Aggregates of one sign can have each other's rows."""
    return aggregate.name, aggregate.bucket, table.key if aggregate.grouped else ""


def _read_meanings(schema: Schema, sign: Sign) -> dict[str, str]:
    """What the columns of an aggregate say, under the names that its table's columns have."""
    table = schema.get("readings")
    assert table is not None
    names = {column.uid: column.name for column in table.columns}
    (aggregate,) = (each for each in table.aggregates if _sign(table, each) == sign)
    return {"readings": "", **{f"c{uid}": f"{aggregate.function} of {names[uid]}" for uid in aggregate.columns}}


def _list_names(table: TableState) -> Iterator[str]:
    yield table.key
    yield from (column.name for column in table.columns)


def _is_since(bucket: tuple[str, ...], first: datetime.datetime | None) -> bool:
    return first is not None and datetime.datetime.fromisoformat(bucket[0]) >= first


def _cut(time: datetime.datetime, sign: Sign) -> datetime.datetime:
    """The bucket of a time: all begin at midnight."""
    midnight = time.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + (time - midnight) // _SPANS[sign[1]] * _SPANS[sign[1]]


def _get_time(number: int) -> datetime.datetime:
    return BEGIN + INTERVAL * number


# --- rows and values ----------------------------------------------------------------------------------------------


def _make_row(table: TableState, number: int) -> dict[str, Any]:
    machine = "AB"[number % 2]
    keys: dict[str, dict[str, Any]] = {
        "machines": {"machine_id": machine},
        "plants": {"plant_id": machine},
        "notes": {"owner": machine},
        "readings": {table.key: machine, table.time: _get_time(number)},
    }
    return keys[table.role] | {column.name: _make_value(column, number) for column in table.columns}


def _number(table: TableState) -> str:
    """The number of a row in SQL. Notes are numbered as they come, and machines and plants come but once."""
    if table.role == "readings":
        return f"round(extract(epoch FROM {table.time} - '{BEGIN}') / {INTERVAL.total_seconds()})::int"
    return "id::int" if table.role == "notes" else f"ascii({'plant' if table.role == 'plants' else 'machine'}_id)"


def _make_value(column: Column, number: int) -> Any:
    others = {"Boolean": number % 2 == 0, "JSONB": json.dumps({"n": number}), "Timestamptz": _get_time(number)}
    return others.get(column.kind, number if column.kind in NUMBERS else str(number))


def _make_default(column: Column) -> Any:
    return {"Boolean": True, "JSONB": "{}", "Timestamptz": NOW}.get(column.kind, 5) if column.default else None


def _show(value: Any) -> Any:
    """A value, whatever type its column had or has."""
    if isinstance(value, datetime.datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}+00"
    if value is None or isinstance(value, bool):
        return None if value is None else str(value).lower()
    try:
        return float(value)
    except ValueError:
        # A default of some time since these tests were written.
        return NOW if re.match(r"20\d\d-.*\.", value) else value
