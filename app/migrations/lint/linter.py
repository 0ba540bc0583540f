"""Lints the migration files of an app: our rules and squawk's, less what the files allow with a reason.

Arrives: the Piccolo app. Leaves: findings, by migration. Fails: MigrationRefused where a file can't be read, or squawk is
missing. Touches no database.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from piccolo.conf.apps import AppConfig

from app.migrations.lint.allowances import read_allowances
from app.migrations.lint.line import Examination, examine_migrations
from app.migrations.lint.rules import Problem
from app.migrations.lint.squawk import SAID_BETTER, WRONG_ON_HYPERTABLES, Script, run_squawk
from app.timescale.files import find_folder, list_files, load_managers


class Finding(msgspec.Struct, frozen=True):
    """`message` says what happens and what to do instead; `statement` is None where it is about the migration as a whole."""

    migration: str
    file: str
    rule: str
    message: str
    statement: str | None


async def lint_migrations(app: AppConfig) -> list[Finding]:
    """What is wrong with every migration, in the order in which they are applied."""
    managers = await load_managers(app)
    files = list_files(find_folder(app))
    examinations = await examine_migrations(managers)
    reported = _ask_squawk(examinations)
    findings: list[Finding] = []
    for manager, examination, squawked in zip(managers, examinations, reported, strict=True):
        path = files[manager.migration_id]
        problems = [*examination.problems, *squawked]
        findings.extend(
            Finding(manager.migration_id, path.name, each.rule, each.message, each.statement)
            for each in _apply_allowances(problems, path)
        )
    return findings


def _ask_squawk(examinations: Sequence[Examination]) -> list[list[Problem]]:
    """What it says of each migration, but for what is wrong on hypertables."""
    scripts = [
        script
        for each in examinations
        for script in (Script(each.statements, transactional=True), Script(each.later, transactional=False))
    ]
    problems: list[list[Problem]] = [[] for _ in examinations]
    said_better = [
        {(SAID_BETTER[problem.rule], problem.statement) for problem in each.problems if problem.rule in SAID_BETTER}
        for each in examinations
    ]
    for report in run_squawk(scripts):
        place = report.script // 2
        statement = scripts[report.script].statements[report.statement]
        wrong = report.rule in WRONG_ON_HYPERTABLES and statement in examinations[place].on_hypertables
        if not wrong and (report.rule, statement) not in said_better[place]:
            problems[place].append(Problem(report.rule, report.message, statement))
    return problems


def _apply_allowances(problems: Sequence[Problem], path: Path) -> Iterator[Problem]:
    """The problems that the file doesn't allow, and the allowances that are none."""
    allowances = read_allowances(path.read_text(encoding="utf-8"))
    allowed = {each.rule for each in allowances}
    broken = {each.rule for each in problems}
    yield from (each for each in problems if each.rule not in allowed)
    for each in allowances:
        if each.rule is None:
            yield Problem("allow", f"line {each.line} must read: # migrate-lint: allow RULE because REASON")
        elif each.rule not in broken:
            yield Problem(
                "allow", f"line {each.line} allows {each.rule}, which nothing in this file breaks: take it out."
            )
