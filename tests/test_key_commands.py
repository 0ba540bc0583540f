"""invoke key-new, key-list and key-revoke, as an operator uses them."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path

import msgspec
import pytest

from app.access import entrance
from tests.client import ServiceClient
from tests.conftest import run_command, run_service
from tests.keys import PRODUCTION


async def invoke(database_url: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(run_command, "invoke", *arguments, database_url=database_url, **variables)


async def test_a_key_is_made_used_listed_and_revoked(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrance, "HOLDS", 0.0)
    command = ("key-new", "--name", "plant a", "--role", "viewer", "--role", "Ingest", "--location", "Hall 1")
    made = await invoke(database_url, *command, "--location", "Hall 2", "--expires", "P90D")
    assert made.returncode == 0, made.stderr
    (key,) = made.stdout.splitlines()
    assert re.fullmatch(r"aurum_[0-9a-f]{8}_[0-9a-f]{64}", key)
    prefix = key.split("_")[1]
    assert key not in made.stderr

    listed = await invoke(database_url, "key-list")
    assert re.fullmatch(
        rf"{prefix}  plant a  ingest, viewer at Hall 1, Hall 2  expires \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC, "
        r"never used, made \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC by \w+\n",
        listed.stdout,
    )
    async with run_service(database_url, **PRODUCTION) as service, ServiceClient(service.url, key) as client:
        assert await client.ask("{ fleet { machines } }") == {"fleet": {"machines": 0}}
        revoked = await invoke(database_url, "key-revoke", prefix)
        assert (
            revoked.stdout == f"Revoked {prefix} (plant a): it lets nobody in any more, everywhere within 5 seconds.\n"
        )
        response = await client.http.post("/graphql", json={"query": "{ fleet { machines } }"})
        assert response.status_code == 401
    (told,) = msgspec.json.decode((await invoke(database_url, "key-list", "--json")).stdout)
    assert told["revoked_at"] is not None
    assert told["last_used_at"] is not None
    assert "digest" not in told


async def test_a_command_that_can_t_be_right_says_why(database_url: str) -> None:
    for arguments, said in [
        (("--role", "viewer"), "name must be 1 to 200 printable characters."),
        (("--name", "a"), "roles must name at least one of viewer, operator, ingest, engineer, admin."),
        (
            ("--name", "a", "--role", "root"),
            "--role is 'root': choose one of viewer, operator, ingest, engineer, admin.",
        ),
        (
            ("--name", "a", "--role", "viewer", "--expires", "90 days"),
            "--expires is '90 days': it must be an ISO 8601 duration, such as P90D.",
        ),
        (("--name", "a", "--role", "viewer", "--expires", "-P1D"), "expires must be in the future."),
        (
            ("--name", "a", "--role", "viewer", "--expires", "P3000000D"),
            "--expires is 'P3000000D', which ends after the year 9999: leave it out for no end.",
        ),
        (("--name", "a", "--role", "viewer", "--location", " "), "location must be 1 to 200 printable characters."),
    ]:
        named = arguments if "--name" in arguments else ("--name", " ", *arguments)
        done = await invoke(database_url, "key-new", *named)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"BAD_USER_INPUT: {said}\n")
    unknown = await invoke(database_url, "key-revoke", "deadbeef")
    assert (unknown.returncode, unknown.stderr) == (
        1,
        "NOT_FOUND: No key with the prefix 'deadbeef' is in use: invoke key-list shows them.\n",
    )
    assert (await invoke(database_url, "key-list")).stdout == "There is no key: invoke key-new makes one.\n"


async def test_the_database_s_url_may_come_from_a_file(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text(f"{database_url}\n")
    done = await invoke("", "key-new", "--name", "a", "--role", "admin", DATABASE_URL_FILE=str(file))
    assert done.returncode == 0, done.stderr
    both = await invoke(database_url, "key-list", DATABASE_URL_FILE=str(file))
    assert (both.returncode, both.stderr) == (
        1,
        "SETTINGS_INVALID: DATABASE_URL and DATABASE_URL_FILE are both set: leave one out.\n",
    )
