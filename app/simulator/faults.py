"""How what can go wrong with a simulated machine shows.

Sizes are in spans: 1 is the width of the signal's healthy range. Time is compressed, so that a person can watch:
what takes a real bearing weeks takes this one minutes, at any rate of readings. Ages count from the fault's start;
before it nothing shows.

    bearing_wear   vibration +0.1·(2^(age/60 s) - 1) spans, at most +6; temperature follows a minute later at a quarter
                   of that, at most +1.5. Out of range after 2 to 4 minutes.
    overheating    temperature +1.3 spans and pressure +0.3, settling with 120 s (63 % after two minutes).
    pressure_leak  pressure and steam_pressure_bar -1.6 spans, settling with 180 s; temperature +0.15.
    inefficiency   fuel_rate_lh +1.2 spans, co2_ppm +1.1 and power_kw +0.4 at the same load, settling with 120 s.
    sensor_stuck   vibration repeats the value it had at the start: the one fault that stays inside the range.
    dropout        over two minutes more and more readings are missing, from then on all: the machine is silent.

A signal that a machine doesn't have shows nothing. Each fault but the last two leaves the healthy range at any load.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from app.simulator.fault import Fault
from app.simulator.noise import FloatArray, IntArray, KeyArray, MaskArray, draw_uniform
from app.simulator.profiles import MachineKind, MachineSpec


@dataclass(frozen=True)
class ActiveFault:
    """A fault of one machine, from `start` on (ms since 1970) and for good."""

    kind: Fault
    start: int


STUCK_SIGNAL = "vibration"
_DROPOUT_S = 120.0
_ROTATING = (MachineKind.HAUL_TRUCK, MachineKind.GRINDING_MILL)


def _grow(age: FloatArray, doubling: float) -> FloatArray:
    return np.minimum(0.1 * (np.exp2(np.minimum(age / doubling, 10.0)) - 1.0), 6.0)


def _settle(age: FloatArray, tau: float) -> FloatArray:
    return 1.0 - np.exp(-age / tau)


@dataclass(frozen=True)
class _Symptom:
    signal: str
    spans: float
    course: Callable[[FloatArray, float], FloatArray]
    seconds: float
    delay: float = 0.0


_SYMPTOMS: dict[Fault, tuple[_Symptom, ...]] = {
    Fault.BEARING_WEAR: (
        _Symptom("vibration", 1.0, _grow, 60),
        _Symptom("temperature", 0.25, _grow, 60, delay=60),
    ),
    Fault.OVERHEATING: (
        _Symptom("temperature", 1.3, _settle, 120),
        _Symptom("pressure", 0.3, _settle, 120),
    ),
    Fault.PRESSURE_LEAK: (
        _Symptom("pressure", -1.6, _settle, 180),
        _Symptom("steam_pressure_bar", -1.6, _settle, 180),
        _Symptom("temperature", 0.15, _settle, 180),
    ),
    Fault.INEFFICIENCY: (
        _Symptom("fuel_rate_lh", 1.2, _settle, 120),
        _Symptom("co2_ppm", 1.1, _settle, 120),
        _Symptom("power_kw", 0.4, _settle, 120),
    ),
    Fault.SENSOR_STUCK: (),
    Fault.DROPOUT: (),
}


def excess(fault: ActiveFault, signal: str, instants: IntArray) -> FloatArray:
    """What the fault adds to the signal, in spans. `instants` in ms since 1970, shape (n,), which is answered too."""
    total = np.zeros(instants.shape)
    for symptom in _SYMPTOMS[fault.kind]:
        if symptom.signal == signal:
            age = np.maximum((instants - fault.start) / 1000 - symptom.delay, 0.0)
            total += symptom.spans * symptom.course(age, symptom.seconds)
    return total


def find_kept(fault: ActiveFault, keys: KeyArray, instants: IntArray) -> MaskArray:
    """Which readings still arrive: true where one does. `instants` in ms since 1970, shape (n,), keys (1, 1)."""
    if fault.kind is not Fault.DROPOUT:
        return np.ones(instants.shape, dtype=np.bool)
    lost = (instants - fault.start) / 1000 / _DROPOUT_S
    kept: MaskArray = draw_uniform(keys, instants)[0] >= lost
    return kept


def choose_machine(fault: Fault, fleet: tuple[MachineSpec, ...]) -> MachineSpec:
    """The first machine that the fault is typical of, or, in a fleet without one, the first."""
    typical: dict[Fault, tuple[MachineKind, ...]] = {
        Fault.BEARING_WEAR: _ROTATING,
        Fault.PRESSURE_LEAK: (MachineKind.INDUSTRIAL_BOILER,),
    }
    kinds = typical.get(fault, tuple(MachineKind))
    return next((machine for machine in fleet if machine.profile.kind in kinds), fleet[0])
