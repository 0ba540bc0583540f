"""The hooks and the workflows: valid, pinned, and asking for what is there; the hooks are run by git."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, find_program, make_environ
from tests.test_docs import list_tasks

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
HOOKS = ROOT / ".pre-commit-config.yaml"
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in (*WORKFLOWS, HOOKS)}


def check(*command: str) -> None:
    done = subprocess.run(
        [find_program(command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_workflows() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "migrations.yml", "supply.yml"]


@pytest.mark.parametrize("schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"])
def test_the_workflows_are_valid_and_every_job_has_a_time_limit(schema: str) -> None:
    check("check-jsonschema", "--builtin-schema", schema, *map(str, WORKFLOWS))


def test_a_security_audit_finds_nothing_in_them() -> None:
    check("zizmor", "--offline", "--pedantic", "--no-progress", *map(str, (*WORKFLOWS, HOOKS)))


def test_the_hooks_are_valid() -> None:
    check("prek", "validate-config", str(HOOKS))


def test_every_action_is_pinned_to_a_commit_with_its_version_beside_it() -> None:
    used = [line.strip() for text in TEXTS.values() for line in text.splitlines() if "uses:" in line]
    assert len(used) == 10
    for line in used:
        assert re.fullmatch(r"- uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_every_command_that_they_run_is_there() -> None:
    named = {name for text in TEXTS.values() for name in re.findall(r"\binvoke ([a-z-]+)", text)}
    assert named >= {"lint", "mypy", "graphql-schema", "migration", "migrate-lint", "migrate", "migrate-check", "tests"}
    assert named >= {"audit", "licences", "lint-containers", "docker-up", "docker-down"}
    assert named <= set(list_tasks())


def test_nothing_in_them_may_fail_unseen() -> None:
    for name, text in TEXTS.items():
        assert "continue-on-error" not in text, name
        assert "|| true" not in text, name


def test_the_image_is_pinned_and_the_guide_names_it() -> None:
    (image,) = re.findall(r"image: (\S+)", TEXTS["migrations.yml"])
    pinned = re.fullmatch(r"(timescale/timescaledb:2\.\d+\.\d+-pg17)@sha256:[0-9a-f]{64}", image)
    assert pinned is not None
    assert f"`{pinned[1]}`" in (ROOT / "docs" / "migrations.md").read_text(encoding="utf-8")


def test_they_run_the_versions_that_the_project_names() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    classified = re.findall(r"Python :: (3\.\d+)", project)
    (matrix,) = re.findall(r"python: \[(.*)\]", TEXTS["ci.yml"])
    assert re.findall(r"3\.\d+", matrix) == classified
    wanted = re.findall(r'"uv==([\d.]+)"', (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert {version for text in TEXTS.values() for version in re.findall(r' version: "([\d.]+)"', text)} == set(wanted)


def git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {
        **{name: value for name, value in make_environ().items() if not name.startswith("GIT_")},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "UV_PROJECT_ENVIRONMENT": sys.prefix,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PREK_HOME": str(folder / ".git" / "prek"),
        "SKIP": "lint,mypy,graphql-schema,secrets",  # those that take long, and that CI has run already
    }
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    return subprocess.run(
        ["git", *identity, *arguments],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_git_refuses_a_commit_that_changes_a_table_without_its_migration(tmp_path: Path) -> None:
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout.split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    assert git(tmp_path, "init").returncode == 0
    git(tmp_path, "config", "alias.prek", f"!{find_program('prek')}")
    installed = git(tmp_path, "prek", "install")
    assert installed.returncode == 0, installed.stderr
    git(tmp_path, "add", "--all")
    first = git(tmp_path, "commit", "--message", "all of it")
    assert first.returncode == 0, first.stdout + first.stderr

    tables = tmp_path / "app" / "tables.py"
    before = tables.read_text(encoding="utf-8")
    changed = before.replace("    location = Text(", "    nickname = Text(default='')\n    location = Text(", 1)
    assert changed != before
    tables.write_text(changed, encoding="utf-8")
    refused = git(tmp_path, "commit", "--all", "--message", "a change")
    assert refused.returncode == 1
    said = refused.stdout + refused.stderr
    assert re.search(r"no table changed without its migration\.+Failed", said), said
    assert "The tables have changed since the newest migration: run invoke migration --msg" in said
    assert re.search(r"migrations\.+Passed", said), said
    assert git(tmp_path, "log", "--format=%s").stdout == "all of it\n"
