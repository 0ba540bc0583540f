"""The three kinds of machine, as data, and fleets of them.

Units and healthy ranges (a reading of a healthy machine is never outside):

    signal              unit      haul_truck   grinding_mill  industrial_boiler
    rpm                 1/min     1400 - 1900  1200 - 1600
    temperature         °C        80 - 100     90 - 115       150 - 220
    vibration           mm/s RMS  2 - 4.5      3 - 5.5        1.5 - 3
    fuel_rate_lh        l/h       9 - 15       0 - 2          20 - 40
    co2_ppm             ppm       420 - 550    400 - 500      500 - 800
    pressure            bar       85 - 110     95 - 125       120 - 180
    speed_kmh           km/h      15 - 45
    load_tons           t                      50 - 150
    power_kw            kW                     150 - 250      50 - 100
    steam_pressure_bar  bar                                   80 - 120

`pressure` is that of the machine's own pump: a truck's hydraulics, a mill's bearing lubrication, a boiler's feed water
(so it stands above `steam_pressure_bar`).

A signal's level, 0 at the low and 1 at the high end of its range, is `base` plus a weighted sum of drivers and of the
levels of signals before it, plus noise of at most NOISE_BOUND. Drivers: `load` (what the work asks for, wobbling),
`pace`, `power` = load·(1 + pace)/2, `heat` (load through the machine's thermal inertia), `wear`, each in [0, 1], and
`ambient` (the time of day) in [-1, 1]. So the ranges hold by arithmetic: base and weights leave NOISE_BOUND free at
both ends, which the tests check. The weights are choices that look like such machines, not measurements.
"""

from dataclasses import dataclass
from enum import StrEnum

from app.errors import SettingsError

NOISE_BOUND = 0.1


class MachineKind(StrEnum):
    HAUL_TRUCK = "haul_truck"
    GRINDING_MILL = "grinding_mill"
    INDUSTRIAL_BOILER = "industrial_boiler"


@dataclass(frozen=True)
class Signal:
    """One metric: its healthy range, in the unit of the table above, and what moves it."""

    name: str
    low: float
    high: float
    decimals: int
    base: float
    weights: dict[str, float]


@dataclass(frozen=True)
class Regime:
    """A way of working, with the bounds that each turn of it is drawn from. Load and pace are in [0, 1]."""

    name: str
    seconds: tuple[float, float]
    load: tuple[float, float]
    pace: tuple[float, float]


@dataclass(frozen=True)
class Profile:
    """A kind of machine.

    `cycle` repeats through a shift. `idle` begins each shift and fills the break in its middle. `service` begins the
    shift of every `service_shifts`-th (8 h each); at its end wear is back to nothing. `response_s` and `heat_s` are
    the time constants, in seconds, with which the machine follows the work and its temperature follows the load.
    """

    kind: MachineKind
    prefix: str
    first_number: int
    sites: tuple[str, ...]
    signals: tuple[Signal, ...]
    cycle: tuple[Regime, ...]
    idle: Regime
    service: Regime
    service_shifts: int
    response_s: float
    heat_s: float


@dataclass(frozen=True)
class MachineSpec:
    """A machine as the service knows it."""

    machine_id: str
    profile: Profile
    location: str


_TRUCK = Profile(
    kind=MachineKind.HAUL_TRUCK,
    prefix="TRUCK",
    first_number=21,
    sites=("North Pit", "South Pit"),
    signals=(
        Signal("rpm", 1400, 1900, 0, 0.10, {"load": 0.55, "pace": 0.25}),
        Signal("temperature", 80, 100, 1, 0.15, {"heat": 0.5, "rpm": 0.1, "wear": 0.1, "ambient": 0.05}),
        Signal("vibration", 2, 4.5, 2, 0.10, {"rpm": 0.25, "load": 0.15, "wear": 0.4}),
        Signal("fuel_rate_lh", 9, 15, 2, 0.10, {"power": 0.35, "load": 0.2, "rpm": 0.2, "wear": 0.05}),
        Signal("co2_ppm", 420, 550, 1, 0.13, {"fuel_rate_lh": 0.5, "heat": 0.15, "wear": 0.09, "ambient": -0.03}),
        Signal("pressure", 85, 110, 1, 0.25, {"load": 0.45, "rpm": 0.15, "wear": -0.1, "ambient": -0.05}),
        Signal("speed_kmh", 15, 45, 1, 0.10, {"pace": 0.8}),
    ),
    cycle=(
        Regime("loading", (180, 300), (0.15, 0.25), (0.0, 0.04)),
        Regime("haul_loaded", (480, 720), (0.8, 1.0), (0.25, 0.45)),
        Regime("dumping", (90, 150), (0.3, 0.4), (0.0, 0.04)),
        Regime("haul_empty", (400, 600), (0.35, 0.5), (0.75, 1.0)),
    ),
    idle=Regime("idle", (900, 1500), (0.0, 0.08), (0.0, 0.0)),
    service=Regime("service", (5400, 5400), (0.0, 0.0), (0.0, 0.0)),
    service_shifts=18,
    response_s=15,
    heat_s=420,
)

_MILL = Profile(
    kind=MachineKind.GRINDING_MILL,
    prefix="MILL",
    first_number=3,
    sites=("Concentrator A", "Concentrator B"),
    signals=(
        Signal("rpm", 1200, 1600, 0, 0.10, {"pace": 0.5, "load": 0.3}),
        Signal("temperature", 90, 115, 1, 0.15, {"heat": 0.55, "rpm": 0.05, "wear": 0.1, "ambient": 0.05}),
        Signal("vibration", 3, 5.5, 2, 0.10, {"load": 0.2, "rpm": 0.2, "wear": 0.4}),
        Signal("fuel_rate_lh", 0, 2, 2, 0.15, {"load": 0.4, "rpm": 0.2, "wear": 0.1, "ambient": -0.05}),
        Signal("co2_ppm", 400, 500, 1, 0.13, {"fuel_rate_lh": 0.5, "heat": 0.24, "ambient": -0.03}),
        Signal("pressure", 95, 125, 1, 0.20, {"load": 0.5, "rpm": 0.2, "heat": -0.1}),
        Signal("load_tons", 50, 150, 1, 0.10, {"load": 0.8}),
        Signal("power_kw", 150, 250, 1, 0.10, {"power": 0.5, "load": 0.2, "wear": 0.1}),
    ),
    cycle=(
        Regime("coarse_grinding", (2400, 5400), (0.45, 0.65), (0.3, 0.5)),
        Regime("recharging", (300, 720), (0.1, 0.2), (0.1, 0.2)),
        Regime("fine_grinding", (2400, 5400), (0.75, 1.0), (0.7, 1.0)),
        Regime("recharging", (300, 720), (0.1, 0.2), (0.1, 0.2)),
    ),
    idle=Regime("idle", (900, 1500), (0.0, 0.05), (0.0, 0.05)),
    service=Regime("service", (5400, 5400), (0.0, 0.0), (0.0, 0.0)),
    service_shifts=30,
    response_s=45,
    heat_s=900,
)

_BOILER = Profile(
    kind=MachineKind.INDUSTRIAL_BOILER,
    prefix="BOILER",
    first_number=7,
    sites=("Steam Plant 1", "Steam Plant 2"),
    signals=(
        Signal("temperature", 150, 220, 1, 0.15, {"heat": 0.65, "wear": 0.05, "ambient": 0.05}),
        Signal("vibration", 1.5, 3, 2, 0.10, {"load": 0.35, "wear": 0.45}),
        Signal("fuel_rate_lh", 20, 40, 2, 0.15, {"load": 0.6, "wear": 0.1, "ambient": -0.05}),
        Signal("co2_ppm", 500, 800, 1, 0.10, {"fuel_rate_lh": 0.6, "heat": 0.1, "wear": 0.1}),
        Signal("pressure", 120, 180, 1, 0.20, {"load": 0.5, "heat": 0.2, "wear": -0.1}),
        Signal("steam_pressure_bar", 80, 120, 1, 0.10, {"heat": 0.6, "load": 0.2}),
        Signal("power_kw", 50, 100, 1, 0.10, {"load": 0.7, "wear": 0.1}),
    ),
    cycle=(
        Regime("base_firing", (3600, 6000), (0.4, 0.55), (0.5, 0.5)),
        Regime("peak_firing", (2400, 4800), (0.75, 1.0), (0.5, 0.5)),
        Regime("soot_blowing", (300, 600), (0.55, 0.65), (0.5, 0.5)),
        Regime("low_firing", (1500, 3000), (0.15, 0.3), (0.5, 0.5)),
    ),
    idle=Regime("idle", (900, 1500), (0.0, 0.1), (0.5, 0.5)),
    service=Regime("service", (5400, 5400), (0.0, 0.0), (0.5, 0.5)),
    service_shifts=42,
    response_s=120,
    heat_s=1500,
)

PROFILES = (_TRUCK, _MILL, _BOILER)


def make_fleet(machines: int) -> tuple[MachineSpec, ...]:
    """So many machines, the three kinds in turn: TRUCK-21, MILL-3, BOILER-7, TRUCK-22, MILL-4, …

    A fleet of five is the fleet of three and two more. Raises SettingsError if there would be none.
    """
    if machines < 1:
        raise SettingsError(f"A simulation has one machine or more, not {machines}.")
    fleet = []
    for position in range(machines):
        lap, kind = divmod(position, len(PROFILES))
        profile = PROFILES[kind]
        machine_id = f"{profile.prefix}-{profile.first_number + lap}"
        fleet.append(MachineSpec(machine_id, profile, profile.sites[lap % len(profile.sites)]))
    return tuple(fleet)
