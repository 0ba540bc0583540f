"""What a benchmark found: figures beside each other, and whether each holds what was promised."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """`ours` beside `theirs`, in `unit`; `bar` is what `ratio` has to reach, or what `ours` may not exceed without it."""

    name: str
    unit: str
    ours: float
    theirs: float | None
    ratio: float | None
    bar: float
    holds: bool


def compare(name: str, unit: str, ours: float, theirs: float, ratio: float, bar: float) -> Finding:
    """A finding by a ratio that must be at least `bar`."""
    return Finding(name, unit, round(ours, 1), round(theirs, 1), round(ratio, 2), bar, ratio >= bar)


def bound(name: str, unit: str, ours: float, bar: float) -> Finding:
    """A finding that must be at most `bar`."""
    return Finding(name, unit, round(ours, 1), None, None, bar, ours <= bar)


def write_table(findings: Sequence[Finding]) -> str:
    """The findings in Markdown."""
    lines = ["| what | ours | theirs | ratio | bar | holds |", "|---|---|---|---|---|---|"]
    for each in findings:
        theirs = "" if each.theirs is None else f"{each.theirs:,.0f} {each.unit}"
        ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
        bar = f"at most {each.bar:g} {each.unit}" if each.ratio is None else f"at least {each.bar:g}"
        holds = "yes" if each.holds else "**no**"
        lines.append(f"| {each.name} | {each.ours:,.0f} {each.unit} | {theirs} | {ratio} | {bar} | {holds} |")
    return "\n".join(lines)


def describe_machine() -> str:
    """The machine and the Python that the figures are from."""
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
