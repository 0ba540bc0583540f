"""The simulator's client, against a service that misbehaves."""

import asyncio
import itertools
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import pytest

from app.errors import SettingsError
from app.simulator import calls, client
from app.simulator.calls import Event, EventKind, ServiceRefused, ServiceUnreachable
from app.simulator.client import FaultPlan, Progress, SimulationPlan, Summary, run_simulation
from app.simulator.fault import Fault
from tests.test_simulator import DAY, MINUTE, SEED, START, make_machine


@dataclass
class Answer:
    """What the fake service does with one request instead of serving it."""

    status: int = 503
    body: bytes = b'{"code":"DATABASE_UNAVAILABLE","message":"Try again."}'
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    """Cuts the connection."""
    after: bool = False
    """Serves the request first: the answer is lost, the readings are not."""
    hang: bool = False


class FakeService:
    """Ready, GraphQL and ingest in memory, over HTTP/1.1, with mishaps: lists of Answers by path, used up in order."""

    def __init__(self) -> None:
        self.machines: dict[str, dict[str, str]] = {}
        self.readings: dict[tuple[str, int], dict[str, float]] = {}
        self.posts: list[list[tuple[str, int]]] = []
        self.arrivals: list[float] = []
        self.arrived: asyncio.Queue[int] = asyncio.Queue()
        self.mishaps: dict[str, list[Answer]] = {}
        self.rejecting: set[str] = set()
        self.hanging = asyncio.Event()
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "FakeService":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._serve(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split(" ", 2)[1]
        length = next(
            (int(line.split(":")[1]) for line in head.split("\r\n") if line.lower().startswith("content-length")), 0
        )
        body = await reader.readexactly(length)
        queue = self.mishaps.get(path, [])
        mishap = queue.pop(0) if queue else None
        if mishap is None or mishap.after:
            status, answer = self._answer(path, body)
        if mishap is not None:
            if mishap.hang:
                self.hanging.set()
                await asyncio.sleep(60)
            if mishap.drop:
                return False
            status, answer = mishap.status, mishap.body
        extra = "".join(f"{name}: {value}\r\n" for name, value in (mishap.headers if mishap else {}).items())
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(answer)}\r\n{extra}\r\n".encode() + answer)
        await writer.drain()
        return True

    def _answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        if path == "/health/ready":
            return 200, b"{}"
        request: Any = json.loads(body)
        if path == "/ingest":
            return 200, json.dumps(self._ingest(request)).encode()
        assert path == "/graphql"
        if "mutation" in request["query"]:
            fields = request["variables"]["input"]
            if fields["machineId"] in self.machines:
                error = {"message": "There is one already.", "extensions": {"code": "ALREADY_EXISTS"}}
                return 200, json.dumps({"data": None, "errors": [error]}).encode()
            self.machines[fields["machineId"]] = fields
            return 200, json.dumps({"data": {"registerMachine": {"machineId": fields["machineId"]}}}).encode()
        last = max((at for machine, at in self.readings if machine == request["variables"]["id"]), default=None)
        moment = None if last is None else (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=last)).isoformat()
        return 200, json.dumps({"data": {"machine": {"lastSeenAt": moment}}}).encode()

    def _ingest(self, batch: list[dict[str, Any]]) -> dict[str, Any]:
        counts: Counter[str] = Counter()
        rejected = []
        self.posts.append([(reading["machine_id"], reading["timestamp"]) for reading in batch])
        self.arrivals.append(time.time() * 1000)
        self.arrived.put_nowait(len(batch))
        for index, reading in enumerate(batch):
            known = (reading["machine_id"], reading["timestamp"])
            if reading["machine_id"] in self.rejecting:
                rejected.append({"index": index, "code": "UNKNOWN_MACHINE", "message": "Nobody knows it."})
            elif known not in self.readings:
                self.readings[known] = reading["metrics"]
                counts["accepted"] += 1
            else:
                counts["duplicates" if self.readings[known] == reading["metrics"] else "conflicts"] += 1
        names = ("accepted", "duplicates", "conflicts")
        return {**{name: counts[name] for name in names}, "rejected": rejected}

    def instants(self, machine_id: str) -> list[int]:
        return sorted(at for machine, at in self.readings if machine == machine_id)


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    async with FakeService() as fake:
        yield fake


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_FIRST_DELAY_S", 0.02)


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """For exact counts: no minute ends while a history is posted."""
    monkeypatch.setattr(client, "_now", lambda: START)


@dataclass
class Watcher:
    events: list[Event] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)

    async def run(self, plan: SimulationPlan) -> Summary:
        return await run_simulation(plan, on_progress=self.progress.append, on_event=self.events.append)

    def messages(self, kind: EventKind) -> list[str]:
        return [event.message for event in self.events if event.kind is kind]


async def test_a_first_run_registers_the_fleet_and_fills_in_its_history(service: FakeService) -> None:
    watcher = Watcher()
    summary = await watcher.run(SimulationPlan(service.url, seed=SEED, days=1, live=False))
    assert service.machines == {
        "TRUCK-21": {"machineId": "TRUCK-21", "machineType": "haul_truck", "location": "North Pit"},
        "MILL-3": {"machineId": "MILL-3", "machineType": "grinding_mill", "location": "Concentrator A"},
        "BOILER-7": {"machineId": "BOILER-7", "machineType": "industrial_boiler", "location": "Steam Plant 1"},
    }
    for position, machine_id in enumerate(service.machines):
        instants = service.instants(machine_id)
        # One more if a minute ended while the run went on.
        assert len(instants) in (1440, 1441)
        assert {instant % MINUTE for instant in instants} == {0}
        assert set(np.diff(instants).tolist()) == {MINUTE}
        rows = dict(make_machine(position).read(np.array(instants)).rows())
        assert rows == {instant: service.readings[machine_id, instant] for instant in instants}
    assert summary == Summary(len(service.readings), 0, 0, {}, 0)
    assert max(len(post) for post in service.posts) == 1000
    assert watcher.progress[-1].done == watcher.progress[-1].total == len(service.readings)
    assert watcher.progress[0].phase == "history"
    assert watcher.progress[0].rate > 0
    assert [event.kind for event in watcher.events] == [EventKind.READY]


async def test_the_minutes_that_go_by_while_history_is_posted_belong_to_it(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.chain([START, START], itertools.repeat(START + 3 * MINUTE))
    monkeypatch.setattr(client, "_now", lambda: next(clock))
    watcher = Watcher()
    await watcher.run(SimulationPlan(service.url, machines=1, days=0.1, live=False))
    assert service.instants("TRUCK-21") == list(range(START - 143 * MINUTE, START + 4 * MINUTE, MINUTE))
    assert [(progress.done, progress.total) for progress in watcher.progress] == [(144, 144), (147, 147)]


async def test_a_second_run_fills_in_only_the_time_between(service: FakeService) -> None:
    plan = SimulationPlan(service.url, seed=SEED, days=0.5, live=False)
    await Watcher().run(plan)
    everything = dict(service.readings)
    newest = max(instant for _, instant in everything)
    missing = [key for key in everything if key[1] > newest - 120 * MINUTE]
    for key in missing:
        del service.readings[key]
    watcher = Watcher()
    summary = await watcher.run(plan)
    assert service.readings.items() >= everything.items()
    assert (summary.accepted - len(missing)) in (0, 3)
    assert summary.duplicates == summary.conflicts == 0
    assert watcher.messages(EventKind.RESUMED)[0].startswith("3 of 3 machines go on from their last reading, the first")


async def test_a_backfill_that_was_interrupted_leaves_no_hole_behind(service: FakeService) -> None:
    service.mishaps["/ingest"] = [Answer(hang=True, after=True), Answer(hang=True)]
    plan = SimulationPlan(service.url, days=2, live=False)
    interrupted = asyncio.create_task(Watcher().run(plan))
    for _ in range(3):
        await service.arrived.get()
    interrupted.cancel()
    with pytest.raises(asyncio.CancelledError):
        await interrupted
    summary = await Watcher().run(plan)
    assert summary.duplicates == 0
    for machine_id in service.machines:
        assert set(np.diff(service.instants(machine_id)).tolist()) == {MINUTE}
        assert len(service.instants(machine_id)) in (2880, 2881)


async def test_a_service_that_says_later_is_asked_again_when_it_said(service: FakeService) -> None:
    service.mishaps["/ingest"] = [Answer(headers={"Retry-After": "1"}), Answer(status=429, body=b"slow down")]
    watcher = Watcher()
    began = time.monotonic()
    summary = await watcher.run(SimulationPlan(service.url, machines=1, days=0.1, live=False))
    assert time.monotonic() - began >= 1
    assert watcher.messages(EventKind.RETRYING) == [
        "HTTP 503 DATABASE_UNAVAILABLE: Try again.; trying again in 1 s.",
        "HTTP 429 slow down; trying again in 0.04 s.",
    ]
    assert summary == Summary(len(service.readings), 0, 0, {}, 2)
    assert summary.accepted in (144, 145)


def test_a_retry_after_may_be_a_date_and_nonsense_is_passed_over() -> None:
    def read(value: str) -> float | None:
        return calls._read_retry_after(httpx.Response(503, headers={"Retry-After": value}))

    soon = (datetime.now(UTC) + timedelta(seconds=30)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    before = time.time()
    waiting = read(soon)
    assert waiting is not None
    moment = datetime.strptime(soon, "%a, %d %b %Y %H:%M:%S %Z").replace(tzinfo=UTC).timestamp()
    assert moment - time.time() <= waiting <= moment - before
    assert read("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert read("soon") is None


async def test_an_answer_that_is_lost_on_the_way_loses_and_doubles_nothing(
    service: FakeService, stopped_clock: None
) -> None:
    service.mishaps["/ingest"] = [Answer(drop=True), Answer(drop=True, after=True)]
    service.mishaps["/graphql"] = [Answer(drop=True, after=True)]
    watcher = Watcher()
    summary = await watcher.run(SimulationPlan(service.url, machines=1, days=0.1, live=False))
    assert (summary.duplicates, summary.conflicts, summary.rejected, summary.retries) == (144, 0, {}, 3)
    assert (summary.accepted, len(service.readings)) == (0, 144)
    assert len(watcher.messages(EventKind.RETRYING)) == 3


async def test_graphql_without_its_database_is_asked_again(service: FakeService) -> None:
    error = {"message": "The database is away.", "extensions": {"code": "DATABASE_UNAVAILABLE"}}
    service.mishaps["/graphql"] = [Answer(status=200, body=json.dumps({"errors": [error]}).encode())]
    watcher = Watcher()
    assert (await watcher.run(SimulationPlan(service.url, machines=1, days=0, live=False))).retries == 1
    expected = "DATABASE_UNAVAILABLE: The database is away.; trying again in 0.02 s."
    assert watcher.messages(EventKind.RETRYING) == [expected]
    assert list(service.machines) == ["TRUCK-21"]


@pytest.mark.parametrize("status", [200, 400])
async def test_a_refused_registration_ends_the_run_with_its_code(service: FakeService, status: int) -> None:
    error = {"message": "No such location.", "extensions": {"code": "BAD_USER_INPUT"}}
    service.mishaps["/graphql"] = [Answer(status=status, body=json.dumps({"errors": [error]}).encode())]
    with pytest.raises(ServiceRefused, match=r"^/graphql refused: BAD_USER_INPUT: No such location\.$"):
        await Watcher().run(SimulationPlan(service.url))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            Answer(401, b'{"code":"UNAUTHENTICATED","message":"Who?"}'),
            "/ingest refused: HTTP 401 UNAUTHENTICATED: Who?",
        ),
        (Answer(404, b'{"status_code":404,"detail":"Not Found"}'), "/ingest refused: HTTP 404 Not Found"),
        (Answer(500, b"<h1>Oops</h1>"), "/ingest refused: HTTP 500 <h1>Oops</h1>"),
        (Answer(200, b"<h1>Hello</h1>"), "answered something else than AurumAI does"),
    ],
)
async def test_a_refused_batch_ends_the_run(service: FakeService, answer: Answer, message: str) -> None:
    service.mishaps["/ingest"] = [answer]
    with pytest.raises(ServiceRefused) as refused:
        await Watcher().run(SimulationPlan(service.url, machines=4, days=3))
    assert message in str(refused.value)


async def test_rejected_readings_and_conflicts_are_counted_and_told(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.rejecting = {"MILL-3"}
    minute = int(time.time()) // 60 * MINUTE
    service.readings["TRUCK-21", minute - 30 * MINUTE] = {"rpm": 1.0}
    watcher = Watcher()

    async def forget(_self: calls.Calls, _machine_id: str) -> None:
        return None

    monkeypatch.setattr(calls.Calls, "find_last_seen", forget)
    summary = await watcher.run(SimulationPlan(service.url, days=0.1, live=False))
    assert summary.rejected["UNKNOWN_MACHINE"] in (144, 145)
    assert summary.conflicts == 1
    assert service.readings["TRUCK-21", minute - 30 * MINUTE] == {"rpm": 1.0}
    assert "readings rejected: UNKNOWN_MACHINE: Nobody knows it." in watcher.messages(EventKind.REJECTED)[0]
    assert watcher.messages(EventKind.CONFLICTS)[0].endswith(
        " readings were there already with other values, which stay."
    )


async def test_an_answer_that_does_not_add_up_is_told(service: FakeService) -> None:
    service.mishaps["/ingest"] = [Answer(200, b'{"accepted":3,"duplicates":0,"conflicts":0,"rejected":[]}')]
    watcher = Watcher()
    await watcher.run(SimulationPlan(service.url, machines=1, days=0.1, live=False))
    assert watcher.messages(EventKind.UNACCOUNTED)[0].endswith("readings sent, but the answer counts 3.")


async def test_a_service_that_is_not_there_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "READY_PATIENCE_S", 1.0)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and listens to nobody
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(ServiceUnreachable, match=rf"^{url}/? was not ready within 1 s \(ConnectError"):
            await Watcher().run(SimulationPlan(url))


async def test_a_service_that_starts_is_waited_for(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    service.mishaps["/health/ready"] = [Answer()]
    await Watcher().run(SimulationPlan(service.url, days=0, live=False))
    monkeypatch.setattr(calls, "READY_PATIENCE_S", 1.0)
    service.mishaps["/health/ready"] = [Answer()] * 10
    with pytest.raises(ServiceUnreachable, match=r"\(HTTP 503 DATABASE_UNAVAILABLE: Try again\.\)"):
        await Watcher().run(SimulationPlan(service.url))


async def test_live_posts_rate_readings_a_second_and_none_from_the_future(service: FakeService) -> None:
    watcher = Watcher()
    summary = await watcher.run(SimulationPlan(service.url, days=0.01, rate=50, duration=1))
    live = {machine: [at for at in service.instants(machine) if at % MINUTE] for machine in service.machines}
    for machine_id, instants in live.items():
        assert len(instants) in (49, 50, 51), machine_id
        assert set(np.diff(instants).tolist()) <= {20, 40}
    assert len({tuple(instants) for instants in live.values()}) == 1
    assert summary.accepted == len(service.readings)
    assert summary.duplicates == 0
    for post, arrived in zip(service.posts, service.arrivals, strict=True):
        assert max(at for _, at in post) <= arrived
    # One POST for all machines ten times a second, not one for each reading.
    live_posts = [post for post in service.posts if {machine for machine, _ in post} == set(service.machines)]
    assert len(live_posts) <= 13
    assert watcher.progress[-1].phase == "live"
    assert watcher.progress[-1].total is None
    assert watcher.messages(EventKind.LIVE)[0].startswith("Live from ")


async def test_what_comes_due_while_the_service_is_away_is_posted_when_it_is_back(service: FakeService) -> None:
    plan = SimulationPlan(service.url, machines=2, days=0, rate=20, duration=4)
    run = asyncio.create_task(Watcher().run(plan))
    for _ in range(3):
        await service.arrived.get()
    service.mishaps["/ingest"] = [Answer(headers={"Retry-After": "0"}), Answer(drop=True), Answer(), Answer(), Answer()]
    summary = await run
    assert summary.retries == 5
    for machine_id in service.machines:
        assert set(np.diff(service.instants(machine_id)).tolist()) == {50}
        assert len(service.instants(machine_id)) in (79, 80, 81)


async def test_live_goes_on_from_its_own_last_reading(service: FakeService) -> None:
    plan = SimulationPlan(service.url, machines=1, days=0.01, rate=50, duration=0.3)
    await Watcher().run(plan)
    summary = await Watcher().run(plan)
    assert summary.duplicates == 0
    assert summary.conflicts == 0


async def test_a_fault_begins_when_the_simulation_goes_live(service: FakeService) -> None:
    fault = FaultPlan(Fault.SENSOR_STUCK, machine_id="MILL-3")
    watcher = Watcher()
    await watcher.run(SimulationPlan(service.url, days=0.02, rate=50, duration=0.6, fault=fault))
    assert watcher.messages(EventKind.FAULT)[0].startswith("sensor_stuck on MILL-3 from 20")
    live = {
        machine: {service.readings[machine, at]["vibration"] for at in service.instants(machine) if at % MINUTE}
        for machine in service.machines
    }
    assert len(live["MILL-3"]) == 1
    assert len(live["TRUCK-21"]) > 1
    history = {service.readings["MILL-3", at]["vibration"] for at in service.instants("MILL-3") if at % MINUTE == 0}
    assert len(history) > 5


async def test_a_fault_in_the_past_shows_in_the_history(service: FakeService) -> None:
    start = datetime.now(UTC) - timedelta(hours=1)
    plan = SimulationPlan(service.url, days=0.1, live=False, fault=FaultPlan(Fault.DROPOUT, start=start))
    watcher = Watcher()
    summary = await watcher.run(plan)
    assert len(service.instants("TRUCK-21")) in range(83, 88)
    assert len(service.instants("MILL-3")) in (144, 145)
    assert summary.accepted == len(service.readings)
    assert watcher.progress[-1].done == watcher.progress[-1].total


async def test_cancelling_ends_at_once_with_a_request_in_flight(service: FakeService) -> None:
    service.mishaps["/ingest"] = [Answer(hang=True)]
    before = asyncio.all_tasks()
    run = asyncio.create_task(Watcher().run(SimulationPlan(service.url, machines=1, days=1)))
    await service.hanging.wait()
    began = time.monotonic()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert time.monotonic() - began < 20  # and not after the 30 s in which an answer would have to come
    assert {task for task in asyncio.all_tasks() - before if not task.done()} <= service._tasks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "localhost:8000"}, "begins with http:// or https://"),
        ({"machines": 0}, "one machine or more, not 0"),
        ({"days": -1}, "0 to 3650 days of history, not -1"),
        ({"days": float("nan")}, "0 to 3650 days of history, not nan"),
        ({"rate": 0}, "1/60 to 1000 readings per machine and second, not 0"),
        ({"rate": 5000}, "1/60 to 1000 readings per machine and second, not 5000"),
        ({"fault": FaultPlan(Fault.DROPOUT, "PUMP-1")}, "PUMP-1 is not in the fleet: TRUCK-21, MILL-3, BOILER-7"),
        ({"fault": FaultPlan(Fault.DROPOUT), "live": False}, "needs a start"),
        ({"fault": FaultPlan(Fault.DROPOUT, start=datetime(2026, 1, 1))}, "needs an offset"),  # noqa: DTZ001 - naive on purpose
    ],
)
def test_a_plan_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        SimulationPlan(**{"url": "http://localhost:8000", **changes})


def test_the_history_of_a_plan_comes_in_batches_on_the_grid() -> None:
    assert client._find_due(START, START + 3 * MINUTE, MINUTE).tolist() == [START + k * MINUTE for k in (1, 2, 3)]
    assert client._find_due(START - 1, START, MINUTE).tolist() == [START]
    assert client._find_due(START, START, MINUTE).tolist() == []
    assert len(client._find_due(START, START + DAY, MINUTE)) == 1000
