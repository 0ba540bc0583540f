"""The SQL that makes a schema anew, on every edition: what a catalogue of it holds, then its hypertables. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from app.errors import MigrationRefused
from app.timescale.definitions import Catalogue
from app.timescale.hypertable import Hypertable
from app.timescale.statements import ENABLE_TIMESCALE
from app.timescale.transitions import plan_transition

_HEAD = """\
-- The schema that the migrations make, on every edition: psql -1 -v ON_ERROR_STOP=1 -f schema.sql
-- Written by invoke schema-snapshot, to be read and compared: a database that is to live is made by invoke migrate, which
-- keeps a record of what it did."""

_TABLES = {"a table": "TABLE", "an unlogged table": "UNLOGGED TABLE"}
_REFERENCED = re.compile(r'REFERENCES ("(?:[^"]|"")+"|[^(]+)\(')


def write_script(catalogue: Catalogue, hypertables: Mapping[str, Hypertable], *, timescale: bool) -> str:
    """The script, the same for the same schema; with `timescale` it begins with the extension.

    `catalogue` is the schema's without hypertables. Raises MigrationRefused for a table that it can't write.
    """
    statements = [
        *([f"-- TimescaleDB, where the server has it\n{ENABLE_TIMESCALE}"] if timescale else []),
        *_write_objects(catalogue),
    ]
    for table, hypertable in sorted(hypertables.items()):
        steps = plan_transition(table, None, hypertable)
        # What can't run in a transaction fills aggregates, and there are no rows.
        statements += [
            f"-- {table}, left out without {step.needs.value}\n{step.sql}" for step in steps if step.transactional
        ]
    return "\n\n".join([_HEAD, *(f"{statement};" for statement in statements)]) + "\n"


def order_tables(catalogue: Catalogue) -> list[str]:
    """The tables by name, but each after those that its foreign keys name; a circle is cut at its first."""
    waiting = {name: _list_referenced(catalogue, name) for kind, name in catalogue if kind == "table"}
    ordered: list[str] = []
    while waiting:
        free = [name for name, referenced in waiting.items() if referenced.isdisjoint(waiting.keys() - {name})]
        ordered.append((free or list(waiting))[0])
        del waiting[ordered[-1]]
    return ordered


def list_of_table(catalogue: Catalogue, table: str, kind: str) -> dict[str, str]:
    """What a table has of one kind, by name without the table's, each with its definition."""
    return {
        name.removeprefix(f"{table}."): definition
        for (each, name), definition in catalogue.items()
        if each == kind and name.startswith(f"{table}.")
    }


def _list_referenced(catalogue: Catalogue, table: str) -> set[str]:
    constraints = list_of_table(catalogue, table, "constraint").values()
    return {match[1] for definition in constraints if (match := _REFERENCED.search(definition))}


def _write_objects(catalogue: Catalogue) -> Iterator[str]:
    """What is named in a definition comes before it; a function, whose body may name anything, unchecked."""
    of_kind: dict[str, dict[str, str]] = {}
    for (kind, name), definition in catalogue.items():
        of_kind.setdefault(kind, {})[name] = definition
    yield from (f"CREATE TYPE {name} AS {each}" for name, each in of_kind.get("type", {}).items())
    yield from (f"CREATE DOMAIN {name} AS {each}" for name, each in of_kind.get("domain", {}).items())
    owned: list[str] = []
    for name, definition in of_kind.get("sequence", {}).items():
        bare, options = name.rpartition(".")[2], definition.split(" OWNED BY ")
        yield f"CREATE SEQUENCE {bare} {options[0]}"
        owned += [f"ALTER SEQUENCE {bare} OWNED BY {column}" for column in options[1:]]
    if functions := of_kind.get("function", {}):
        yield "SET check_function_bodies = off"
        yield from functions.values()
    for name, definition in of_kind.get("aggregate function", {}).items():
        yield f"CREATE AGGREGATE {name} ({definition})"
    yield from _write_tables(catalogue)
    yield from owned
    for name, definition in of_kind.get("row level security", {}).items():
        yield f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"
        if definition == "forced":
            yield f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY"
    for (kind, name), definition in catalogue.items():
        if kind in {"view", "materialized view"}:
            yield f"CREATE {kind.upper()} {name} AS\n{definition}"
    yield from of_kind.get("index", {}).values()
    yield from of_kind.get("trigger", {}).values()
    yield from of_kind.get("rule", {}).values()
    for name, definition in of_kind.get("replica identity", {}).items():
        yield f"ALTER TABLE {name} REPLICA IDENTITY {definition}"


def _write_tables(catalogue: Catalogue) -> Iterator[str]:
    tables = order_tables(catalogue)
    later: list[str] = []
    for place, table in enumerate(tables):
        definition = catalogue["table", table]
        if definition not in _TABLES:
            raise MigrationRefused(f"schema-snapshot can't write {table}, which is {definition}.")
        lines = [f"{name} {each}" for name, each in list_of_table(catalogue, table, "column").items()]
        constraints = list_of_table(catalogue, table, "constraint").items()
        for name, each in sorted(constraints, key=lambda item: (not item[1].startswith("PRIMARY"), item)):
            referenced = _REFERENCED.search(each)
            if (referenced and referenced[1] not in tables[: place + 1]) or each.endswith("NOT VALID"):
                later.append(f"ALTER TABLE {table} ADD CONSTRAINT {name} {each}")
            else:
                lines.append(f"CONSTRAINT {name} {each}")
        yield f"CREATE {_TABLES[definition]} {table} ({_indent(lines)})"
    yield from later


def _indent(lines: Sequence[str]) -> str:
    return "\n  " + ",\n  ".join(lines) + "\n" if lines else ""
