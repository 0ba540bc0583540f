"""Processes of the service on one database, behind HAProxy: three with the configuration of `deploy/`, two with a simpler one."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT, find_program, make_environ
from tests.ports import find_free_port

DEPLOYED = ROOT / "deploy" / "haproxy.cfg"
ONCE = ROOT / "tests" / "haproxy-once.cfg"
PATIENCE = 120  # seconds for a process to start or to end


class Member:
    """One process, as `invoke serve` starts it. `start` after `stop` makes another one in its place."""

    def __init__(self, database_url: str, drain: str, **variables: str) -> None:
        self.port = find_free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environ = make_environ(
            DATABASE_URL=database_url,
            AURUM_PORT=str(self.port),
            AURUM_LOG_LEVEL="warning",
            AURUM_TRUSTED_PROXIES="127.0.0.1",
            AURUM_DRAIN=drain,
            AURUM_POOL_SIZE="5",
            **variables,
        )
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Comes back when it is ready."""
        self._process = await asyncio.create_subprocess_exec(
            find_program("invoke"),
            "serve",
            cwd=ROOT,
            env=self._environ,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(PATIENCE):
            while True:
                assert self._process.returncode is None, (await self._process.communicate())[1].decode()
                try:
                    if (await http.get(f"{self.url}/health/ready")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)

    def tell_to_stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    async def stop(self) -> str:
        """Tells it to stop, and comes back with what it logged once it has ended in order."""
        assert self._process is not None
        self.tell_to_stop()
        _, output = await asyncio.wait_for(self._process.communicate(), PATIENCE)
        assert self._process.returncode in {0, -signal.SIGTERM, 128 + signal.SIGTERM}, output.decode()
        return output.decode()

    async def end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.communicate()

    async def count_requests(self, route: str) -> int:
        """How many requests of a route it has answered."""
        async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
            lines = (await http.get(f"{self.url}/metrics")).text.splitlines()
        wanted = "aurumai_http_request_duration_seconds_count{"
        counts = [line for line in lines if line.startswith(wanted) and f'route="{route}"' in line]
        return sum(int(float(line.rpartition(" ")[2])) for line in counts)


class Cluster:
    """`url` is the proxy's."""

    def __init__(self, port: int, stats: int, members: list[Member]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._stats = f"http://127.0.0.1:{stats}/;csv"
        self.members = members

    async def wait_until_up(self, many: int) -> None:
        """Until the proxy sends requests to that many processes, by its own account."""
        async with httpx.AsyncClient(timeout=30, trust_env=False) as http, asyncio.timeout(PATIENCE):
            while True:
                lines = (await http.get(self._stats)).text.splitlines()
                names = lines[0].removeprefix("# ").split(",")
                rows = [dict(zip(names, line.split(","), strict=False)) for line in lines[1:] if line]
                up = [row["svname"] for row in rows if row["pxname"] == "processes" and row["status"].startswith("UP")]
                if len(up) - ("BACKEND" in up) == many:
                    return
                await asyncio.sleep(0.05)


@asynccontextmanager
async def run_cluster(database_url: str, drain: str = "PT3S", **variables: str) -> AsyncIterator[Cluster]:
    """Three processes behind the proxy, for as long as the block lasts. Skips the test where there is no HAProxy."""
    async with _run(DEPLOYED, [Member(database_url, drain, **variables) for _ in range(3)]) as cluster:
        yield cluster


@asynccontextmanager
async def run_simple_cluster(database_url: str, drain: str, check: str) -> AsyncIterator[Cluster]:
    """Two processes behind a proxy that sends each request once, and looks at them every `check`."""
    async with _run(ONCE, [Member(database_url, drain) for _ in range(2)], AURUM_CHECK=check) as cluster:
        yield cluster


@asynccontextmanager
async def _run(configuration: Path, members: list[Member], **variables: str) -> AsyncIterator[Cluster]:
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if program is None:
        pytest.skip("There is no HAProxy here: apt-get install haproxy.")
    async with AsyncExitStack() as stack:
        for member in members:
            stack.push_async_callback(member.end)
        await asyncio.gather(*(member.start() for member in members))
        port, stats = find_free_port(), find_free_port()
        addresses = {f"AURUM_{name}": f"127.0.0.1:{member.port}" for name, member in zip("ABC", members, strict=False)}
        binds = {"AURUM_BIND": f"127.0.0.1:{port}", "AURUM_STATS": f"127.0.0.1:{stats}"}
        proxy = await asyncio.create_subprocess_exec(
            program,
            "-db",
            "-q",
            "-f",
            str(configuration),
            "-f",
            str(ROOT / "tests" / "haproxy-stats.cfg"),
            env={**os.environ, **binds, **addresses, **variables},
        )
        stack.push_async_callback(_end, proxy)
        cluster = Cluster(port, stats, members)
        await _wait_for_port(port, proxy)
        await cluster.wait_until_up(len(members))
        yield cluster


async def _wait_for_port(port: int, proxy: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            assert proxy.returncode is None, "HAProxy did not start"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()
