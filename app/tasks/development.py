"""Commands for whoever works on the project: tests, style, types, measurements."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from invoke.context import Context
from invoke.tasks import task

from app.console import say
from app.errors import InvalidInput
from app.settings import load_settings
from app.tasks.checkout import ROOT, run_tool
from app.tasks.databases import open_server
from app.tasks.reports import report_errors

# Two workers a core, since a test waits as long as it computes: for a server to stop, a connection to open, a time to end.
SPREAD = ["-n", str(2 * (os.cpu_count() or 1)), "--dist", "loadscope"]


@task(help={"only": "pytest's -k: run only the tests whose names match"})
def tests(c: Context, only: str = "") -> None:
    """Runs the tests; AURUM_TEST_DATABASE_URL names another server than the embedded one."""
    run_tool(c, "pytest", *SPREAD, *(["-k", only] if only else []))


@task
def test_coverage(c: Context) -> None:
    """Runs the tests and shows which lines they don't reach."""
    run_tool(c, "pytest", *SPREAD, "--cov=app", "--cov-report=term-missing:skip-covered")


@task
def lint(c: Context) -> None:
    """Checks style, formatting and the direction of imports."""
    run_tool(c, "ruff", "check", ".")
    run_tool(c, "ruff", "format", "--check", ".")
    with c.cd(str(ROOT)):
        c.run(f"{Path(sys.executable).with_name('lint-imports')} --no-logo")


@task
def lint_fix(c: Context) -> None:
    """Mends what ruff can mend by itself."""
    run_tool(c, "ruff", "check", "--fix", ".")


@task(name="format")
def format_(c: Context) -> None:
    """Formats the code."""
    run_tool(c, "ruff", "format", ".")


@task
def mypy(c: Context) -> None:
    """Checks the types."""
    run_tool(c, "mypy")


@task
def audit(c: Context) -> None:
    """Asks the index of packages for known weaknesses of those that come with the service."""
    with c.cd(str(ROOT)), TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        c.run(f"uv export --quiet --no-dev --no-emit-project --no-hashes --output-file {file}", hide="stdout")
        # A package that isn't found there was not looked at: that is no good news.
        c.run(f"uv tool run pip-audit==2.10.1 --strict --disable-pip --no-deps --requirement {file}")


@task
def graphiql(_: Context) -> None:
    """Has npm bring the scripts of GraphiQL, the page that /graphql shows browsers."""
    from app.graphql.graphiql.scripts import FOLDER, bring_scripts

    with report_errors():
        say(f"Brought them to {FOLDER.relative_to(ROOT)}." if bring_scripts() else "They are there already.")


@task(
    help={
        "name": "what to measure: ingest",
        "json": "also write the findings to this file, as a list of {name, unit, ours, theirs, ratio, bar, holds}",
    }
)
def bench(_: Context, name: str, json: str = "") -> None:
    """Measures ours beside what one would use otherwise, on the server of DATABASE_URL; needs uv sync --group bench."""
    import uvloop

    from benchmarks.fanout import bench_fanout
    from benchmarks.graphql import bench_graphql
    from benchmarks.ingest import bench_ingest
    from benchmarks.report import describe_machine, write_table

    benchmarks = {"fanout": bench_fanout, "graphql": bench_graphql, "ingest": bench_ingest}
    with report_errors():
        if name not in benchmarks:
            raise InvalidInput(f"There is no benchmark {name!r}: choose one of {', '.join(benchmarks)}.")
        with open_server(load_settings()) as url:
            findings = uvloop.run(benchmarks[name](url, say))
    say(f"On {describe_machine()}:")
    print(write_table(findings))  # noqa: T201 - as it goes into docs/benchmarks.md
    if json:
        Path(json).write_bytes(msgspec.json.format(msgspec.json.encode(findings)))
    if not all(finding.holds for finding in findings):
        sys.exit(1)
