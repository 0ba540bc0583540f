"""The fields of a table: what each is in SQL, and how its values travel between PostgreSQL, cursors and clients. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import cached_property
from typing import Annotated, Any, Protocol
from uuid import UUID

import msgspec
from msgspec import Meta


class Record(Protocol):
    """A row that PostgreSQL has answered, by the names of its columns."""

    def __getitem__(self, name: str, /) -> Any: ...


class Kind(Enum):
    """How a field's values travel: an id is a text to clients, whatever it is to PostgreSQL. A RANK is a CHOICE in which
    one is more than another."""

    TEXT_ID = "TEXT_ID"
    NUMBER_ID = "NUMBER_ID"
    UUID_ID = "UUID_ID"
    TEXT = "TEXT"
    BOOLEAN = "BOOLEAN"
    INSTANT = "INSTANT"
    FLOAT = "FLOAT"
    CHOICE = "CHOICE"
    RANK = "RANK"
    OBJECT = "OBJECT"
    METRICS = "METRICS"

    @property
    def postgres(self) -> str:
        """The PostgreSQL type that a parameter is cast to."""
        return _POSTGRES[self]

    @property
    def is_ordered(self) -> bool:
        """Whether rows can be put in order by it."""
        return self not in {Kind.OBJECT, Kind.METRICS}


_POSTGRES = {
    Kind.TEXT_ID: "text",
    Kind.NUMBER_ID: "int8",
    Kind.UUID_ID: "uuid",
    Kind.TEXT: "text",
    Kind.BOOLEAN: "boolean",
    Kind.INSTANT: "timestamptz",
    Kind.FLOAT: "float8",
    Kind.CHOICE: "text",
    Kind.RANK: "text",
    Kind.OBJECT: "jsonb",
    Kind.METRICS: "jsonb",
}

# What a cursor may hold. PostgreSQL's texts hold no NUL, and its float8 what JSON has no number for.
_Text = Annotated[str, Meta(pattern=r"\A[^\x00]*\Z")]
_BigInt = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_RESTORED: dict[Kind, Any] = {
    Kind.TEXT_ID: _Text,
    Kind.NUMBER_ID: _BigInt,
    Kind.UUID_ID: UUID,
    Kind.TEXT: _Text,
    Kind.BOOLEAN: bool,
    Kind.INSTANT: Annotated[datetime, Meta(tz=True)],
    Kind.FLOAT: float | Annotated[str, Meta(pattern=r"\A(nan|-?inf)\Z")],
}


_DECODERS: dict[Kind, Callable[[Any], Any]] = {
    Kind.NUMBER_ID: str,
    Kind.UUID_ID: str,
    Kind.OBJECT: msgspec.json.Decoder().decode,
    Kind.METRICS: msgspec.json.Decoder(dict[str, float]).decode,
}


@dataclass(frozen=True)
class Field:
    """A field of a table's rows. `sql` says it with `{row}` for the row; by default it's the column of its own name.

    A field of a few values has them as `choices`, and is put in order as they are.
    """

    kind: Kind
    nullable: bool = False
    sql: str | None = None
    choices: type[Enum] | None = None

    def restore(self, value: object) -> Any:
        """The value of a cursor. Raises ValidationError or OverflowError when it can't be one of this field's."""
        if value is None and self.nullable:
            return None
        restored = msgspec.convert(value, self.choices or _RESTORED[self.kind])
        if isinstance(restored, datetime):
            return restored.astimezone(UTC)
        if isinstance(restored, Enum):
            return restored.value
        return float(restored) if self.kind is Kind.FLOAT else restored

    def parse(self, value: Any) -> Any:
        """What a client has sent, as PostgreSQL takes it. Raises ValueError for an id that can't be one of this field's."""
        if self.kind is Kind.NUMBER_ID:
            return msgspec.convert(value, _BigInt, strict=False)
        return UUID(value) if self.kind is Kind.UUID_ID else value

    def decode(self, value: Any) -> Any:
        """What PostgreSQL has answered, as it goes to a client."""
        return value if value is None or self.decoder is None else self.decoder(value)

    @cached_property
    def decoder(self) -> Callable[[Any], Any] | None:
        """What `decode` does with a value; None where it stays as it is."""
        return self.choices or _DECODERS.get(self.kind)
