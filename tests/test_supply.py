"""What comes with the service, and what must not come into the repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app.ops.licences import find_refused, list_licences, write_licences
from tests.conftest import ROOT, find_program

HOOK = [find_program("detect-secrets-hook"), "--baseline", ".secrets.baseline"]


def test_every_package_that_comes_with_the_service_may_be_used() -> None:
    licences = list_licences()
    assert {"litestar", "asyncpg", "strawberry-graphql", "anyio"} <= set(licences)
    assert find_refused(licences) == []


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="other Pythons need other packages")
def test_the_list_of_licences_is_what_the_packages_say() -> None:
    assert (ROOT / "docs" / "licences.md").read_text(encoding="utf-8") == write_licences(list_licences())


@pytest.mark.parametrize(
    "licence",
    ["GPL-3.0-or-later", "GNU Affero General Public License v3", "LGPL-2.1", "AGPL-3.0", "SSPL-1.0", "", "Secret"],
)
def test_a_licence_with_duties_or_none_is_refused(licence: str) -> None:
    said = licence or "no licence that it names"
    assert find_refused({"good": "MIT", "bad": licence}) == [f"bad is under {said}: take another package."]


def scan(*files: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*HOOK, *files], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)


def test_no_file_of_the_service_holds_a_secret() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    files = [name for name in listed if not name.startswith(("tests/", ".secrets"))]
    done = scan(*files)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "secret",
    [
        'AWS = "AKIA' + 'QYLPMN5HHHFPZAM2"',
        "url = 'postgresql://aurum:" + "Vq8xT2mLw0@db.plant.example/aurum'",
        "-----BEGIN " + "RSA PRIVATE KEY-----",
        "api_key = '" + "f3b0c44298fc1c149afbf4c8996fb92427ae41e4'",
    ],
)
def test_a_secret_in_a_new_file_is_refused(tmp_path: Path, secret: str) -> None:
    file = tmp_path / "new.py"
    file.write_text(secret + "\n")
    assert scan(str(file)).returncode == 1
