"""What the documents say is there, is there; what the README shows, happens."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from invoke.collection import Collection
from invoke.loader import FilesystemLoader

import app.simulator.calls
from app.errors import AurumError
from app.graphql.schema import make_schema
from app.ingest.refusal import RejectionCode
from app.migrations.state import list_migrations
from app.settings import Settings, name_variable, write_guide
from tests.client import ServiceClient
from tests.conftest import ROOT, make_database, run_command, run_sql
from tests.test_migrations import fetch

REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def list_subclasses(kind: type[AurumError]) -> list[type[AurumError]]:
    return [each for child in kind.__subclasses__() for each in (child, *list_subclasses(child))]


def test_every_setting_is_documented_as_the_code_says() -> None:
    guide = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert guide == write_guide(), "run invoke configuration-doc"
    for field in Settings.__struct_fields__:
        assert guide.count(f"\n| `{name_variable(field)}` |") == 1


def name_heading(line: str) -> str:
    """A heading as links call it."""
    return re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("**/*.md")), ids=lambda path: path.name)
def test_a_link_between_documents_leads_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for file, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([\w-]+))?\)", text):
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), file
        if anchor:
            headings = re.findall(r"^#+ .*$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {name_heading(line) for line in headings}, f"{file}#{anchor}"


def list_tasks() -> list[str]:
    module, _ = FilesystemLoader(start=str(ROOT)).load("tasks")
    return list(Collection.from_module(module).task_names)


def test_every_task_is_documented() -> None:
    for name in list_tasks():
        assert re.search(rf"^\|.*`{name}`", REFERENCE, re.MULTILINE), name


def test_every_command_in_the_guide_to_migrations_is_there() -> None:
    guide = (ROOT / "docs" / "migrations.md").read_text(encoding="utf-8")
    named = set(re.findall(r"invoke ([a-z-]+)", guide))
    assert named >= {"migration", "migrate", "migrate-rollback", "migrate-to"}
    assert named <= set(list_tasks())


def test_every_command_in_the_guide_to_operations_is_there() -> None:
    guide = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    named = set(re.findall(r"invoke ([a-z-]+)", guide))
    assert named >= {"backup", "restore", "timescale-apply"}
    assert named <= set(list_tasks())


async def test_the_preview_in_the_guide_to_migrations_is_what_is_shown(server_url: str) -> None:
    async with make_database(server_url) as url:
        if not await fetch(url, "SELECT 1 FROM pg_settings WHERE name LIKE 'timescaledb.%'"):
            pytest.skip("the server has no TimescaleDB")
        first, second, *_ = list_migrations()
        await asyncio.to_thread(run_command, "invoke", "migrate-to", "--id", first, database_url=url)
        await run_sql(
            url,
            "INSERT INTO machines (machine_id, machine_type, location) VALUES ('A', 'press', 'x')",
            "INSERT INTO features SELECT 'A', '2026-01-01'::timestamptz + n * interval '1 day', '{}' FROM generate_series(1, 100) n",
            "ANALYZE",
        )
        done = await asyncio.to_thread(run_command, "invoke", "migrate-preview", "--to", second, database_url=url)
    (shown,) = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "migrations.md").read_text(encoding="utf-8"), re.DOTALL)
    figures = re.compile(r"\d[\d.,]*|apache|community")
    assert figures.sub("#", done.stdout) == figures.sub("#", shown)


def test_every_error_code_is_documented() -> None:
    assert app.simulator.calls  # its errors are part of the tree
    codes = {each.code for each in list_subclasses(AurumError) if "code" in vars(each)}
    codes |= {code.value for code in RejectionCode}
    assert {code for code in codes if f"`{code}`" not in REFERENCE} == set()


def test_every_error_is_in_the_drawing_of_the_tree() -> None:
    import app.errors

    drawing = app.errors.__doc__ or ""
    for each in list_subclasses(AurumError):
        if each.__module__ == "app.errors":
            assert f"── {each.__name__}" in drawing


def test_schema_graphql_is_what_the_code_says() -> None:
    assert (ROOT / "schema.graphql").read_text(encoding="utf-8") == make_schema().as_str() + "\n"


def read_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


async def test_the_readme_s_example_answers_what_the_readme_shows(service: ServiceClient) -> None:
    (commands,) = [block for block in read_blocks("sh") if "curl" in block]
    received, answered = [msgspec.json.decode(block) for block in read_blocks("json")]
    (query,) = read_blocks("graphql")

    outputs: list[Any] = []
    for command in commands.replace("http://127.0.0.1:8000", service.url).split("\n\n"):
        done = await asyncio.to_thread(
            subprocess.run, ["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True
        )
        outputs.append(msgspec.json.decode(done.stdout))
    registered, ingested = outputs
    assert registered["data"] == {"registerMachine": {"machineId": "PRESS-1"}}
    assert ingested == received
    assert {"data": await service.ask(query)} == answered
