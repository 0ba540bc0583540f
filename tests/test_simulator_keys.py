"""`invoke simulate` against a service that asks who it is: what it sends, and what it says where that isn't enough."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from app.access.roles import Role
from app.errors import SettingsError
from app.settings import load_settings
from app.simulator.client import SimulationPlan
from tests.conftest import ROOT, find_program, make_environ, run_command, run_service
from tests.keys import PRODUCTION, make

WAY_IN = (
    "Set AURUM_API_KEY, or AURUM_API_KEY_FILE, to a key of its roles engineer and ingest, of no locations: "
    "invoke key-new --name simulator --role engineer --role ingest makes one."
)


async def test_a_simulation_sends_the_key_of_a_file_that_no_list_of_processes_shows(
    database_url: str, connection: asyncpg.Connection[asyncpg.Record], tmp_path: Path
) -> None:
    file = tmp_path / "key"
    key = await make(connection, Role.ENGINEER, Role.INGEST)
    file.write_text(f"{key}\n")
    async with run_service(database_url, **PRODUCTION) as service:
        process = await asyncio.create_subprocess_exec(
            *(find_program("invoke"), "simulate", "--machines", "1", "--days", "0.01", "--url", service.url),
            cwd=ROOT,
            env=make_environ(AURUM_API_KEY_FILE=str(file)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert process.stdout is not None
        said = b""
        try:
            async with asyncio.timeout(60):
                while b"Live from" not in said:
                    line = await process.stdout.readline()
                    assert line, said
                    said += line
            shown = await asyncio.to_thread(Path(f"/proc/{process.pid}/cmdline").read_bytes)
        finally:
            process.terminate()
            await process.wait()
    assert key.encode() not in shown + said
    assert await connection.fetchval("SELECT count(*) FROM raw_measurements WHERE machine_id = 'TRUCK-21'") > 10
    assert await connection.fetchval("SELECT DISTINCT actor FROM audit WHERE subject = 'TRUCK-21'") == "key:test"


async def test_a_simulation_says_what_its_key_lacks_and_ends_at_once(
    database_url: str, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    roles = {"AURUM_API_KEY": await make(connection, Role.INGEST)}
    places = {"AURUM_API_KEY": await make(connection, Role.ENGINEER, Role.INGEST, locations=("Hall 2",))}
    wrong = {"AURUM_API_KEY": "aurum_00000000_" + "0" * 64}
    async with run_service(database_url, **PRODUCTION) as service:

        async def simulate(**variables: str) -> str:
            command = ("invoke", "simulate", "--machines", "1", "--days", "0", "--url", service.url)
            done = await asyncio.to_thread(run_command, *command, database_url=database_url, **variables)
            assert done.returncode == 1
            return done.stderr.strip().splitlines()[-1]

        said = await asyncio.gather(simulate(), simulate(**wrong), simulate(**roles), simulate(**places))
    assert list(said) == [
        "SERVICE_REFUSED: /graphql refused: UNAUTHENTICATED: Say who you are: send Authorization: Bearer with an API key or a "
        f"token, or X-API-Key. {WAY_IN}",
        "SERVICE_REFUSED: /health/ready refused: HTTP 401 UNAUTHENTICATED: The API key is not one of this service. "
        f"{WAY_IN}",
        "SERVICE_REFUSED: /graphql refused: FORBIDDEN: Mutation.registerMachine is for engineer and admin, and key:test is "
        f"none of these. {WAY_IN}",
        "SERVICE_REFUSED: /graphql refused: FORBIDDEN: key:test is bound to other locations than 'North Pit'. "
        f"{WAY_IN}",
    ]


@pytest.mark.parametrize("given", ["two words", "aurum_key\nX-Other: 1", "schlüssel"])
def test_a_key_that_no_header_could_hold_is_refused_and_not_shown(given: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({"AURUM_API_KEY": given})
    sentence = "AURUM_API_KEY is a secret, not shown: it must be a key or a token alone, as it was printed."
    assert str(refused.value) == sentence


def test_a_plan_does_not_show_its_key() -> None:
    assert "aurum_key" not in repr(SimulationPlan("http://127.0.0.1", api_key="aurum_key"))
