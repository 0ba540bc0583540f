"""Secrets stay where they were put: not in the log at its most talkative, in answers, in metrics, or in lists of processes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import msgspec
import websockets

from app.access.roles import Role
from tests.conftest import run_command
from tests.keys import PRODUCTION, make
from tests.ports import find_free_port
from tests.test_startup import start, wait_until_ready
from tests.test_tokens import say, sign

SECRET = "the-secret-that-tokens-are-signed-with"
PASSWORD = "a-password-of-the-database"


def add_password(url: str) -> tuple[str, str]:
    """The same database by a URL with a password, and that. A server that trusts everybody looks at none."""
    parts = urlsplit(url)
    if parts.password:
        return url, parts.password
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}:{PASSWORD}@{host}").geturl(), PASSWORD


async def test_no_secret_is_ever_shown(
    database_url: str, connection: asyncpg.Connection[asyncpg.Record], tmp_path: Path
) -> None:
    key = await make(connection, Role.ADMIN)
    revoked = await make(connection, Role.ADMIN)
    await connection.execute("UPDATE api_keys SET revoked_at = now() WHERE prefix = $1", revoked.split("_")[1])
    token, stale = sign(say(roles=["admin"]), SECRET), sign(say(exp=1), SECRET)
    wrong = key[:-8] + "deadbeef"
    secret_file = tmp_path / "secret"
    secret_file.write_text(SECRET)
    port = find_free_port()
    command = ["uvicorn", "--factory", "app.main:create_app", "--port", "{port}", "--log-level", "trace"]
    shown: list[str] = []
    variables = {"AURUM_LOG_LEVEL": "debug", "AURUM_JWT_SECRET_FILE": str(secret_file)}
    url, password = add_password(database_url)
    with start(command, port, DATABASE_URL=url, **PRODUCTION, **variables) as process:
        assert process.stdout is not None
        reading = asyncio.create_task(asyncio.to_thread(process.stdout.read))  # from the beginning, or the pipe is full
        await wait_until_ready(port)
        base = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=30) as http:
            for credentials in (key, revoked, token, stale, wrong):
                for headers in ({"authorization": f"Bearer {credentials}"}, {"x-api-key": credentials}):
                    for path in ("/graphql", "/ingest"):
                        body = {"query": "{ fleet { machines } nothing }"} if path == "/graphql" else [1]
                        answer = await http.post(path, json=body, headers=headers)
                        shown.append(answer.text + str(answer.headers))
                    for path in ("/metrics", "/health/ready", "/nowhere"):
                        answer = await http.get(path, headers=headers)
                        shown.append(answer.text + str(answer.headers))
                shown.append(await open_socket(port, credentials))
            assert any("process_" in text for text in shown)  # the metrics
            # One that nobody foresaw.
            await connection.execute("ALTER TABLE machines RENAME TO elsewhere")
            bug = await http.post("/graphql", json={"query": "{ fleet { machines } }"}, headers={"x-api-key": key})
            assert bug.json()["errors"][0]["extensions"]["code"] == "INTERNAL"
        shown += read_commands(process.pid)
        process.terminate()
        log = await reading
    assert "Unforeseen error" in log
    everything = "\n".join([*shown, log])
    for secret in (key, revoked, wrong, token, stale, SECRET, password):
        assert secret not in everything, secret[:12]
    assert key.rpartition("_")[2] not in everything


def read_commands(pid: int) -> list[str]:
    """How the process and those that it began were called."""
    begun = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    called = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return [called, *(command for child in begun for command in read_commands(int(child)))]


async def open_socket(port: int, credentials: str) -> str:
    async with websockets.connect(
        f"ws://127.0.0.1:{port}/graphql", subprotocols=[websockets.Subprotocol("graphql-transport-ws")], proxy=None
    ) as socket:
        payload = {"authorization": f"Bearer {credentials}"}
        await socket.send(msgspec.json.encode({"type": "connection_init", "payload": payload}).decode())
        try:
            return str(await socket.recv())
        except websockets.ConnectionClosed as closed:
            return str(closed)


async def test_a_command_that_fails_shows_no_secret(database_url: str) -> None:
    for url in (f"postgresql://aurum:{PASSWORD}@127.0.0.1:1/aurum", f"mysql://aurum:{PASSWORD}@x/y"):
        done = await asyncio.to_thread(run_command, "invoke", "key-list", database_url=url, AURUM_JWT_SECRET=SECRET)
        assert done.returncode == 1
        for secret in (PASSWORD, SECRET):
            assert secret not in done.stdout + done.stderr
