"""The folder that the project lies in, and the tools that look through it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from invoke.context import Context

ROOT = Path(__file__).parents[2]


def run_tool(c: Context, *command: str) -> None:
    """Runs a module of this environment on the project. Raises invoke's UnexpectedExit where it fails."""
    with c.cd(str(ROOT)):
        c.run(shlex.join([sys.executable, "-m", *command]), pty=sys.stdout.isatty())
