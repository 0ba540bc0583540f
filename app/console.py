"""What the commands show a person: sentences, and a bar for whatever takes longer than a second.

Where the output is no terminal, a line every few seconds stands for the bar.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

_QUIET_INTERVAL = 5.0  # seconds between lines where there is no terminal

console = Console(highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line for the person, at once."""
    console.print(text, markup=False)
    console.file.flush()


def complain(text: str) -> None:
    """One line about what went wrong, or is good to know beside the output, on standard error."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - a command line prints


class _RateColumn(ProgressColumn):
    """How many of them a second, of late."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


class Bar(Protocol):
    """Moves the bar to `done` of `total`."""

    def __call__(self, done: int, total: int) -> None: ...


@contextmanager
def show_progress(label: str, unit: str) -> Iterator[Bar]:
    """A bar with the rate and the time that is left; it is gone when the block ends."""
    if not console.is_terminal:
        yield _make_line_printer(label, unit)
        return
    columns = (
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        _RateColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(label, total=None)

        def move(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield move


def _make_line_printer(label: str, unit: str) -> Bar:
    latest, before = time.monotonic(), 0

    def move(done: int, total: int) -> None:
        nonlocal latest, before
        before = before or done  # what was done before, by a run that was cut off, is no rate of this one
        now = time.monotonic()
        if now - latest >= _QUIET_INTERVAL:
            rate = (done - before) / (now - latest)
            left = f", {timedelta(seconds=round((total - done) / rate))} left" if rate > 0 else ""
            latest, before = now, done
            say(f"{label}: {done:,} of {total:,} {unit}, {rate:,.0f}/s{left}")

    return move
