"""`invoke demo` from an empty folder to Ctrl-C, a second run, a kill -9, and what stands in its way."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.client import ServiceClient
from tests.conftest import ROOT, find_program, make_environ
from tests.ports import find_free_port

QUERY = "{ fleet { machines live } measurements(first: 1) { totalCount } machines { nodes { machineId createdAt } } }"
LOGGED = re.compile(r"\d{4}-\d\d-\d\d \d\d:")  # a line of the log, such as one of a request that took long
WEEK = 7 * 24 * 60  # readings of a machine, one a minute


def list_processes(data_dir: Path) -> list[str]:
    """The commands that name the data directory: PostgreSQL's and its keeper's."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(data_dir) in command:
            found.append(command)
    return found


def wait_until_gone(data_dir: Path) -> None:
    deadline = time.monotonic() + 90
    while list_processes(data_dir):
        assert time.monotonic() < deadline, list_processes(data_dir)
        time.sleep(0.05)


class Demo:
    def __init__(self, data_dir: Path, port: int) -> None:
        self.port = port
        self.log = data_dir.parent / "demo.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [find_program("invoke"), "demo"],
                cwd=ROOT,
                env=make_environ(AURUM_DATA_DIR=str(data_dir), AURUM_PORT=str(port)),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_for(self, text: str, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=90)


@contextmanager
def run_demo(data_dir: Path, port: int) -> Iterator[Demo]:
    demo = Demo(data_dir, port)
    try:
        yield demo
    finally:
        demo.process.kill()
        demo.process.wait()


@pytest.mark.timeout(900)
async def test_the_demo_runs_stops_goes_on_and_survives_a_kill(tmp_path: Path) -> None:
    data_dir = tmp_path / ".aurum"
    port = find_free_port()
    url = f"http://127.0.0.1:{port}"

    with run_demo(data_dir, port) as demo:
        await asyncio.to_thread(demo.wait_for, "Live from")
        async with ServiceClient(url) as client:
            async with asyncio.timeout(60):
                # Where it took minutes to fill in the history, its end is no sign of life.
                while (first := await client.ask(QUERY))["fleet"] != {"machines": 3, "live": 3}:  # noqa: ASYNC110 - of another process
                    await asyncio.sleep(0.1)
            assert [machine["machineId"] for machine in first["machines"]["nodes"]] == [
                "BOILER-7",
                "MILL-3",
                "TRUCK-21",
            ]
            assert first["measurements"]["totalCount"] >= 3 * WEEK
            async with client.subscribe("subscription { measurements { measurements { machineId } } }") as live:
                batch = await live.next()
            assert {"BOILER-7", "MILL-3", "TRUCK-21"} == {each["machineId"] for each in batch["measurements"]}
        assert await asyncio.to_thread(demo.end, signal.SIGINT) == 0
        output = demo.log.read_text()
        assert [line for line in output.splitlines() if not LOGGED.match(line)][-2:] == ["Stopping.", "Stopped."]
        assert "Traceback" not in output
        assert f"curl -s {url}/graphql" in output
        await asyncio.to_thread(wait_until_gone, data_dir)

    with run_demo(data_dir, port) as demo:
        await asyncio.to_thread(demo.wait_for, "Live from")
        async with ServiceClient(url) as client:
            second = await client.ask(QUERY)
        assert second["machines"] == first["machines"]
        assert second["measurements"]["totalCount"] > first["measurements"]["totalCount"]
        assert second["measurements"]["totalCount"] < first["measurements"]["totalCount"] + 1000
        demo.end(signal.SIGKILL)
        await asyncio.to_thread(wait_until_gone, data_dir)

    with run_demo(data_dir, port) as demo:
        await asyncio.to_thread(demo.wait_for, "Live from")
        async with ServiceClient(url) as client:
            third = await client.ask(QUERY)
        assert third["machines"] == first["machines"]
        assert third["measurements"]["totalCount"] >= second["measurements"]["totalCount"]
        assert await asyncio.to_thread(demo.end, signal.SIGTERM) == 0
        await asyncio.to_thread(wait_until_gone, data_dir)


@pytest.mark.timeout(900)
async def test_ctrl_c_while_the_service_starts_ends_the_demo_in_order(tmp_path: Path) -> None:
    data_dir = tmp_path / ".aurum"
    for delay in (0.0, 0.05, 0.1, 0.2, 0.4):
        with run_demo(data_dir, find_free_port()) as demo:
            await asyncio.to_thread(demo.wait_for, "Embedded PostgreSQL")
            await asyncio.sleep(delay)
            code = await asyncio.to_thread(demo.end, signal.SIGINT)
            output = demo.log.read_text()
            assert "Traceback" not in output
            assert code in (0, 128 + signal.SIGINT), output
            await asyncio.to_thread(wait_until_gone, data_dir)


async def refuse(data_dir: Path, port: int) -> str:
    with run_demo(data_dir, port) as demo:
        assert await asyncio.to_thread(demo.process.wait, 180) == 1
        output = demo.log.read_text()
    assert "Traceback" not in output
    await asyncio.to_thread(wait_until_gone, data_dir)
    return output.splitlines()[-1]


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert await refuse(tmp_path / ".aurum", port) == (
            f"SETTINGS_INVALID: Port {port} on 127.0.0.1 can't be used (Address already in use): "
            "end what uses it, or set AURUM_PORT to another."
        )
    assert not (tmp_path / ".aurum").exists()


async def test_a_data_directory_of_another_version_is_named(tmp_path: Path) -> None:
    cluster = tmp_path / ".aurum" / "postgres"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("12\n")
    message = await refuse(tmp_path / ".aurum", find_free_port())
    assert message.startswith("EMBEDDED_SERVER: ")
    assert str(cluster) in message
    assert "12" in message
