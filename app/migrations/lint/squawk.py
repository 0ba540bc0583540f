"""squawk, the linter of the plain PostgreSQL part: what it finds in the statements of migrations, and what it is not asked.

Arrives: statements. Leaves: findings, each with the place of its statement. Fails: MigrationRefused where it isn't installed.
"""

from __future__ import annotations

import subprocess
import sys
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from app.errors import MigrationRefused
from app.migrations.lint.actions import AddColumn
from app.migrations.lint.grammar import read_actions
from app.migrations.lint.rules import DECLARE_INDEX
from app.timescale.tokens import read_statements

POSTGRES = "15"  # the oldest that we run on

# Each with what already answers for it.
EXCLUDED = {
    "ban-concurrent-index-creation-in-transaction": "not-in-transaction says it, and for more than CREATE INDEX",
    "ban-drop-column": "loses-rows says it",
    "ban-drop-table": "loses-rows says it",
    "prefer-identity": "Piccolo's BigSerial is a serial",
    "require-lock-timeout": "the runner gives every migration one, and comes back later",
    "require-statement-timeout": "rows that move take as long as they take; nobody waits for a lock meanwhile but by our rules",
}

# What it advises is refused on a hypertable, or our own rules say it better.
WRONG_ON_HYPERTABLES = {
    "adding-field-with-default",
    "constraint-missing-not-valid",
    "disallowed-unique-constraint",
    "prefer-repack",
    "require-concurrent-index-creation",
    "require-concurrent-index-deletion",
    "require-concurrent-reindex",
}

# Our rules that take the place of one of squawk's, where they speak of the same statement.
SAID_BETTER = {
    "cut-off": "prefer-robust-stmts",
    "not-in-transaction": "prefer-robust-stmts",
    "on-compressed": "adding-required-field",
}

# How its advice is followed here.
HINTS = {
    "adding-field-with-default": "Add the column with null=True and no default, fill it in batches, and set the default later.",
    "adding-foreign-key-constraint": "Add it NOT VALID in a raw step, and VALIDATE CONSTRAINT in a later migration.",
    "adding-required-field": "Give the column a default, or let it be null until it is filled.",
    "constraint-missing-not-valid": "Add it NOT VALID in a raw step, and VALIDATE CONSTRAINT in a later migration.",
    "disallowed-unique-constraint": ("Declare Index(..., unique=True) on the table, which is built CONCURRENTLY."),
    "require-concurrent-index-creation": DECLARE_INDEX,
    "require-concurrent-index-deletion": "Declared indexes, indexes=(Index(...),), are dropped CONCURRENTLY.",
}


@dataclass(frozen=True)
class Script:
    """Statements that run one after the other, in one transaction or each by itself."""

    statements: Sequence[str]
    transactional: bool


@dataclass(frozen=True)
class Report:
    """What squawk says of the statement at a place of a script."""

    script: int
    statement: int
    rule: str
    message: str


class _Line(msgspec.Struct):
    file: str
    line: int
    message: str
    help: str | None
    rule_name: str


def run_squawk(scripts: Sequence[Script]) -> list[Report]:
    """Everything that squawk finds, in order."""
    if not scripts:
        return []
    program = Path(sys.executable).with_name("squawk")
    if not program.is_file():
        raise MigrationRefused(
            "squawk isn't installed beside this Python: run uv sync, which brings the developers' tools."
        )
    with TemporaryDirectory() as folder:
        firsts = {}
        for number, script in enumerate(scripts):
            path = Path(folder) / f"{number}.sql"
            text, firsts[str(path)] = _write(script)
            path.write_text(text, encoding="utf-8")
        command = [str(program), "--reporter=json", "--assume-in-transaction", f"--pg-version={POSTGRES}"]
        excluded = f"--exclude={','.join(sorted(EXCLUDED))}"
        done = subprocess.run(  # noqa: S603 - a program of this environment
            [*command, excluded, *firsts], capture_output=True, text=True, cwd=folder, check=False
        )
    try:
        lines = msgspec.json.decode(done.stdout, type=list[_Line])
    except msgspec.DecodeError as error:
        raise MigrationRefused(f"squawk can't be run: {done.stderr.strip() or error}.") from error
    numbers = {path: number for number, path in enumerate(firsts)}
    reports = [
        Report(numbers[each.file], bisect_right(firsts[each.file], each.line) - 1, each.rule_name, _describe(each))
        for each in lines
    ]
    return sorted(reports, key=lambda report: (report.script, report.statement, report.rule))


def _write(script: Script) -> tuple[str, list[int]]:
    """The text, and the line that each statement begins at, from 0."""
    lines = [] if script.transactional else ["-- squawk-disable-assume-in-transaction"]
    firsts = []
    for statement in script.statements:
        firsts.append(len(lines))
        lines.extend(f"{_drop_empty_defaults(statement)};".split("\n"))
    return "\n".join(lines) + "\n", firsts


def _drop_empty_defaults(sql: str) -> str:
    """Piccolo writes NOT NULL DEFAULT null where there is no default, which squawk would take for one."""
    spans = [
        (action.default[0].start, action.default[0].end)
        for statement in read_statements(sql)
        if not statement.guarded
        for action in read_actions(statement)
        if isinstance(action, AddColumn) and [token.value for token in action.default] == ["null"]
    ]
    for start, end in reversed(spans):
        sql = sql[: sql[:start].lower().rindex("default")] + sql[end:]
    return sql


def _describe(line: _Line) -> str:
    advice = HINTS.get(line.rule_name, line.help)
    return f"{line.message.rstrip('.')}. {advice}" if advice else line.message
