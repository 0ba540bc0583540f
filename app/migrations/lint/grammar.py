"""Reads what a statement does: as much of PostgreSQL's grammar, and of TimescaleDB's, as the rules ask for. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from app.migrations.lint.actions import (
    Action,
    AddColumn,
    AddConstraint,
    Call,
    ChangeType,
    CreateAggregate,
    CreateIndex,
    CreateTable,
    DeleteRows,
    DropColumn,
    DropIndex,
    DropTables,
    DropViews,
    Reindex,
    RenameColumn,
    RenameTable,
    Select,
    SetCompression,
    Vacuum,
    ValidateConstraint,
)
from app.timescale.tokens import Kind, Reader, Statement, Token, is_balanced, read_tokens, split_commas

# The functions of TimescaleDB that a migration may come to call.
TIMESCALE_FUNCTIONS = {
    "add_columnstore_policy",
    "add_compression_policy",
    "add_continuous_aggregate_policy",
    "add_dimension",
    "add_job",
    "add_reorder_policy",
    "add_retention_policy",
    "alter_job",
    "compress_chunk",
    "convert_to_columnstore",
    "convert_to_rowstore",
    "create_hypertable",
    "decompress_chunk",
    "delete_job",
    "drop_chunks",
    "enable_chunk_skipping",
    "refresh_continuous_aggregate",
    "remove_columnstore_policy",
    "remove_compression_policy",
    "remove_continuous_aggregate_policy",
    "remove_retention_policy",
    "set_chunk_time_interval",
}

_OPTION_PREFIXES = {"timescaledb", "tsdb"}
_AFTER_DEFAULT = {"not", "constraint", "check", "unique", "primary", "references", "collate", "generated", "null"}
_CONSTRAINTS = {"constraint", "check", "unique", "primary", "foreign", "exclude"}


def read_actions(statement: Statement) -> Iterator[Action]:
    """Everything that a statement does, in order; nothing for what no rule asks."""
    calls = list(_find_calls(statement.tokens))
    reader = Reader(statement.tokens)
    for words, read in _STATEMENTS:
        if reader.take(*words):
            yield from (action for action in read(reader) if not (calls and isinstance(action, Select)))
            break
    yield from calls


def read_name(tokens: Sequence[Token]) -> str | None:
    """The table that an argument names: 'readings', 'public.readings', '"readings"'::regclass."""
    first = tokens[0] if tokens else None
    return Reader(read_tokens(first.value)).take_name() if first is not None and first.kind is Kind.STRING else None


def _find_calls(tokens: Sequence[Token]) -> Iterator[Call]:
    for place, token in enumerate(tokens[:-1]):
        if token.kind is Kind.WORD and token.value in TIMESCALE_FUNCTIONS and tokens[place + 1].value == "(":
            positional, named = [], []
            for argument in split_commas(Reader(tokens[place + 1 :]).take_bracketed()):
                if len(argument) > 2 and argument[1].value in {"=>", ":="}:
                    named.append((argument[0].value, tuple(argument[2:])))
                else:
                    positional.append(tuple(argument))
            yield Call(token.value, tuple(positional), tuple(named))


# --- CREATE, DROP and the like ------------------------------------------------------------------------------------


def _read_create(reader: Reader) -> Iterator[Action]:
    unique = reader.take("unique")
    if reader.take("index"):
        yield from _read_index(reader, unique=unique)
    elif reader.take("materialized", "view"):
        yield from _read_materialized_view(reader)
    elif reader.take("table") or (reader.take("unlogged") and reader.take("table")):
        yield from _read_table(reader)


def _read_index(reader: Reader, *, unique: bool) -> Iterator[Action]:
    concurrently = reader.take("concurrently")
    if_not_exists = reader.take("if", "not", "exists")
    name = None if reader.peek("on") else reader.take_name()
    if not reader.take("on"):
        return
    reader.take("only")
    table = reader.take_name()
    if table is None:
        return
    if reader.take("using"):
        reader.take_name()
    columns = frozenset(part[0].value for part in split_commas(reader.take_bracketed()))
    per_chunk = any(token.value == "transaction_per_chunk" for token in reader.rest)
    yield CreateIndex(table, name, columns, unique, concurrently, per_chunk, if_not_exists)


def _read_materialized_view(reader: Reader) -> Iterator[Action]:
    reader.take("if", "not", "exists")
    name = reader.take_name()
    if name is None or not reader.take("with") or "continuous" not in _read_options(reader.take_bracketed()):
        return
    tail = [token.value for token in reader.rest[-3:]]
    words = frozenset(token.value for token in reader.rest if token.kind in {Kind.WORD, Kind.QUOTED})
    reader.skip_to("from")
    yield CreateAggregate(name, reader.take_name(), words, with_data=tail != ["with", "no", "data"])


def _read_table(reader: Reader) -> Iterator[Action]:
    reader.take("if", "not", "exists")
    name = reader.take_name()
    if name is None:
        return
    body = reader.take_bracketed()
    options = _read_options(reader.take_bracketed()) if reader.take("with") else {}
    yield CreateTable(name, _find_references(body), "hypertable" in options, options.get("partition_column"))


def _read_options(tokens: Sequence[Token]) -> dict[str, str]:
    """TimescaleDB's options, without their prefix; one without a value is true."""
    options = {}
    for part in split_commas(tokens):
        if len(part) >= 3 and part[0].value in _OPTION_PREFIXES and part[1].value == ".":
            options[part[2].value] = part[4].value if len(part) > 4 else "true"
    return options


def _read_drop(reader: Reader) -> Iterator[Action]:
    if reader.take("index"):
        concurrently = reader.take("concurrently")
        if_exists = reader.take("if", "exists")
        yield DropIndex(tuple(reader.take_names()), concurrently, if_exists)
    elif reader.take("table"):
        reader.take("if", "exists")
        yield DropTables(tuple(reader.take_names()))
    elif reader.take("materialized", "view"):
        reader.take("if", "exists")
        yield DropViews(tuple(reader.take_names()))


def _read_reindex(reader: Reader) -> Iterator[Action]:
    options = {token.value for token in reader.take_bracketed()}
    if reader.take("table") or reader.take("index"):
        concurrently = reader.take("concurrently") or "concurrently" in options
        name = reader.take_name()
        if name is not None:
            yield Reindex(name, concurrently)


def _read_truncate(reader: Reader) -> Iterator[Action]:
    reader.take("table")
    reader.take("only")
    yield from (DeleteRows(name) for name in reader.take_names())


def _read_delete(reader: Reader) -> Iterator[Action]:
    reader.take("from")
    reader.take("only")
    name = reader.take_name()
    if name is not None:
        yield DeleteRows(name)


def _read_select(reader: Reader) -> Iterator[Action]:
    if reader.skip_to("from"):
        yield Select()


def _read_vacuum(_: Reader) -> Iterator[Action]:
    yield Vacuum()


def _find_references(tokens: Sequence[Token]) -> tuple[str, ...]:
    found = [
        Reader(tokens[place + 1 :]).take_name()
        for place, token in enumerate(tokens)
        if token.kind is Kind.WORD and token.value == "references"
    ]
    return tuple(name for name in found if name is not None)


# --- ALTER TABLE --------------------------------------------------------------------------------------------------


def _read_alter(reader: Reader) -> Iterator[Action]:
    if not reader.take("table"):
        return
    reader.take("if", "exists")
    reader.take("only")
    table = reader.take_name()
    if table is not None:
        for part in split_commas(reader.rest):
            yield from _read_change(table, Reader(part))


def _read_change(table: str, reader: Reader) -> Iterator[Action]:
    if reader.take("add"):
        if reader.rest and reader.rest[0].kind is Kind.WORD and reader.rest[0].value in _CONSTRAINTS:
            yield from _read_constraint(table, reader)
        else:
            yield from _read_column(table, reader)
    elif reader.take("drop"):
        if not reader.take("constraint"):
            reader.take("column")
            reader.take("if", "exists")
            yield from (DropColumn(table, name) for name in reader.take_names()[:1])
    elif reader.take("alter"):
        reader.take("column")
        column = reader.take_name()
        if column is not None and (reader.take("type") or reader.take("set", "data", "type")):
            yield ChangeType(table, column)
    elif reader.take("rename"):
        yield from _read_rename(table, reader)
    elif reader.take("set"):
        options = _read_options(reader.take_bracketed())
        switch = options.get("compress") or options.get("enable_columnstore")
        columns = [value for name, value in options.items() if name.endswith(("segmentby", "orderby"))]
        if switch is not None:
            names = (part[0].value for text in columns for part in split_commas(read_tokens(text)))
            yield SetCompression(table, switch not in {"false", "off", "0"}, frozenset(names))
    elif reader.take("validate"):
        yield ValidateConstraint(table)


def _read_rename(table: str, reader: Reader) -> Iterator[Action]:
    if reader.take("to"):
        yield from (RenameTable(table, name) for name in reader.take_names())
    elif not reader.take("constraint"):
        reader.take("column")
        old = reader.take_name()
        new = reader.take_name() if reader.take("to") else None
        if old is not None and new is not None:
            yield RenameColumn(table, old, new)


def _read_constraint(table: str, reader: Reader) -> Iterator[Action]:
    if reader.take("constraint"):
        reader.take_name()
    key = None
    if reader.take("unique") or reader.take("primary", "key") or reader.take("exclude"):
        if reader.take("using", "index"):
            yield AddConstraint(table, frozenset(), True, ())
            return
        if reader.take("using"):
            reader.take_name()
        key = frozenset(part[0].value for part in split_commas(reader.take_bracketed()))
    yield AddConstraint(table, key, False, _find_references(reader.rest))


def _read_column(table: str, reader: Reader) -> Iterator[Action]:
    reader.take("column")
    reader.take("if", "not", "exists")
    column = reader.take_name()
    if column is None:
        return
    rest = reader.rest
    words = [token.value for token in rest if token.kind is Kind.WORD]
    pairs = set(itertools.pairwise(words))
    yield AddColumn(
        table,
        column,
        _find_default(Reader(rest)),
        not_null=("not", "null") in pairs,
        key="unique" in words or ("primary", "key") in pairs,
        constrained=bool({"references", "generated"} & set(words)),
        references=_find_references(rest),
    )


def _find_default(reader: Reader) -> tuple[Token, ...]:
    if not reader.skip_to("default"):
        return ()
    value = reader.rest[:1]
    for token in reader.rest[1:]:
        if token.kind is Kind.WORD and token.value in _AFTER_DEFAULT and is_balanced(value):
            break
        value.append(token)
    return tuple(value)


_STATEMENTS: list[tuple[tuple[str, ...], Callable[[Reader], Iterator[Action]]]] = [
    (("create",), _read_create),
    (("drop",), _read_drop),
    (("alter",), _read_alter),
    (("reindex",), _read_reindex),
    (("truncate",), _read_truncate),
    (("delete",), _read_delete),
    (("select",), _read_select),
    (("vacuum",), _read_vacuum),
]
