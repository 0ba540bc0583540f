"""What can go wrong with a simulated machine, by name; `app.simulator.faults` has how each shows."""

from enum import StrEnum


class Fault(StrEnum):
    BEARING_WEAR = "bearing_wear"
    OVERHEATING = "overheating"
    PRESSURE_LEAK = "pressure_leak"
    INEFFICIENCY = "inefficiency"
    SENSOR_STUCK = "sensor_stuck"
    DROPOUT = "dropout"
