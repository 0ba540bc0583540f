"""One SQL statement that answers a root field as JSON text, all that is below it included.

Arrives: what a root field selects, and what its arguments are. Leaves: a SELECT of one text, or None where a part of it
is computed in Python. Fails: InvalidInput, for arguments that can't be right, as the resolvers do.

PostgreSQL builds the text and the service passes it on, so no object is made of any row. Where a value has no place in
JSON (a float that isn't finite, an instant that no calendar has) the text holds UNUSUAL, which no JSON has, and the
resolvers are asked instead: they know what to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any, TypeAlias, assert_never

import msgspec

from app.graphql.connections import MOST_COUNTED, read_request
from app.graphql.selection import TYPENAME, Selected
from app.graphql.standing import ByKey, Newest, OfMachine, Pages, find_standing
from app.history.clauses import Clause
from app.history.fields import Field, Kind
from app.history.keyset import complete_order, write_signature
from app.history.pages import ROW, PageRequest, check_size, write_count, write_page_source
from app.history.shapes import TableShape

UNUSUAL = "\x01"

ReadArguments: TypeAlias = Callable[[Selected], dict[str, Any]]

_INSTANT = """'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'"""
_UNUSUAL = f"E'\\x{ord(UNUSUAL):02x}'"


class _Computed(Exception):
    """A part of the answer isn't on a table."""


def write_statement(root: Selected, read_arguments: ReadArguments, most: int) -> Clause | None:
    """Selects the JSON text of a field of Query, whose pages have `most` rows; NULL stands for null."""
    try:
        answer = _Statement(read_arguments, most).write_root(root)
    except _Computed:
        return None
    return Clause.concat("SELECT ", answer)


class _Statement:
    def __init__(self, read_arguments: ReadArguments, most: int) -> None:
        self._read_arguments = read_arguments
        self._most = most
        self._aliases = (f"t{number}" for number in count(1))

    def write_root(self, root: Selected) -> Clause:
        standing = None if root.declared is None else find_standing(root.declared)
        match standing:
            case ByKey(shape):
                (column,) = shape.key
                (value,) = self._read_arguments(root).values()
                cast = shape.fields[column].kind.postgres
                condition = Clause(f"{shape.express(column, ROW)} = $$::{cast}", (value,))
                return self._write_row(shape, root, condition)
            case Pages(shape, owned=False):
                return self._write_page(root, shape, None)
        raise _Computed

    def _write_object(self, shape: TableShape, parent: Selected, row: str) -> Clause:
        if row in parent.written:
            return parent.written[row]
        text = _write_json((selected, self._write_field(selected, shape, row)) for selected in parent.below)
        if not any(selected.below for selected in parent.below):
            parent.written[row] = text  # columns alone: the same for every request
        return text

    def _write_field(self, selected: Selected, shape: TableShape, row: str) -> Clause:
        if selected.name == TYPENAME:
            return Clause(f"""'"{shape.entity}"'""")
        assert selected.declared is not None  # noqa: S101 - only __typename isn't
        owner = Clause(f"{ROW}.machine_id = {row}.machine_id")
        match find_standing(selected.declared):
            case OfMachine(target):
                return self._write_row(target, selected, owner)
            case Newest(target, column):
                answer = self._write_newest(target, column, selected, owner)
                return Clause.concat("coalesce(", answer, ", 'null')")
            case Pages(target):
                return self._write_page(selected, target, owner)
        name = selected.declared.python_name
        if name not in shape.fields:
            raise _Computed
        return Clause(_write_value(shape.fields[name], f"{row}.{name}"))

    def _write_row(self, shape: TableShape, parent: Selected, condition: Clause) -> Clause:
        row = next(self._aliases)
        selected = shape.select(ROW, _list_columns(shape, parent.below))
        answer = self._write_object(shape, parent, row)
        return Clause.concat(
            "(SELECT ",
            answer,
            f" FROM (SELECT {selected} FROM {shape.name} AS {ROW} WHERE ",
            condition,
            f") AS {row})",
        )

    def _write_newest(self, shape: TableShape, column: str | None, parent: Selected, owner: Clause) -> Clause:
        row = next(self._aliases)
        columns = [column] if column is not None else _list_columns(shape, parent.below)
        if column is not None:
            answer = Clause(_write_value(shape.fields[column], f"{row}.{column}"))
        else:
            answer = self._write_object(shape, parent, row)
        newest = PageRequest(order=shape.order, first=1)
        page = write_page_source(shape, newest, row=ROW, owned=owner, spare=0)
        return Clause.concat("(SELECT ", answer, f" FROM (SELECT {shape.select(ROW, columns)} ", page, f") AS {row})")

    def _write_page(self, selected: Selected, shape: TableShape, owner: Clause | None) -> Clause:
        request = read_request(shape, self._most, **self._read_arguments(selected))
        page = _PageText(shape, request, selected.below, next(self._aliases))
        source = page.write_source(owner)  # also where no row is asked for: its arguments are checked by that
        answer = _write_json((part, self._write_part(page, part, owner)) for part in selected.below)
        rows = Clause.concat(" FROM ", source) if page.is_read else ""
        return Clause.concat("(SELECT ", answer, rows, ")")

    def _write_part(self, page: _PageText, part: Selected, owner: Clause | None) -> Clause:
        match part.name:
            case "nodes":
                return page.gather(self._write_object(page.shape, part, page.row))
            case "edges":
                return page.gather(_write_json((inner, self._write_edge(page, inner)) for inner in part.below))
            case "pageInfo":
                return _write_json((inner, Clause(page.write_info(inner))) for inner in part.below)
            case "totalCount":
                where = page.request.where if owner is None else Clause.all_of([owner, page.request.where])
                return Clause.concat(
                    f"(SELECT CASE WHEN n > {MOST_COUNTED} THEN {_UNUSUAL} ELSE n::text END FROM (",
                    write_count(page.shape, where, row=ROW),
                    ") AS counted (n))",
                )
        return Clause(_write_typename(part))

    def _write_edge(self, page: _PageText, part: Selected) -> Clause:
        match part.name:
            case "node":
                return self._write_object(page.shape, part, page.row)
            case "cursor":
                return Clause(page.write_cursor())
        return Clause(_write_typename(part))


class _PageText:
    """A connection's rows: which columns of them are read, and whether one more than the page, to know if there is one."""

    def __init__(self, shape: TableShape, request: PageRequest, parts: Sequence[Selected], row: str) -> None:
        self.shape, self.request, self.row = shape, request, row
        self._size = check_size(request)
        self._order = complete_order(shape, request.order)
        self._backwards = request.last is not None
        told = {(part.name, inner.name) for part in parts for inner in part.below}
        beyond = ("pageInfo", "hasPreviousPage" if self._backwards else "hasNextPage")
        ends = {("pageInfo", "startCursor"), ("pageInfo", "endCursor")} & told
        self._looks_beyond = beyond in told
        self.is_read = bool(ends) or self._looks_beyond or any(part.name in {"nodes", "edges"} for part in parts)
        nodes = [inner for part in parts if part.name == "nodes" for inner in part.below]
        nodes += [inner for part in parts for edge in part.below if edge.name == "node" for inner in edge.below]
        self._columns = _list_columns(shape, nodes)
        if ends or ("edges", "cursor") in told:
            self._columns = list(dict.fromkeys([*self._columns, *(term.column for term in self._order)]))

    def write_source(self, owner: Clause | None) -> Clause:
        """The rows, as they stand behind FROM, in the order in which they are walked, numbered by `place`."""
        spare = int(self._looks_beyond)
        source = write_page_source(self.shape, self.request, row=ROW, owned=owner, spare=spare)
        page = Clause.concat(f"SELECT {self.shape.select(ROW, self._columns)} ", source)
        if not self._looks_beyond and not self._backwards:
            return Clause.concat("(", page, f") AS {self.row}")
        return Clause.concat("(SELECT *, row_number() OVER () AS place FROM (", page, f") AS walked) AS {self.row}")

    def gather(self, item: Clause) -> Clause:
        """An array of one text per row of the page."""
        order = f" ORDER BY {self.row}.place DESC" if self._backwards else ""
        cut = f" FILTER (WHERE {self.row}.place <= {self._size})" if self._looks_beyond else ""
        return Clause.concat("'[' || coalesce(string_agg(", item, f", ','{order}){cut}, '') || ']'")

    def write_info(self, part: Selected) -> str:
        """A field of PageInfo."""
        first, last = "1", f"least(count(*), {self._size})"
        if self._backwards:
            first, last = last, first
        match part.name, self._backwards:
            case ("hasNextPage", False) | ("hasPreviousPage", True):
                return f"(count(*) > {self._size})::text"
            case "hasNextPage", _:
                return f"'{_say(self.request.before is not None)}'"
            case "hasPreviousPage", _:
                return f"'{_say(self.request.after is not None)}'"
            case "startCursor", _:
                return self._write_end(first)
            case "endCursor", _:
                return self._write_end(last)
        return _write_typename(part)

    def _write_end(self, place: str) -> str:
        if self._size == 0:
            return "'null'"  # the one row that is read lies beyond the page
        return f"coalesce((array_agg({self.write_cursor()}))[{place}], 'null')"

    def write_cursor(self) -> str:
        """The cursor of a row, as `keyset.write_cursor` writes it."""
        signature = msgspec.json.encode(write_signature(self.shape, self._order)).decode()
        values = " || ',' || ".join(self._write_key(term.column) for term in self._order)
        content = f"'[{signature},[' || {values} || ']]'"
        # PostgreSQL breaks base64 into lines.
        return f"""'"' || translate(encode(convert_to({content}, 'UTF8'), 'base64'), E'+/\\n', '-_') || '"'"""

    def _write_key(self, column: str) -> str:
        # A number that is an id is a text to clients, and a number to cursors.
        field, sql = self.shape.fields[column], f"{self.row}.{column}"
        return f"{sql}::text" if field.kind is Kind.NUMBER_ID else _write_value(field, sql)


def _list_columns(shape: TableShape, below: Iterable[Selected]) -> list[str]:
    """The columns of a row that its fields, and what it's related by, are made of."""
    names = (selected.declared.python_name for selected in below if selected.declared is not None)
    columns = dict.fromkeys(name if name in shape.fields else "machine_id" for name in names)
    return list(columns) or [shape.key[0]]


def _write_json(parts: Iterable[tuple[Selected, Clause]]) -> Clause:
    """An object's text."""
    pieces: list[Clause | str] = []
    for place, (selected, text) in enumerate(parts):
        pieces += [f"""'{"," if place else "{"}"{selected.key}":' || """, text, " || "]
    return Clause.concat(*pieces, "'}'")


def _write_typename(selected: Selected) -> str:
    if selected.name != TYPENAME:
        raise _Computed
    return f"""'"{selected.owner.name}"'"""


def _say(truth: bool) -> str:
    return "true" if truth else "false"


def _write_value(field: Field, sql: str) -> str:
    """The JSON of a column's value, as its resolver and its scalar would give it."""
    match field.kind:
        case Kind.TEXT_ID | Kind.TEXT:
            text = f"to_json({sql})::text"
        case Kind.NUMBER_ID | Kind.UUID_ID | Kind.CHOICE | Kind.RANK:
            text = f"""'"' || {sql} || '"'"""
        case Kind.INSTANT:
            text = f"""'"' || to_char({sql}, {_INSTANT}) || '"'"""
            unusual = f"{sql} NOT BETWEEN '0001-01-01+00' AND '9999-12-31 23:59:59.999999+00'"
            text = f"CASE WHEN {unusual} THEN {_UNUSUAL} ELSE {text} END"
        case Kind.FLOAT:
            # What is neither infinite nor NaN is nothing when it's taken from itself.
            text = f"CASE WHEN {sql} - {sql} <> 0 THEN {_UNUSUAL} ELSE {sql}::text END"
        case Kind.BOOLEAN | Kind.OBJECT | Kind.METRICS:
            text = f"{sql}::text"
        case _:
            assert_never(field.kind)
    return f"coalesce({text}, 'null')" if field.nullable else f"({text})"
