"""run_simulation: a fleet registers, fills in its history and goes on live. It prints nothing; callbacks tell.

Time. History has a reading per machine and minute, live `rate` readings per machine and second; both lie on grids of
whole multiples since 1970, and a reading's values depend on its instant alone, so live goes on where history ends, and
any rate shows the same machines, only more finely. A higher rate doesn't run ahead of the clock: instants are real
ones, never in the future. What comes due while the service is away is posted once it is back.

Order. Each machine's history is posted in order, one batch at a time (up to IN_FLIGHT machines at once), and live
after it. So wherever a run is stopped, a machine's newest reading at the service is where the next run goes on: it
asks for it and fills in the time between, minute by minute, as far back as the plan's `days`.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpx
import numpy as np

from app.errors import SettingsError
from app.simulator.calls import Calls, Event, EventKind, Receipt, WireReading, to_millis
from app.simulator.fault import Fault
from app.simulator.faults import ActiveFault, choose_machine
from app.simulator.noise import IntArray
from app.simulator.profiles import make_fleet
from app.simulator.signals import SimulatedMachine

HISTORY_STEP_MS = 60_000
BATCH = 1000
IN_FLIGHT = 4
_SHORTEST_TICK_MS = 100
_DAY_MS = 86_400_000


@dataclass(frozen=True)
class FaultPlan:
    """`machine_id` None: the first machine it is typical of. `start` None: when the simulation goes live."""

    kind: Fault
    machine_id: str | None = None
    start: datetime | None = None


@dataclass(frozen=True)
class SimulationPlan:
    """What to simulate.

    `api_key` is a key or a token, None where nobody is asked; `days` of history for a machine without readings; `rate` in live readings per machine and second, 1/60 to 1000;
    `live` False ends after the history; `duration` ends the live part after so many seconds, None never does.
    Raises SettingsError for what can't be.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    machines: int = 3
    seed: int = 21
    days: float = 7
    rate: float = 1
    fault: FaultPlan | None = None
    live: bool = True
    duration: float | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise SettingsError(f"The service's URL begins with http:// or https://, {self.url!r} does not.")
        try:
            host, port = urlsplit(self.url).hostname, urlsplit(self.url).port
        except ValueError:
            host, port = None, 0
        if not host or port == 0:
            raise SettingsError(f"The service's URL is like http://127.0.0.1:8000, {self.url!r} is not.")
        if not 0 <= self.days <= 3650:
            raise SettingsError(f"A simulation has 0 to 3650 days of history, not {self.days:g}.")
        if not 1 / 60 <= self.rate <= 1000:
            raise SettingsError(f"The rate is 1/60 to 1000 readings per machine and second, not {self.rate:g}.")
        fleet = [machine.machine_id for machine in make_fleet(self.machines)]
        if self.fault is None:
            return
        if self.fault.machine_id not in (None, *fleet):
            raise SettingsError(f"{self.fault.machine_id} is not in the fleet: {', '.join(fleet)}.")
        if self.fault.start is None and not self.live:
            raise SettingsError("A fault begins when the simulation goes live; without that it needs a start.")
        if self.fault.start is not None and self.fault.start.tzinfo is None:
            raise SettingsError("The start of a fault needs an offset from UTC.")


@dataclass(frozen=True)
class Progress:
    """Readings the service has answered for, of `total` (None while live, which has no end), and per second so far."""

    phase: str
    done: int
    total: int | None
    rate: float


@dataclass(frozen=True)
class Summary:
    """What the service said of all readings; `rejected` by its codes. `retries` are attempts made again."""

    accepted: int
    duplicates: int
    conflicts: int
    rejected: dict[str, int]
    retries: int


async def run_simulation(
    plan: SimulationPlan,
    *,
    on_progress: Callable[[Progress], None],
    on_event: Callable[[Event], None],
) -> Summary:
    """Runs the plan to its end, or until cancelled (which leaves no request behind).

    Raises ServiceUnreachable if the service doesn't become ready, ServiceRefused if it refuses a request as a whole.
    Single readings that it rejects, or has with other values, are told by events and counted.
    """
    timeout = httpx.Timeout(30, connect=5)
    # A proxy of the environment is for the world outside: it can't reach this machine's loopback.
    trust_env = httpx.URL(plan.url).host not in ("127.0.0.1", "localhost", "::1")
    headers = {} if plan.api_key is None else {"Authorization": f"Bearer {plan.api_key}"}
    base = plan.url.rstrip("/")
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=timeout, trust_env=trust_env) as http:
        return await _Run(plan, Calls(http, on_event), on_progress, on_event).run()


class _Run:
    def __init__(
        self,
        plan: SimulationPlan,
        calls: Calls,
        on_progress: Callable[[Progress], None],
        on_event: Callable[[Event], None],
    ) -> None:
        self._plan = plan
        self._calls = calls
        self._on_progress = on_progress
        self._on_event = on_event
        self._machines = [SimulatedMachine(spec, plan.seed) for spec in make_fleet(plan.machines)]
        # Up to which instant each machine's readings have been posted, in ms since 1970.
        self._posted: dict[str, int] = {}
        self._faulty: str | None = None
        self._fault: ActiveFault | None = None
        self._counts: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._phase, self._began, self._done = "", 0.0, 0
        self._total: int | None = None

    async def run(self) -> Summary:
        await self._calls.wait_until_ready()
        self._on_event(Event(EventKind.READY, f"{self._plan.url} is ready."))
        fault = self._plan.fault
        if fault is not None and fault.start is not None:
            self._start_fault(fault, to_millis(fault.start))
        await self._fill_history()
        if self._plan.live:
            if fault is not None and fault.start is None:
                self._start_fault(fault, _now())
            await self._go_live()
        counts = self._counts
        return Summary(
            counts["accepted"], counts["duplicates"], counts["conflicts"], dict(self._rejected), self._calls.retries
        )

    def _start_fault(self, plan: FaultPlan, start: int) -> None:
        fleet = tuple(machine.spec for machine in self._machines)
        self._faulty = plan.machine_id or choose_machine(plan.kind, fleet).machine_id
        self._fault = ActiveFault(plan.kind, start)
        self._on_event(Event(EventKind.FAULT, f"{plan.kind} on {self._faulty} from {_show(start)}."))

    async def _fill_history(self) -> None:
        earliest = _now() - round(self._plan.days * _DAY_MS)
        slots = asyncio.Semaphore(IN_FLIGHT)
        await _run_together(self._introduce(machine, earliest, slots) for machine in self._machines)
        resumed = [posted for posted in self._posted.values() if posted > earliest]
        if resumed:
            text = f"{len(resumed)} of {len(self._posted)} machines go on from their last reading"
            self._on_event(Event(EventKind.RESUMED, f"{text}, the first from {_show(min(resumed))}."))
        self._begin_phase("history")
        # Minutes go by while history is posted; they belong to it.
        while missing := self._count_missing(until := _now()):
            self._total = self._done + missing
            await _run_together(self._backfill(machine, until, slots) for machine in self._machines)

    async def _introduce(self, machine: SimulatedMachine, earliest: int, slots: asyncio.Semaphore) -> None:
        async with slots:
            await self._calls.register(machine.spec)
            last_seen = await self._calls.find_last_seen(machine.spec.machine_id)
        self._posted[machine.spec.machine_id] = earliest if last_seen is None else max(earliest, last_seen)

    def _count_missing(self, until: int) -> int:
        return sum(max(0, until // HISTORY_STEP_MS - posted // HISTORY_STEP_MS) for posted in self._posted.values())

    async def _backfill(self, machine: SimulatedMachine, until: int, slots: asyncio.Semaphore) -> None:
        machine_id = machine.spec.machine_id
        while len(instants := _find_due(self._posted[machine_id], until, HISTORY_STEP_MS)) > 0:
            async with slots:
                await self._deliver(self._read(machine, instants), len(instants))
            self._posted[machine_id] = int(instants[-1])

    async def _go_live(self) -> None:
        began = upto = _now()
        instant = np.array([began])
        regimes = Counter(machine.name_regimes(instant)[0] for machine in self._machines)
        doing = ", ".join(f"{count} {regime}" for regime, count in regimes.items())
        self._on_event(Event(EventKind.LIVE, f"Live from {_show(began)}: {doing}."))
        for machine_id, posted in self._posted.items():
            self._posted[machine_id] = max(posted, began)
        self._begin_phase("live")
        interval = round(1000 / self._plan.rate)
        # More than ten POSTs a second would make the service busy with requests instead of readings.
        tick = interval * math.ceil(_SHORTEST_TICK_MS / interval)
        span = interval * max(1, BATCH // len(self._machines))
        end = math.inf if self._plan.duration is None else began + round(self._plan.duration * 1000)
        while upto < end:
            now = int(min(_now(), end))
            while upto < now:
                upto = min(now, upto + span)
                await self._post_live(upto, interval)
            await asyncio.sleep((min((now // tick + 1) * tick, end) - _now()) / 1000)

    async def _post_live(self, upto: int, interval: int) -> None:
        readings: list[WireReading] = []
        for machine in self._machines:
            instants = _find_due(self._posted[machine.spec.machine_id], upto, interval)
            if len(instants) > 0:
                readings += self._read(machine, instants)
        for first in range(0, len(readings), BATCH):
            batch = readings[first : first + BATCH]
            await self._deliver(batch, len(batch))
        for machine_id, posted in self._posted.items():
            self._posted[machine_id] = max(posted, upto)

    def _read(self, machine: SimulatedMachine, instants: IntArray) -> list[WireReading]:
        machine_id = machine.spec.machine_id
        readings = machine.read(instants, self._fault if machine_id == self._faulty else None)
        return [WireReading(machine_id, instant, metrics) for instant, metrics in readings.rows()]

    async def _deliver(self, readings: list[WireReading], planned: int) -> None:
        """Posts them and counts the answer. `planned` counts those too that a dropout swallowed."""
        if readings:
            self._count(await self._calls.ingest(readings), len(readings))
        self._done += planned
        elapsed = max(time.monotonic() - self._began, 1e-3)
        self._on_progress(Progress(self._phase, self._done, self._total, self._done / elapsed))

    def _count(self, receipt: Receipt, sent: int) -> None:
        self._counts.update(accepted=receipt.accepted, duplicates=receipt.duplicates, conflicts=receipt.conflicts)
        self._rejected.update(rejection.code for rejection in receipt.rejected)
        for code, count in Counter(rejection.code for rejection in receipt.rejected).items():
            first = next(rejection.message for rejection in receipt.rejected if rejection.code == code)
            self._on_event(Event(EventKind.REJECTED, f"{count} of {sent} readings rejected: {code}: {first}"))
        if receipt.conflicts:
            text = f"{receipt.conflicts} of {sent} readings were there already with other values, which stay."
            self._on_event(Event(EventKind.CONFLICTS, text))
        answered = receipt.accepted + receipt.duplicates + receipt.conflicts + len(receipt.rejected)
        if answered != sent:
            self._on_event(Event(EventKind.UNACCOUNTED, f"{sent} readings sent, but the answer counts {answered}."))

    def _begin_phase(self, phase: str) -> None:
        self._phase, self._began, self._done, self._total = phase, time.monotonic(), 0, None


async def _run_together(work: Iterable[Coroutine[None, None, None]]) -> None:
    """All of it at once. The first failure ends the rest and is raised as it is, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


def _find_due(after: int, until: int, step: int) -> IntArray:
    """The first BATCH multiples of `step` in (after, until], all in ms since 1970; empty if there are none."""
    first = (after // step + 1) * step
    return np.arange(first, min(until, first + (BATCH - 1) * step) + 1, step, dtype=np.int64)


def _now() -> int:
    return time.time_ns() // 1_000_000


def _show(instant: int) -> str:
    return datetime.fromtimestamp(instant / 1000, UTC).isoformat(timespec="seconds")
