"""What a statement that we did not plan ourselves locks, and whether its time grows with the rows. Pure."""

from __future__ import annotations

from app.timescale.steps import Lock, Step


def describe_statement(sql: str, *, transactional: bool = True) -> Step:
    """The step that a statement of Piccolo's, or of a raw step, is."""
    return Step(sql, "", Lock.UNKNOWN, transactional=transactional)
