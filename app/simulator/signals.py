"""A simulated machine: what arrives are instants, what leaves are its readings at them. Pure, and nothing fails.

Everything is a function of seed, machine and instant. What has inertia is computed from the shift plan instead of from
the reading before: shifts of 8 h begin at 06:00, 14:00 and 22:00 UTC (each machine up to 20 min later) and are planned
each by itself, and temperatures start in the shift before the one that is asked for, 19 time constants or more away,
so that what they started from no longer matters (e^-19 of the range is far below the last digit).
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from app.simulator.fault import Fault
from app.simulator.faults import STUCK_SIGNAL, ActiveFault, excess, find_kept
from app.simulator.noise import FloatArray, IntArray, draw_bell, draw_uniform, drift, make_keys, wander
from app.simulator.profiles import MachineSpec, Regime

SHIFT_S = 8 * 3600
_SHIFT_MS = SHIFT_S * 1000
_DAY_MS = 86_400_000
_FIRST_SHIFT_MS = 6 * 3_600_000
_BREAK_S = 4 * 3600
_NIGHT_EFFORT = 0.85
_DRAWS_PER_SHIFT = 1024

# How the noise of a level is shared out; together NOISE_BOUND of the profiles.
CHARACTER, DRIFT, TEXTURE, SENSOR = 0.03, 0.03, 0.025, 0.015


@dataclass(frozen=True)
class Readings:
    """Readings of one machine: `instants` in ms since 1970, shape (n,); `values` in the signals' units, (n, signals)."""

    machine_id: str
    signals: tuple[str, ...]
    instants: IntArray
    values: FloatArray

    def rows(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Each instant with its metrics, in the order of the instants."""
        for instant, values in zip(self.instants.tolist(), self.values.tolist(), strict=True):
            yield instant, dict(zip(self.signals, values, strict=True))


@dataclass(frozen=True)
class _Plan:
    """The segments of a shift and of the one before. `starts` in seconds since the shift began (negative before it)."""

    regimes: tuple[str, ...]
    starts: FloatArray
    load: FloatArray
    pace: FloatArray

    def follow(self, targets: FloatArray, tau: float, seconds: FloatArray) -> FloatArray:
        """What follows the targets with the time constant `tau` (s), at `seconds` since the shift began, shape (n,).

        The exact answer of a first-order lag to steps, y(t) = u + (y0 - u)·e^(-t/tau) within each segment.
        """
        levels = [float(targets[0])]
        for target, duration in zip(targets[:-1].tolist(), np.diff(self.starts).tolist(), strict=True):
            levels.append(target + (levels[-1] - target) * math.exp(-duration / tau))
        segment = np.searchsorted(self.starts, seconds, side="right") - 1
        target = targets[segment]
        return target + (np.array(levels)[segment] - target) * np.exp(-(seconds - self.starts[segment]) / tau)


class SimulatedMachine:
    """One machine with its own character: offsets, phase of its shifts and services, severity of its wear."""

    def __init__(self, spec: MachineSpec, seed: int) -> None:
        self.spec = spec
        self._profile = spec.profile
        name = f"{seed}/{spec.machine_id}"
        self._keys = {
            role: make_keys(f"{name}/{role}") for role in ("character", "shifts", "load", "pace", "wear", "lost")
        }
        signals = [signal.name for signal in self._profile.signals]
        self._signal_keys = {
            role: make_keys(*(f"{name}/{signal}/{role}" for signal in signals))
            for role in ("offset", "drift", "texture", "sensor")
        }
        lateness, phase = draw_uniform(self._keys["character"], np.arange(2))[0].tolist()
        self._first_shift: int = _FIRST_SHIFT_MS + round(lateness * 1_200_000)
        self._service_phase = int(phase * self._profile.service_shifts)
        self._offsets = 2 * draw_uniform(self._signal_keys["offset"], np.zeros(1, dtype=np.int64)) - 1
        self._plan = lru_cache(maxsize=4)(self._make_plan)

    def read(self, instants: IntArray, fault: ActiveFault | None = None) -> Readings:
        """The readings at `instants` (ms since 1970, shape (n,)), fewer if the fault loses some."""
        if fault is not None:
            instants = instants[find_kept(fault, self._keys["lost"], instants)]
        drivers = self._drive(instants)
        noise = (
            CHARACTER * self._offsets
            + DRIFT * drift(self._signal_keys["drift"], instants)
            + TEXTURE * wander(self._signal_keys["texture"], instants)
            + SENSOR * draw_bell(self._signal_keys["sensor"], instants)
        )
        columns = []
        for number, signal in enumerate(self._profile.signals):
            level = signal.base + noise[number]
            for driver, weight in signal.weights.items():
                level = level + weight * drivers[driver]
            # Signals that follow this one follow its healthy level: what a fault adds spreads by its own symptoms only.
            drivers[signal.name] = level
            if fault is not None:
                level = level + excess(fault, signal.name, instants)
            columns.append(np.round(signal.low + (signal.high - signal.low) * level, signal.decimals))
        signals = tuple(signal.name for signal in self._profile.signals)
        if fault is not None and fault.kind is Fault.SENSOR_STUCK:
            column = columns[signals.index(STUCK_SIGNAL)]
            column[instants >= fault.start] = self._value_before(fault, STUCK_SIGNAL)
        return Readings(self.spec.machine_id, signals, instants, np.column_stack(columns))

    def name_regimes(self, instants: IntArray) -> list[str]:
        """What the machine is doing at each of the instants (ms since 1970)."""
        names = []
        for instant, shift in zip(instants.tolist(), self._find_shifts(instants).tolist(), strict=True):
            plan = self._plan(shift)
            segment = np.searchsorted(plan.starts, (instant - self._find_start(shift)) / 1000, side="right") - 1
            names.append(plan.regimes[segment])
        return names

    def _value_before(self, fault: ActiveFault, signal: str) -> float:
        healthy = self.read(np.array([fault.start], dtype=np.int64))
        return float(healthy.values[0, healthy.signals.index(signal)])

    def _drive(self, instants: IntArray) -> dict[str, FloatArray]:
        """The drivers that the profiles name, each of the instants' shape (n,)."""
        load, pace, heat = (np.empty(instants.shape) for _ in range(3))
        shifts = self._find_shifts(instants)
        for shift in np.unique(shifts).tolist():
            chosen = shifts == shift
            plan = self._plan(shift)
            seconds = (instants[chosen] - self._find_start(shift)) / 1000
            load[chosen] = plan.follow(plan.load, self._profile.response_s, seconds)
            pace[chosen] = plan.follow(plan.pace, self._profile.response_s, seconds)
            heat[chosen] = plan.follow(plan.load, self._profile.heat_s, seconds)
        # The wobble is in the drivers, not in each signal, so that all that depends on the load wobbles with it.
        load = 0.9 * load + 0.05 * (1 + wander(self._keys["load"], instants)[0])
        pace = 0.9 * pace + 0.05 * (1 + wander(self._keys["pace"], instants)[0])
        warmest = 15 / 24  # of the day, in UTC
        return {
            "load": load,
            "pace": pace,
            "power": load * (1 + pace) / 2,
            "heat": heat,
            "wear": self._wear(instants),
            "ambient": np.cos(2 * np.pi * ((instants % _DAY_MS) / _DAY_MS - warmest)),
        }

    def _wear(self, instants: IntArray) -> FloatArray:
        """0 just after a service, up to 1 just before the next: faster and faster, and not every time as much."""
        period = self._profile.service_shifts * _SHIFT_MS
        service_end = self._find_start(-self._service_phase) + round(self._profile.service.seconds[1] * 1000)
        life, age = np.divmod(instants - service_end, period)
        severity: FloatArray = 0.75 + 0.25 * draw_uniform(self._keys["wear"], life)[0]
        return severity * (age / period) ** 1.5

    def _find_shifts(self, instants: IntArray) -> IntArray:
        return (instants - self._first_shift) // _SHIFT_MS

    def _find_start(self, shift: int) -> int:
        return self._first_shift + shift * _SHIFT_MS

    def _make_plan(self, shift: int) -> _Plan:
        before, now = self._plan_shift(shift - 1), self._plan_shift(shift)
        segments = [(start - SHIFT_S, *rest) for start, *rest in before] + [(start, *rest) for start, *rest in now]
        starts, regimes, load, pace = zip(*segments, strict=True)
        return _Plan(tuple(regime.name for regime in regimes), np.array(starts), np.array(load), np.array(pace))

    def _plan_shift(self, shift: int) -> list[tuple[float, Regime, float, float]]:
        """Segments of one shift: start (s since it began), regime, load, pace. The last one ends with the shift."""
        profile = self._profile
        indexes = shift * _DRAWS_PER_SHIFT + np.arange(_DRAWS_PER_SHIFT)
        draws = iter(draw_uniform(self._keys["shifts"], indexes)[0].tolist())
        at_night = shift % 3 == 2
        effort = _NIGHT_EFFORT if at_night else 1.0
        regime = profile.service if (shift + self._service_phase) % profile.service_shifts == 0 else profile.idle
        cycle = itertools.cycle(profile.cycle)
        segments: list[tuple[float, Regime, float, float]] = []
        elapsed, rested = 0.0, False
        while elapsed < SHIFT_S:
            bounds = (regime.seconds, regime.load, regime.pace)
            duration, load, pace = (low + (high - low) * next(draws) for low, high in bounds)
            segments.append((elapsed, regime, load * effort, pace))
            elapsed += duration
            if not rested and elapsed >= _BREAK_S:
                regime, rested = profile.idle, True
            else:
                regime = next(cycle)
        return segments
