"""The commands of compose.yaml's services, run as a container would run them."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from tests.conftest import make_database
from tests.containers import COMPOSE, Image, require_namespaces
from tests.faults.proxy import Proxy
from tests.ports import find_free_port


@pytest.fixture
async def image(server_url: str, tmp_path: Path) -> AsyncIterator[Image]:
    """On an empty database, which is reached over TCP, since a container sees no socket of this machine."""
    require_namespaces()
    async with make_database(server_url) as url:
        proxy = Proxy(url)
        async with proxy.run():
            yield Image(tmp_path, {"database_url": proxy.url, "postgres_password": "x"})


async def finish(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    output, _ = await asyncio.wait_for(process.communicate(), 90)
    return process.returncode, output.decode()


async def has_timescale(server_url: str) -> bool:
    connection = await asyncpg.connect(server_url)
    try:
        return bool(await connection.fetchval("SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb'"))
    finally:
        await connection.close()


@pytest.mark.timeout(600)
async def test_migrate_serve_probe_back_up_and_stop_as_in_production(image: Image, server_url: str) -> None:
    # The server that tests run on may have no TimescaleDB, which production requires; all else is as it is there.
    edition = {} if await has_timescale(server_url) else {"AURUM_TIMESCALE": "auto"}
    port = find_free_port()
    own = {**edition, "AURUM_PORT": str(port)}

    code, output = await finish(await image.run("app", **own))
    assert code == 3, output
    # The extension comes with the first migration, where the server has it.
    assert ("SCHEMA_BEHIND" if edition else "TIMESCALE_REQUIRED") in output
    probe = ("python", "-m", "app.ops.probe")
    code, output = await finish(await image.run("app", *probe, **own))
    assert code == 1
    assert f"The service does not answer on port {port}" in output

    code, output = await finish(await image.run("migrate", **edition))
    assert code == 0, output
    code, output = await finish(await image.run("migrate", **edition))
    assert code == 0, output

    # Nobody could be let in yet.
    code, output = await finish(await image.run("app", **own))
    assert code == 3, output
    assert "ACCESS_UNCONFIGURED" in output
    code, output = await finish(
        await image.run("app", "invoke", "key-new", "--name", "plant", "--role", "viewer", **own)
    )
    assert code == 0, output
    key = output.split()[-1]

    serving = await image.run("app", **own)
    try:
        await use(serving, port, key)
        code, output = await finish(await image.run("app", *probe, **own))
        assert (code, output) == (0, "")
        code, output = await finish(await image.run("app", "touch", "/srv/aurumai/x", "/x", "/run/x"))
        assert (code, output.count("Read-only file system")) == (1, 3)

        code, output = await finish(await image.run("backup", **edition))
        assert code == 0, output
        assert sorted(path.suffix for path in image.backups.iterdir()) == [".dump", ".json"]

        serving.send_signal(signal.SIGTERM)
        async with asyncio.timeout(int(COMPOSE["services"]["app"]["stop_grace_period"].removesuffix("s"))):
            output = (await serving.communicate())[0].decode()
        assert serving.returncode in {0, 128 + signal.SIGTERM, -signal.SIGTERM}, output
        assert "Traceback" not in output
    finally:
        if serving.returncode is None:
            serving.kill()
            await serving.communicate()


async def use(serving: asyncio.subprocess.Process, port: int, key: str) -> None:
    """The service as whoever it is, and what it lets in."""
    address = f"http://127.0.0.1:{port}"
    async with asyncio.timeout(60), httpx.AsyncClient(base_url=address, timeout=30, trust_env=False) as http:
        while True:
            assert serving.returncode is None, (await serving.communicate())[0].decode()
            try:
                if (await http.get("/health/ready")).status_code == 200:
                    break
            except httpx.TransportError:
                await asyncio.sleep(0.1)
        status = await asyncio.to_thread(Path(f"/proc/{serving.pid}/status").read_text)
        assert re.search(r"^Uid:\s+10001\s+10001", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
        asked = {"query": "{ machines { totalCount } }"}
        assert (await http.post("/graphql", json=asked)).status_code == 401
        answer = await http.post("/graphql", json=asked, headers={"authorization": f"Bearer {key}"})
        assert answer.json()["data"] == {"machines": {"totalCount": 0}}
        # Names that it isn't known by are refused, and GraphiQL is not for everybody.
        assert (await http.post("/graphql", headers={"host": "evil.example"})).status_code == 400
        assert (await http.get("/graphql", headers={"accept": "text/html"})).status_code >= 400
