"""The simulated machines: their signals by value and by statistics, and how faults show in them."""

import itertools
import time

import numpy as np
import pytest

from app.simulator.fault import Fault
from app.simulator.faults import ActiveFault, choose_machine
from app.simulator.noise import FloatArray, IntArray
from app.simulator.profiles import NOISE_BOUND, PROFILES, MachineKind, Profile, make_fleet
from app.simulator.signals import CHARACTER, DRIFT, SENSOR, TEXTURE, Readings, SimulatedMachine

MINUTE = 60_000
DAY = 86_400_000
# 2026-03-02 00:00 UTC
START = 1_772_409_600_000
SEED = 21


def make_machine(position: int, seed: int = SEED) -> SimulatedMachine:
    return SimulatedMachine(make_fleet(position + 1)[position], seed)


TRUCK, MILL, BOILER = range(3)


def make_minutes(days: float) -> IntArray:
    return np.arange(START, START + round(days * DAY), MINUTE, dtype=np.int64)


def pick(readings: Readings, signal: str) -> FloatArray:
    column: FloatArray = readings.values[:, readings.signals.index(signal)]
    return column


def correlate(left: FloatArray, right: FloatArray) -> float:
    return float(np.corrcoef(left, right)[0, 1])


# --- signals


EXACT = {
    TRUCK: {
        "rpm": 1694.0, "temperature": 88.3, "vibration": 3.01, "fuel_rate_lh": 12.29, "co2_ppm": 484.9,
        "pressure": 102.5, "speed_kmh": 26.5,
    },
    MILL: {
        "rpm": 1363.0, "temperature": 97.3, "vibration": 3.74, "fuel_rate_lh": 0.92, "co2_ppm": 445.1,
        "pressure": 108.1, "load_tons": 91.3, "power_kw": 182.6,
    },
    BOILER: {
        "temperature": 173.6, "vibration": 2.14, "fuel_rate_lh": 25.93, "co2_ppm": 621.7, "pressure": 133.9,
        "steam_pressure_bar": 90.5, "power_kw": 58.4,
    },
}  # fmt: skip


@pytest.mark.parametrize("position", [TRUCK, MILL, BOILER])
def test_a_seed_gives_the_same_reading_for_good(position: int) -> None:
    readings = make_machine(position).read(np.array([START + 12_345_678]))
    assert list(readings.rows()) == [(START + 12_345_678, EXACT[position])]


def test_a_reading_does_not_depend_on_how_time_is_cut_into_batches() -> None:
    instants = make_minutes(2)
    for position in range(3):
        whole = make_machine(position).read(instants).values
        machine = make_machine(position)
        shuffled = np.random.default_rng(1).permutation(len(instants))
        assert np.array_equal(machine.read(instants[shuffled]).values, whole[shuffled])
        for one in range(0, len(instants), 97):
            assert np.array_equal(machine.read(instants[one : one + 1]).values[0], whole[one])


def test_history_and_live_lie_on_one_line() -> None:
    seconds = np.arange(START, START + 30 * MINUTE, 1000, dtype=np.int64)
    machine = make_machine(TRUCK)
    live = machine.read(seconds).values
    assert np.array_equal(live[::60], machine.read(seconds[::60]).values)
    steps = np.abs(np.diff(live, axis=0)).max(axis=0)
    spans = np.array([signal.high - signal.low for signal in machine.spec.profile.signals])
    assert (steps < 0.15 * spans).all()


def test_machines_and_seeds_have_their_own_character() -> None:
    instants = make_minutes(7)
    first = make_machine(0).read(instants)
    for other in (make_machine(3).read(instants), make_machine(0, seed=SEED + 1).read(instants)):
        for signal in first.signals:
            # Their levels share shift changes and the time of day; what they do from minute to minute is their own.
            moves, others_moves = np.diff(pick(first, signal)), np.diff(pick(other, signal))
            assert abs(correlate(moves, others_moves)) < 0.25, signal
        means, others_means = first.values.mean(axis=0), other.values.mean(axis=0)
        assert (means != others_means).all()


def test_a_fleet_cycles_over_the_kinds_and_a_bigger_one_only_adds_machines() -> None:
    fleet = make_fleet(8)
    assert [machine.machine_id for machine in fleet] == [
        "TRUCK-21", "MILL-3", "BOILER-7", "TRUCK-22", "MILL-4", "BOILER-8", "TRUCK-23", "MILL-5",
    ]  # fmt: skip
    assert fleet[:3] == make_fleet(3)
    assert [machine.location for machine in fleet[:4]] == ["North Pit", "Concentrator A", "Steam Plant 1", "South Pit"]
    assert len({machine.machine_id for machine in make_fleet(500)}) == 500


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.kind.value)
def test_the_weights_of_a_signal_leave_room_for_the_noise(profile: Profile) -> None:
    assert pytest.approx(NOISE_BOUND) == CHARACTER + DRIFT + TEXTURE + SENSOR
    for signal in profile.signals:
        lowest = signal.base + sum(-abs(w) if name == "ambient" else min(w, 0) for name, w in signal.weights.items())
        highest = signal.base + sum(abs(w) if name == "ambient" else max(w, 0) for name, w in signal.weights.items())
        assert lowest >= NOISE_BOUND - 1e-9, signal.name
        assert highest <= 1 - NOISE_BOUND + 1e-9, signal.name


@pytest.mark.parametrize("seed", [1, 2])
def test_healthy_readings_stay_in_their_ranges_and_use_them_for_30_days(seed: int) -> None:
    instants = make_minutes(30)
    for position in range(6):
        machine = make_machine(position, seed)
        readings = machine.read(instants)
        assert np.isfinite(readings.values).all()
        for signal in machine.spec.profile.signals:
            values = pick(readings, signal.name)
            assert signal.low < values.min(), signal.name
            assert values.max() < signal.high, signal.name
            assert np.ptp(values) > 0.4 * (signal.high - signal.low), signal.name


def test_load_drives_what_it_should() -> None:
    truck, mill, boiler = (make_machine(position).read(make_minutes(7)) for position in range(3))
    assert correlate(pick(truck, "rpm"), pick(truck, "fuel_rate_lh")) > 0.9
    assert correlate(pick(truck, "fuel_rate_lh"), pick(truck, "co2_ppm")) > 0.8
    assert correlate(pick(truck, "rpm"), pick(truck, "vibration")) > 0.4
    assert 0.2 < correlate(pick(truck, "rpm"), pick(truck, "speed_kmh")) < 0.9
    assert correlate(pick(mill, "load_tons"), pick(mill, "power_kw")) > 0.8
    assert correlate(pick(mill, "rpm"), pick(mill, "power_kw")) > 0.8
    assert correlate(pick(boiler, "fuel_rate_lh"), pick(boiler, "steam_pressure_bar")) > 0.6
    assert correlate(pick(boiler, "temperature"), pick(boiler, "steam_pressure_bar")) > 0.8


@pytest.mark.parametrize(("position", "driver"), [(TRUCK, "rpm"), (MILL, "load_tons"), (BOILER, "fuel_rate_lh")])
def test_temperature_comes_after_the_load(position: int, driver: str) -> None:
    readings = make_machine(position).read(make_minutes(7))
    load, temperature = pick(readings, driver), pick(readings, "temperature")
    by_lag = [correlate(load[: len(load) - lag], temperature[lag:]) for lag in range(60)]
    best = int(np.argmax(by_lag))
    assert 1 <= best <= 30
    assert by_lag[best] > by_lag[0] + 0.03


@pytest.mark.parametrize("position", [TRUCK, MILL, BOILER])
def test_no_signal_is_white_noise(position: int) -> None:
    readings = make_machine(position).read(make_minutes(7))
    for signal in readings.signals:
        values = pick(readings, signal)
        assert correlate(values[1:], values[:-1]) > 0.7, signal


def test_regimes_look_different() -> None:
    instants = make_minutes(7)
    machine = make_machine(TRUCK)
    readings, regimes = machine.read(instants), np.array(machine.name_regimes(instants))
    assert set(regimes) >= {"loading", "haul_loaded", "dumping", "haul_empty", "idle"}
    means = {
        (regime, signal): pick(readings, signal)[regimes == regime].mean()
        for regime in set(regimes)
        for signal in readings.signals
    }
    assert means["haul_loaded", "rpm"] > means["idle", "rpm"] + 150
    assert means["haul_loaded", "fuel_rate_lh"] > means["haul_empty", "fuel_rate_lh"] + 0.5
    assert means["haul_empty", "speed_kmh"] > means["haul_loaded", "speed_kmh"] + 5
    assert means["loading", "speed_kmh"] < means["haul_loaded", "speed_kmh"] - 3


def test_the_night_shift_works_with_less_load() -> None:
    instants = make_minutes(14)
    hours = instants % DAY / 3_600_000
    power = pick(make_machine(MILL).read(instants), "load_tons")
    night, day = (hours < 6) | (hours >= 22.5), (hours >= 6.5) & (hours < 22)
    assert power[day].mean() > power[night].mean() + 3


@pytest.mark.parametrize(("position", "every"), [(TRUCK, 6), (MILL, 10), (BOILER, 14)])
def test_wear_grows_until_a_service_resets_it(position: int, every: int) -> None:
    instants = make_minutes(30)
    machine = make_machine(position)
    in_service = np.array([name == "service" for name in machine.name_regimes(instants)])
    ends = np.flatnonzero(in_service[:-1] & ~in_service[1:]) + 1
    assert 30 // every <= len(ends) <= 30 // every + 1
    assert [after - before for before, after in itertools.pairwise(ends)] == [every * 1440] * (len(ends) - 1)
    vibration = pick(machine.read(instants), "vibration")
    signal = next(signal for signal in machine.spec.profile.signals if signal.name == "vibration")
    day = 1440
    drops = [vibration[end - day - 90 : end - 90].mean() - vibration[end : end + day].mean() for end in ends]
    # The last days of 30 may not hold a whole day after a service; a mean of less is still one of a fresh machine.
    assert min(drops[: len(drops) - 1] or drops) > 0.15 * (signal.high - signal.low)


def test_seven_days_of_three_machines_are_made_within_a_second() -> None:
    instants = make_minutes(7)
    began = time.process_time()
    rows = sum(len(list(make_machine(position).read(instants).rows())) for position in range(3))
    assert rows == 30_240
    assert time.process_time() - began < 1


# --- faults

FAULT_START = START + 10 * 3_600_000

SHOWS: dict[Fault, dict[str, int]] = {
    Fault.BEARING_WEAR: {"vibration": 1, "temperature": 1},
    Fault.OVERHEATING: {"temperature": 1},
    Fault.PRESSURE_LEAK: {"pressure": -1, "steam_pressure_bar": -1},
    Fault.INEFFICIENCY: {"fuel_rate_lh": 1, "co2_ppm": 1},
}
ALSO_MOVES = {
    Fault.BEARING_WEAR: set[str](),
    Fault.OVERHEATING: {"pressure"},
    Fault.PRESSURE_LEAK: {"temperature"},
    Fault.INEFFICIENCY: {"power_kw"},
}


@pytest.mark.parametrize("fault", SHOWS)
@pytest.mark.parametrize("position", [TRUCK, MILL, BOILER])
def test_a_fault_leaves_the_healthy_ranges_of_its_signals_only(fault: Fault, position: int) -> None:
    instants = np.arange(FAULT_START - 3_600_000, FAULT_START + 6 * 3_600_000, 10_000, dtype=np.int64)
    machine = make_machine(position)
    healthy, faulty = machine.read(instants), machine.read(instants, ActiveFault(fault, FAULT_START))
    before, developed = instants <= FAULT_START, instants > FAULT_START + 15 * MINUTE
    assert np.array_equal(healthy.values[before], faulty.values[before])
    for signal in machine.spec.profile.signals:
        values = pick(faulty, signal.name)
        if signal.name in SHOWS[fault]:
            outside = values > signal.high if SHOWS[fault][signal.name] > 0 else values < signal.low
            assert outside[developed].all(), signal.name
            assert (values > 0).all(), signal.name
        elif signal.name not in ALSO_MOVES[fault]:
            assert np.array_equal(values, pick(healthy, signal.name)), signal.name


def test_bearing_wear_grows_exponentially_and_temperature_follows() -> None:
    machine = make_machine(TRUCK)
    instants = FAULT_START + 1000 * np.array([60, 120, 180, 240, 300], dtype=np.int64)
    healthy, faulty = machine.read(instants), machine.read(instants, ActiveFault(Fault.BEARING_WEAR, FAULT_START))
    excess = pick(faulty, "vibration") - pick(healthy, "vibration")
    assert excess == pytest.approx([2.5 * 0.1 * (2**minute - 1) for minute in range(1, 6)], abs=0.011)
    warmer = pick(faulty, "temperature") - pick(healthy, "temperature")
    assert warmer == pytest.approx([20 * 0.025 * (2**minute - 1) for minute in range(5)], abs=0.11)


SETTLED = {
    Fault.OVERHEATING: {"temperature": 1.3, "pressure": 0.3},
    Fault.PRESSURE_LEAK: {"pressure": -1.6, "temperature": 0.15},
    Fault.INEFFICIENCY: {"fuel_rate_lh": 1.2, "co2_ppm": 1.1, "power_kw": 0.4},
}


@pytest.mark.parametrize("fault", SETTLED)
def test_a_fault_settles_where_its_documentation_says(fault: Fault) -> None:
    machine = make_machine(MILL)
    instants = np.array([FAULT_START + 6 * 3_600_000])
    healthy, faulty = machine.read(instants), machine.read(instants, ActiveFault(fault, FAULT_START))
    for signal in machine.spec.profile.signals:
        spans = (pick(faulty, signal.name)[0] - pick(healthy, signal.name)[0]) / (signal.high - signal.low)
        assert spans == pytest.approx(SETTLED[fault].get(signal.name, 0), abs=0.006), signal.name


def test_a_stuck_sensor_repeats_its_value_and_the_rest_goes_on() -> None:
    machine = make_machine(MILL)
    instants = np.arange(FAULT_START - 60_000, FAULT_START + 600_000, 1000, dtype=np.int64)
    healthy, faulty = machine.read(instants), machine.read(instants, ActiveFault(Fault.SENSOR_STUCK, FAULT_START))
    stuck = pick(faulty, "vibration")
    assert set(stuck[60:].tolist()) == {pick(healthy, "vibration")[60]}
    assert len(set(stuck[:60].tolist())) > 5
    # A batch that begins later holds the same value.
    later = machine.read(instants[300:], ActiveFault(Fault.SENSOR_STUCK, FAULT_START))
    assert np.array_equal(later.values, faulty.values[300:])
    assert np.array_equal(pick(faulty, "power_kw"), pick(healthy, "power_kw"))


def test_a_dropout_thins_the_readings_out_and_then_there_are_none() -> None:
    machine = make_machine(BOILER)
    instants = np.arange(FAULT_START - 60_000, FAULT_START + 600_000, 1000, dtype=np.int64)
    kept = machine.read(instants, ActiveFault(Fault.DROPOUT, FAULT_START)).instants
    assert np.count_nonzero(kept < FAULT_START) == 60
    assert np.count_nonzero((kept >= FAULT_START) & (kept < FAULT_START + 120_000)) in range(45, 76)
    assert kept.max() < FAULT_START + 120_000


def test_a_fault_finds_a_machine_it_is_typical_of() -> None:
    fleet = make_fleet(3)
    assert {fault: choose_machine(fault, fleet).machine_id for fault in Fault} == {
        Fault.BEARING_WEAR: "TRUCK-21",
        Fault.OVERHEATING: "TRUCK-21",
        Fault.PRESSURE_LEAK: "BOILER-7",
        Fault.INEFFICIENCY: "TRUCK-21",
        Fault.SENSOR_STUCK: "TRUCK-21",
        Fault.DROPOUT: "TRUCK-21",
    }
    assert choose_machine(Fault.PRESSURE_LEAK, make_fleet(2)).machine_id == "TRUCK-21"
    assert choose_machine(Fault.BEARING_WEAR, fleet[2:]).profile.kind is MachineKind.INDUSTRIAL_BOILER
