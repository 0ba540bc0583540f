"""How alive machines are: what their packets say, exactly; who is told gone, once; what GraphQL shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import instants, upkeep
from app.database import Database
from app.events.outbox import CHANNEL
from app.instants import to_microseconds
from app.liveness import watcher
from app.liveness.pulse import KEPT, Liveness, LivenessLimits, Packet, Pulse, judge_liveness, learn_pulse
from app.liveness.watcher import look
from tests.client import ServiceClient
from tests.conftest import run_service
from tests.patience import PATIENT

LIMITS = LivenessLimits(timedelta(minutes=2), timedelta(minutes=15))
START = datetime(2026, 1, 31, 12, tzinfo=UTC)
MINUTE = 60_000_000  # microseconds
HOUR = 60 * MINUTE

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


def learn(pairs: Iterable[tuple[float, float]], pulse: Pulse | None = None) -> Pulse:
    """From packets given as minutes after START: when they arrived, and the event time of their newest reading."""
    start = to_microseconds(START)
    packets = [Packet(start + round(arrived * MINUTE), start + round(newest * MINUTE)) for arrived, newest in pairs]
    return learn_pulse(pulse or Pulse(), packets, LIMITS)


def minutes(number: float) -> datetime:
    return START + timedelta(minutes=number)


# --- What packets say ---------------------------------------------------------------------------------------------


def test_a_machine_is_judged_by_the_settings_until_its_rhythm_is_known() -> None:
    pulse = learn([(0, 0), (5, 5), (10, 10), (15, 15)])
    assert pulse.usual_interval is None
    ages = {2: Liveness.LIVE, 2.001: Liveness.STALE, 15: Liveness.STALE, 15.001: Liveness.SILENT}
    for age, liveness in ages.items():
        assert judge_liveness(pulse.seen_at, None, minutes(15 + age), LIMITS) is liveness
    assert judge_liveness(None, None, START, LIMITS) is Liveness.NEVER_SEEN


def test_a_machine_that_sends_every_hour_is_live_between_two_readings() -> None:
    pulse = learn([(60 * n, 60 * n) for n in range(6)])
    assert pulse.usual_interval == timedelta(hours=1)
    ages = {120: Liveness.LIVE, 120.001: Liveness.STALE, 240: Liveness.STALE, 240.001: Liveness.SILENT}
    for age, liveness in ages.items():
        assert judge_liveness(pulse.seen_at, pulse.usual_interval, minutes(300 + age), LIMITS) is liveness


def test_an_outage_is_not_taken_for_the_rhythm() -> None:
    pulse = learn([(5 * n + (600 if n > 10 else 0) + (900 if n > 20 else 0),) * 2 for n in range(32)])
    assert pulse.usual_interval == timedelta(minutes=5)


def test_a_machine_that_sends_packets_of_many_readings_is_judged_by_its_packets() -> None:
    """A reading a second, sent together every 10 minutes."""
    pulse = learn([(10 * n + 0.1, 10 * n) for n in range(10)])
    assert pulse.usual_interval == timedelta(minutes=10)
    assert judge_liveness(pulse.seen_at, pulse.usual_interval, minutes(99), LIMITS) is Liveness.LIVE


def test_a_clock_that_is_an_hour_behind_is_corrected_with_the_ninth_packet() -> None:
    eight = learn([(5 * n, 5 * n - 60) for n in range(8)])
    assert (eight.clock_lag, eight.seen_at) == (timedelta(0), minutes(35 - 60))
    nine = learn([(40, 40 - 60)], eight)
    assert (nine.clock_lag, nine.seen_at) == (timedelta(hours=1), minutes(40))
    assert nine.usual_interval == timedelta(minutes=5)
    assert judge_liveness(nine.seen_at, nine.usual_interval, minutes(45), LIMITS) is Liveness.LIVE
    assert judge_liveness(nine.seen_at, nine.usual_interval, minutes(61), LIMITS) is Liveness.SILENT


def test_a_clock_that_is_ahead_keeps_nobody_alive() -> None:
    for packets in (1, 20):
        pulse = learn([(n, n + 60) for n in range(packets)])
        assert pulse.seen_at == minutes(packets - 1)
        assert judge_liveness(pulse.seen_at, pulse.usual_interval, minutes(packets + 15), LIMITS) is Liveness.SILENT


def test_a_clock_that_is_set_back_an_hour_is_corrected_within_five_packets() -> None:
    before = learn([(5 * n, 5 * n) for n in range(20)])
    after = learn([(5 * n, 5 * n - 60) for n in range(20, 25)], before)
    assert after.clock_lag in {timedelta(hours=1), timedelta(0)}
    later = learn([(5 * n, 5 * n - 60) for n in range(25, 30)], after)
    assert (later.clock_lag, later.seen_at) == (timedelta(hours=1), minutes(145))


def test_a_service_whose_clock_was_an_hour_ahead_knows_again_when_machines_were_heard() -> None:
    before = learn([(n, n) for n in range(20)])
    ahead = learn([(n + 60, n) for n in range(20, 40)], before)
    assert (ahead.clock_lag, ahead.seen_at) == (timedelta(hours=1), minutes(99))
    after = learn([(40, 40)], ahead)
    assert (after.clock_lag, after.seen_at) == (timedelta(0), minutes(40))
    assert after.usual_interval == timedelta(minutes=1)
    assert judge_liveness(after.seen_at, after.usual_interval, minutes(56), LIMITS) is Liveness.SILENT


def test_packets_that_arrive_in_another_order_than_they_are_told_are_no_clock_that_is_set_back() -> None:
    before = learn([(n, n) for n in range(20)])
    late = learn([(18.1, 18.1)], before)
    assert late == before


def test_old_readings_that_are_loaded_late_make_nobody_live() -> None:
    live = learn([(n, n) for n in range(40)])
    a_day = 24 * 60
    # A day of readings, twelve minutes of them every half a minute: 24 times as fast as they were taken.
    loaded = learn([(a_day * 2 + 0.5 * n, a_day + 12 * n) for n in range(120)], live)
    assert loaded.clock_lag == timedelta(0)
    assert loaded.seen_at == minutes(a_day + 12 * 119)
    assert loaded.usual_interval == timedelta(minutes=1)
    assert judge_liveness(loaded.seen_at, loaded.usual_interval, minutes(a_day * 2 + 60), LIMITS) is Liveness.SILENT
    older = learn([(a_day * 2 + 0.5 * n, 12 * n - 5 * a_day) for n in range(120)], live)
    assert (older.clock_lag, older.seen_at) == (timedelta(0), minutes(39))
    assert older.usual_interval == timedelta(minutes=1)
    assert judge_liveness(older.seen_at, older.usual_interval, minutes(a_day * 2 + 60), LIMITS) is Liveness.SILENT


def test_old_readings_beside_live_ones_change_nothing() -> None:
    mixed = sorted([(n, n) for n in range(200)] + [(n + 0.5, 10 * n - 10_000) for n in range(200)])
    pulse = learn(mixed)
    assert pulse.clock_lag == timedelta(0)
    assert pulse.seen_at == minutes(199)
    assert pulse.usual_interval == timedelta(minutes=1)


rhythms = st.integers(MINUTE // 2, 24 * HOUR)


@PATIENT
@given(
    packets=st.lists(st.tuples(st.integers(0, 10 * MINUTE), st.integers(-HOUR, HOUR)), min_size=1, max_size=80),
    cut=st.integers(0, 80),
)
def test_what_is_learned_does_not_depend_on_how_the_packets_are_cut(packets: list[tuple[int, int]], cut: int) -> None:
    arrived = to_microseconds(START)
    given_packets = []
    for wait, lag in packets:
        arrived += wait
        given_packets.append(Packet(arrived, arrived - lag))
    whole = learn_pulse(Pulse(), given_packets, LIMITS)
    first = learn_pulse(Pulse(), given_packets[:cut], LIMITS) if cut else Pulse()
    rest = given_packets[cut:]
    assert (learn_pulse(first, rest, LIMITS) if rest else first) == whole
    assert to_microseconds(whole.seen_at) <= arrived
    assert len(whole.packets) <= KEPT


@PATIENT
@given(rhythm=rhythms, lag=st.integers(-5 * MINUTE, 400 * 24 * HOUR), chance=st.randoms(use_true_random=False))
def test_a_wrong_clock_is_learned_to_within_the_jitter(rhythm: int, lag: int, chance: Any) -> None:
    jitter = min(rhythm // 10, 10 * MINUTE)
    start = to_microseconds(START)
    packets = [Packet(start + n * rhythm + chance.randint(0, jitter), start + n * rhythm - lag) for n in range(KEPT)]
    pulse = learn_pulse(Pulse(), packets, LIMITS)
    assert timedelta(0) <= pulse.clock_lag - timedelta(microseconds=lag) <= timedelta(microseconds=jitter)
    assert (
        timedelta(0)
        <= START + timedelta(microseconds=packets[-1].arrived - start) - pulse.seen_at
        <= timedelta(microseconds=jitter)
    )
    assert pulse.usual_interval == timedelta(microseconds=rhythm)


@PATIENT
@given(
    rhythm=rhythms,
    speed=st.integers(2, 10_000),
    age=st.integers(0, 365 * 24 * HOUR),
    packets=st.integers(1, 100),
)
def test_what_is_sent_faster_than_it_was_taken_is_no_wrong_clock(
    rhythm: int, speed: int, age: int, packets: int
) -> None:
    start = to_microseconds(START)
    taken = start - age - packets * rhythm
    pulse = learn_pulse(
        Pulse(), [Packet(start + n * rhythm // speed, taken + n * rhythm) for n in range(packets)], LIMITS
    )
    assert pulse.clock_lag == timedelta(0)


@PATIENT
@given(rhythm=rhythms, outages=st.sets(st.integers(1, KEPT - 1), max_size=3), length=st.integers(1, 30 * 24 * HOUR))
def test_up_to_three_outages_leave_the_usual_interval_as_it_was(rhythm: int, outages: set[int], length: int) -> None:
    arrived = to_microseconds(START)
    packets: list[Packet] = []
    for n in range(KEPT):
        arrived += rhythm + (length if n in outages else 0)
        packets.append(Packet(arrived, arrived))
    assert learn_pulse(Pulse(), packets, LIMITS).usual_interval == timedelta(microseconds=rhythm)


# --- Who is told --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    database = Database(timescale="auto", pool_size=4, statement_timeout=timedelta(seconds=10))
    await database.open(url)
    try:
        yield database
    finally:
        await database.close()


async def register(connection: Connection, *machine_ids: str) -> None:
    for machine_id in machine_ids:
        await connection.execute(
            "INSERT INTO machines (machine_id, machine_type, location, operational) VALUES ($1, 'press', 'Hall 2', true)",
            machine_id,
        )


async def arrive(connection: Connection, machine_id: str, arrived: datetime, *taken: datetime) -> None:
    """Readings with their event as the writer leaves them, at an instant of our choice."""
    async with connection.transaction():
        await connection.executemany(
            "INSERT INTO raw_measurements (machine_id, timestamp, metrics, created_at) VALUES ($1, $2, '{\"a\": 1}', $3)",
            [(machine_id, instant, arrived) for instant in taken],
        )
        await connection.execute(
            "INSERT INTO outbox (topic, payload, created_at) VALUES ('measurements', $1::jsonb, $2)",
            msgspec.json.encode({machine_id: [to_microseconds(instant) for instant in taken]}).decode(),
            arrived,
        )


async def told(connection: Connection) -> list[tuple[str, str, float, float]]:
    """What was told of liveness: machine, liveness, and in minutes after START when it was seen and when it was told."""
    rows = await connection.fetch("SELECT payload FROM outbox WHERE topic = 'liveness' ORDER BY id")
    start = to_microseconds(START)
    return [
        (machine_id, change["liveness"], (change["seen_at"] - start) / MINUTE, (change["at"] - start) / MINUTE)
        for row in rows
        for machine_id, change in sorted(msgspec.json.decode(row["payload"]).items())
    ]


async def test_going_silent_and_coming_back_are_told_once_each(database_url: str, connection: Connection) -> None:
    await register(connection, "A", "B", "NEVER")
    async with open_database(database_url) as database:
        await look(database, LIMITS, START)
        for n in range(10):
            await arrive(connection, "A", minutes(n), minutes(n))
        for n in range(5, 25, 5):
            await arrive(connection, "B", minutes(n), minutes(n))
        for moment in (0, 9, 23.9, 24):
            await look(database, LIMITS, minutes(moment))
            assert await told(connection) == []
        await look(database, LIMITS, minutes(24.1))
        await look(database, LIMITS, minutes(25))
        assert await told(connection) == [("A", "SILENT", 9, 24.1)]
        await arrive(connection, "A", minutes(30), minutes(30))
        await look(database, LIMITS, minutes(31))
        await look(database, LIMITS, minutes(32))
        assert (await told(connection))[1:] == [("A", "LIVE", 30, 31)]
        await look(database, LIMITS, minutes(50))
        assert (await told(connection))[2:] == [("A", "SILENT", 30, 50), ("B", "SILENT", 20, 50)]


async def test_many_processes_tell_of_a_silence_once(database_url: str, connection: Connection) -> None:
    await register(connection, "A")
    async with open_database(database_url) as first, open_database(database_url) as second:
        await look(first, LIMITS, START)
        await arrive(connection, "A", START, START)
        for n in (1, 16, 16.5, 17):
            await asyncio.gather(*(look(each, LIMITS, minutes(n)) for each in (first, second) * 4))
        assert [change[:2] for change in await told(connection)] == [("A", "SILENT")]


async def test_a_restart_forgets_nothing_and_repeats_nothing(database_url: str, connection: Connection) -> None:
    await register(connection, "A", "B")
    async with open_database(database_url) as database:
        await look(database, LIMITS, START)
        for n in range(6):
            await arrive(connection, "A", minutes(60 * n), minutes(60 * n))
            await arrive(connection, "B", minutes(60 * n), minutes(60 * n))
        await look(database, LIMITS, minutes(301))
        await arrive(connection, "B", minutes(540), minutes(540))
    async with open_database(database_url) as database:
        await look(database, LIMITS, minutes(540))
        assert await told(connection) == []  # an hour is their usual interval
        await look(database, LIMITS, minutes(541))
        assert await told(connection) == [("A", "SILENT", 300, 541)]
    async with open_database(database_url) as database:
        await look(database, LIMITS, minutes(600))
        assert await told(connection) == [("A", "SILENT", 300, 541)]


async def test_a_look_that_fails_is_as_if_it_had_not_been(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(connection, "A")
    async with open_database(database_url) as database:
        await look(database, LIMITS, START)
        await arrive(connection, "A", START, START)

        async def fail(*_: object) -> None:
            raise RuntimeError("killed")

        with monkeypatch.context() as patch:
            patch.setattr(watcher, "publish_event", fail)
            with pytest.raises(RuntimeError):
                await look(database, LIMITS, minutes(16))
        assert await connection.fetchval("SELECT silent_since FROM machine_pulses") is None
        await look(database, LIMITS, minutes(17))
        assert [change[:2] for change in await told(connection)] == [("A", "SILENT")]


async def test_machines_that_were_there_before_are_watched_from_their_newest_reading(
    database_url: str, connection: Connection
) -> None:
    await register(connection, "OLD", "NEW")
    await arrive(connection, "OLD", minutes(-600), minutes(-600))
    await arrive(connection, "NEW", minutes(-5), minutes(-5))
    async with open_database(database_url) as database:
        await look(database, LIMITS, START)
        assert await told(connection) == []  # nobody knows when OLD went silent
        await look(database, LIMITS, minutes(11))
        assert await told(connection) == [("NEW", "SILENT", -5, 11)]
        await arrive(connection, "OLD", minutes(12), minutes(12))
        await look(database, LIMITS, minutes(12))
        assert (await told(connection))[1:] == [("OLD", "LIVE", 12, 12)]


async def test_silence_of_a_machine_out_of_service_is_not_told(database_url: str, connection: Connection) -> None:
    await register(connection, "A")
    async with open_database(database_url) as database:
        await look(database, LIMITS, START)
        await arrive(connection, "A", START, START)
        await connection.execute("UPDATE machines SET operational = false")
        await look(database, LIMITS, minutes(16))
        assert await told(connection) == []
        assert await connection.fetchval("SELECT silent_since FROM machine_pulses") == minutes(16)


async def test_old_readings_loaded_late_do_not_bring_a_silent_machine_back(
    database_url: str, connection: Connection
) -> None:
    await register(connection, "A")
    async with open_database(database_url) as database:
        await look(database, LIMITS, START)
        await arrive(connection, "A", START, START)
        await look(database, LIMITS, minutes(16))
        for n in range(50):
            await arrive(connection, "A", minutes(2_000 + n), minutes(20 * n + 1), minutes(20 * n + 2))
        await look(database, LIMITS, minutes(2_050))
        assert [change[:2] for change in await told(connection)] == [("A", "SILENT")]


# --- What is shown ------------------------------------------------------------------------------------------------

ASK = "{ fleet { live stale silent neverSeen } machines { nodes { machineId liveness } } }"


async def show(service: ServiceClient) -> tuple[dict[str, str], dict[str, int]]:
    data = await service.ask(ASK)
    return {node["machineId"]: node["liveness"] for node in data["machines"]["nodes"]}, data["fleet"]


async def test_graphql_shows_liveness_by_rhythm_and_corrected_clock(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def leave_it(*_: object) -> None:
        """The service looks at nothing by itself: the test says when."""

    monkeypatch.setattr(upkeep, "look_now", leave_it)
    async with run_service(database_url) as service, open_database(database_url) as database:
        await service.register("BEHIND", "HOURLY", "SECONDS", "UNSEEN")
        now = datetime.now(UTC)
        await look(database, LIMITS, now)
        for n in range(10, 0, -1):
            ago = now - timedelta(minutes=n - 1)
            await arrive(connection, "BEHIND", ago, ago - timedelta(hours=1))
            await arrive(
                connection, "SECONDS", now - timedelta(minutes=20, seconds=n), now - timedelta(minutes=20, seconds=n)
            )
            ago = now - timedelta(minutes=60 * n)
            await arrive(connection, "HOURLY", ago, ago)
        expected = {"BEHIND": "SILENT", "HOURLY": "SILENT", "SECONDS": "SILENT", "UNSEEN": "NEVER_SEEN"}
        assert await show(service) == (expected, {"live": 0, "stale": 0, "silent": 3, "neverSeen": 1})
        await look(database, LIMITS, now)
        expected |= {"BEHIND": "LIVE", "HOURLY": "LIVE"}
        assert await show(service) == (expected, {"live": 2, "stale": 0, "silent": 1, "neverSeen": 1})
        await service.ingest({"machine_id": "SECONDS", "timestamp": datetime.now(UTC).isoformat(), "metrics": {"a": 1}})
        expected |= {"SECONDS": "LIVE"}
        assert await show(service) == (expected, {"live": 3, "stale": 0, "silent": 0, "neverSeen": 1})


async def test_two_services_tell_of_a_machine_that_stops_and_comes_back(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "WATCHING_INTERVAL", 0.05)
    woken = asyncio.Event()
    await connection.add_listener(CHANNEL, lambda *_: woken.set())

    async def wait_for(count: int) -> list[str]:
        async with asyncio.timeout(60):
            while len(changes := [change[1] for change in await told(connection)]) < count:
                woken.clear()
                await woken.wait()
        return changes

    def reading() -> dict[str, object]:
        return {"machine_id": "A", "timestamp": datetime.now(UTC).isoformat(), "metrics": {"a": 1}}

    # Long enough that a machine that has just sent is seen as live, however busy this one is.
    short = {"AURUM_STALE_AFTER": "PT2S", "AURUM_SILENT_AFTER": "PT4S"}
    async with run_service(database_url, **short) as first, run_service(database_url, **short):
        await first.register("A")
        await first.ingest(reading())
        assert await wait_for(1) == ["SILENT"]
        await first.ingest(reading())
        assert (await wait_for(3))[:2] == ["SILENT", "LIVE"]
    assert [change[1] for change in await told(connection)] == ["SILENT", "LIVE", "SILENT"]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> asyncio.Semaphore:
    """Released after each look of the services of this process, which look much more often than they would."""
    done = asyncio.Semaphore(0)

    async def look_and_tell(database: Database, limits: LivenessLimits) -> None:
        await watcher.look_now(database, limits)
        done.release()

    monkeypatch.setattr(upkeep, "WATCHING_INTERVAL", 0.05)
    monkeypatch.setattr(upkeep, "look_now", look_and_tell)
    return done


async def wait_for_looks(looks: asyncio.Semaphore, count: int) -> None:
    """That many that begin from now on; those that are done or under way may not have seen what was just stored."""
    while not looks.locked():
        await looks.acquire()
    async with asyncio.timeout(60):
        for _ in range(count + 2):
            await looks.acquire()


async def test_services_that_are_started_again_tell_what_is_new_and_no_more(
    database_url: str, connection: Connection, looks: asyncio.Semaphore
) -> None:
    short = {"AURUM_STALE_AFTER": "PT0.5S", "AURUM_SILENT_AFTER": "PT1S"}
    async with run_service(database_url, **short) as service:
        await service.register("A")
        await service.ingest({"machine_id": "A", "timestamp": datetime.now(UTC).isoformat(), "metrics": {"a": 1}})
        await wait_for_looks(looks, 1)
    async with run_service(database_url, **short), run_service(database_url, **short):
        async with asyncio.timeout(60):
            while not await told(connection):
                await looks.acquire()
    async with run_service(database_url, **short) as service, run_service(database_url, **short):
        await wait_for_looks(looks, 4)
        assert (await show(service))[0] == {"A": "SILENT"}
    assert [change[:2] for change in await told(connection)] == [("A", "SILENT")]


async def test_a_service_whose_clock_is_an_hour_wrong_tells_of_no_silence(
    database_url: str, connection: Connection, looks: asyncio.Semaphore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(hours=1)

    monkeypatch.setattr(instants, "datetime", Ahead)
    async with run_service(database_url) as service:
        await service.register("A")
        await service.ingest({"machine_id": "A", "timestamp": datetime.now(UTC).isoformat(), "metrics": {"a": 1}})
        await wait_for_looks(looks, 2)
    assert await connection.fetchval("SELECT silent_since FROM machine_pulses WHERE machine_id = 'A'") is None
    assert await told(connection) == []
