"""A client that ariadne-codegen generates from schema.graphql, configured as docs/graphql.md says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.client import ServiceClient
from tests.clients.environment import FOLDER, PROGRAMS, find_python
from tests.clients.program import run_program
from tests.conftest import ROOT

# What the generator copies beside its own, the same for every schema, isn't strict.
TYPES = """
[tool.mypy]
strict = true

[[tool.mypy.overrides]]
module = "aurum_client.async_base_client"
ignore_errors = true
"""


def read_documented_configuration() -> str:
    """The one example in TOML."""
    (found,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "graphql.md").read_text(encoding="utf-8"), re.DOTALL)
    return str(found)


def run_in(folder: Path, *command: str | Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def test_a_generated_client_passes_strict_type_checking_and_gets_python_s_own_values(
    service: ServiceClient, cursor: str, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text(read_documented_configuration() + TYPES, encoding="utf-8")
    for source in (ROOT / "schema.graphql", FOLDER / "operations.graphql", PROGRAMS / "typed_client.py"):
        shutil.copy(source, tmp_path)
    python = find_python()
    run_in(tmp_path, python, "-m", "ariadne_codegen")
    checked = run_in(tmp_path, python, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "typed_client.py")
    assert checked.startswith("Success: no issues found")

    async with run_program(python, "typed_client.py", f"{service.url}/graphql", cursor, cwd=tmp_path) as program:
        assert await program.read() == ["A", True]
        assert await program.read() == [{"code": "ALREADY_EXISTS", "field": "machineId"}]
        assert await program.read() == [2, [[1, "EMPTY_METRICS"]]]
        assert await program.read() == [True, "ACTIVE_UNACKNOWLEDGED", {"rpm": [3, None]}]
        assert await program.read() == ["A", 1, True, "2025-12-31 23:02:00+00:00", {"rpm": 3.0}]
        assert await program.read() == [
            "rpm",
            [f"2025-12-31 23:0{minute}:00+00:00" for minute in range(3)],
            [1_767_222_000_000, 1_767_222_060_000, 1_767_222_120_000],
            [1.5, None, 3.0],
        ]
        assert await program.read() is True
        assert await program.read() == [
            0,
            [["A", "2025-12-31 23:00:00+00:00", {"rpm": 1.5}], ["A", "2025-12-31 23:02:00+00:00", {"rpm": 3.0}]],
        ]
