"""A schema as a page to read: its tables and how they refer to each other as a Mermaid diagram, its hypertables as tables.

Pure. The diagram is of erDiagram's oldest grammar: GitHub and editors lag behind Mermaid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta

from app.timescale.definitions import Catalogue, unquote
from app.timescale.hypertable import Hypertable
from app.timescale.script import list_of_table, order_tables

_NAME = r'(?:"(?:[^"]|"")+"|[^\s",()]+)'
_KEY = re.compile(
    rf"(PRIMARY KEY|UNIQUE|FOREIGN KEY)(?: NULLS NOT DISTINCT)? \(({_NAME}(?:, {_NAME})*)\)(?: REFERENCES ({_NAME})\()?"
)
_SHORT = {"PRIMARY KEY": "PK", "FOREIGN KEY": "FK", "UNIQUE": "UK"}
# In Mermaid a type is one word.
_TYPES = {
    "timestamp with time zone": "timestamptz",
    "timestamp without time zone": "timestamp",
    "time with time zone": "timetz",
    "time without time zone": "time",
    "character varying": "varchar",
}
_UNITS = {"day": timedelta(days=1), "hour": timedelta(hours=1), "minute": timedelta(minutes=1)}


class _Key:
    """A key of a table: its kind as in Mermaid, its columns, and the table that a foreign one names."""

    def __init__(self, match: re.Match[str]) -> None:
        self.kind = _SHORT[match[1]]
        self.columns = re.findall(_NAME, match[2])
        self.table = match[3]


def write_page(catalogue: Catalogue, hypertables: Mapping[str, Hypertable]) -> str:
    """The page in Markdown, the same for the same schema. `catalogue` is the schema's without hypertables."""
    lines = [
        "# The schema",
        "",
        "What the migrations make, written by `invoke schema-snapshot`; [schema.sql](schema.sql) has all of it.",
        "",
        "```mermaid",
        *draw_diagram(catalogue),
        "```",
        "",
        "A table with chunks is a hypertable where there is TimescaleDB; what an edition doesn't have is left out on it.",
        "",
        *_tabulate(
            ("table", "chunks", "compressed", "kept"),
            ((table, *_describe(hypertables.get(unquote(table)))) for table in sorted(order_tables(catalogue))),
        ),
        *_list_aggregates(hypertables),
    ]
    return "\n".join(lines) + "\n"


def draw_diagram(catalogue: Catalogue) -> Iterator[str]:
    """The lines of the diagram: a foreign key is a solid line where it is a part of the primary key."""
    yield "erDiagram"
    tables = order_tables(catalogue)
    for table in tables:
        keys = _list_keys(catalogue, table)
        yield f'    "{_clean(table)}" {{'
        for column, definition in list_of_table(catalogue, table, "column").items():
            roles = ",".join(dict.fromkeys(key.kind for key in keys if column in key.columns))
            nullable = "" if "NOT NULL" in definition else '"may be null"'
            yield "        " + " ".join(filter(None, (_name_type(definition), _clean(column), roles, nullable)))
        yield "    }"
    for table in tables:
        yield from _draw_references(catalogue, table)


def _draw_references(catalogue: Catalogue, table: str) -> Iterator[str]:
    keys = _list_keys(catalogue, table)
    columns = list_of_table(catalogue, table, "column")
    for key in keys:
        if key.kind != "FK":
            continue
        one = all("NOT NULL" in columns[column] for column in key.columns)
        single = any(set(each.columns) <= set(key.columns) for each in keys if each.kind != "FK")
        owned = any(set(key.columns) <= set(each.columns) for each in keys if each.kind == "PK")
        line = f"{'||' if one else '|o'}{'--' if owned else '..'}{'o|' if single else 'o{'}"
        yield f'    "{_clean(key.table)}" {line} "{_clean(table)}" : "{", ".join(map(_clean, key.columns))}"'


def _list_keys(catalogue: Catalogue, table: str) -> list[_Key]:
    """The primary key first."""
    definitions = list_of_table(catalogue, table, "constraint").values()
    keys = [_Key(match) for each in definitions if (match := _KEY.match(each))]
    return sorted(keys, key=lambda key: ("PK", "FK", "UK").index(key.kind))


def _name_type(definition: str) -> str:
    written = re.split(r" (?:COLLATE|NOT NULL|DEFAULT|GENERATED)\b", definition)[0]
    for long, short in _TYPES.items():
        written = written.replace(long, short)
    return _clean(written)


def _clean(name: str) -> str:
    """A name or type as Mermaid takes it: words, of which the first character is no digit."""
    word = re.sub(r"[^\w\[\]()-]", "_", unquote(name))
    return f"_{word}" if re.match(r"\d", word) else word


# --- hypertables --------------------------------------------------------------------------------------------------


def _describe(declared: Hypertable | None) -> tuple[str, str, str]:
    if declared is None:
        return "no", "no", "for good"
    compressed = "no"
    if declared.compression is not None:
        order = ", ".join(declared.compression.order_by) or f"{declared.time_column} DESC"
        segments = f" by {', '.join(declared.compression.segment_by)}" if declared.compression.segment_by else ""
        compressed = f"after {_name_span(declared.compression.after)}{segments}, in the order {order}"
    kept = "for good" if declared.retention is None else _name_span(declared.retention)
    return f"{_name_span(declared.chunk_interval)} by {declared.time_column}", compressed, kept


def _list_aggregates(hypertables: Mapping[str, Hypertable]) -> Iterator[str]:
    rows = []
    for table, declared in sorted(hypertables.items()):
        for aggregate in declared.aggregates:
            start = aggregate.refresh.start_offset
            since = "the beginning" if start is None else f"{_name_span(start)} ago"
            rows.append(
                (
                    aggregate.name,
                    table,
                    ", ".join((_name_span(aggregate.bucket), *aggregate.group_by)),
                    "; ".join(f"{name} = {expression}" for name, expression in aggregate.columns),
                    f"every {_name_span(aggregate.refresh.every)}, from {since} "
                    f"to {_name_span(aggregate.refresh.end_offset)} ago",
                )
            )
    if rows:
        yield from ("", *_tabulate(("aggregate", "of", "by", "columns", "refreshed"), rows))


def _tabulate(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _name_span(span: timedelta) -> str:
    """In days, hours and minutes, and seconds for what is left: 1 day 12 hours."""
    words = []
    for unit, length in _UNITS.items():
        count, span = divmod(span, length)
        if count:
            words.append(f"{count} {unit}{'' if count == 1 else 's'}")
    if span or not words:
        words.append(f"{span.total_seconds():g} seconds")
    return " ".join(words)
