"""What rooms count of their own work, for /metrics to read: plain numbers, since most of them change with each request.

Everything here belongs to one event loop and is changed in no other thread. Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

# Seconds; from what a small request takes on a quiet machine to what nobody waits for.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Histogram:
    """How many values came up to each of `bounds`, which ascend, and what they add up to.

    `counts[i]` are those up to `bounds[i]` and over the bound before it; the last of `counts` are those over all bounds.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class OperationMeasures:
    """What GraphQL operations came to. `counts` is by kind, name and outcome: a name of the list of allowed operations or
    `other`, and `ok` or the code of the first error; `seconds` is of the queries and mutations, by kind.
    """

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str, str], int] = {}
        self.seconds = {"query": Histogram(SECONDS), "mutation": Histogram(SECONDS)}

    def observe(self, kind: str, name: str, outcome: str, seconds: float) -> None:
        key = (kind, name, outcome)
        self.counts[key] = self.counts.get(key, 0) + 1
        if (histogram := self.seconds.get(kind)) is not None:
            histogram.observe(seconds)
