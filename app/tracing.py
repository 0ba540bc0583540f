"""What rooms tell of their work as it goes, where traces are wanted; where they aren't, rooms have None in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

Mark: TypeAlias = Any  # a place in a trace, from which work is done elsewhere
Attributes: TypeAlias = Mapping[str, str | int]

CANCELLED = "CANCELLED"  # how work ends whose asker has gone, or that the stopping service cuts off


class Span(Protocol):
    """A piece of work that is under way."""

    def end(self, *, name: str | None = None, attributes: Attributes | None = None, error: str | None = None) -> None:
        """It is over, with the code of an error if it failed; what was not known before may be added."""


class Tracing(Protocol):
    """Begins spans. What this task does until the next one begins is a part of it."""

    def mark(self) -> Mark:
        """Where this task is now."""

    def begin(self, name: str, attributes: Attributes, origins: Sequence[Mark] = ()) -> Span:
        """A piece of work for the first of `origins`, or of what is under way, and by the way for the other ones."""

    def cover(self, name: str, attributes: Attributes) -> AbstractContextManager[None]:
        """A piece of work within what is under way, for as long as the block lasts; what comes behind is no part of it."""

    def begin_request(self, scope: Any, route: str) -> Span:
        """A request over HTTP, which may go on a trace of its client's."""

    def tell_statement(self, query: Any) -> None:
        """A statement that asyncpg has run, as its query loggers get it."""
