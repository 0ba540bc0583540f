"""What the packets of a machine say of its rhythm and its clock, and how alive it is by them. Pure.

A packet is what one commit brought of one machine: when it arrived, and the event time of the newest reading in it. Its
lag is the one less the other, both in microseconds since 1970; a clock that is behind gives a lag of that much.

    clock lag       the median lag of the 9 newest packets, where event time goes on as the arrivals do: where the middle
                    half of the lags spreads over at most a quarter of the time over which the middle half of the event
                    times does. Otherwise what was learned before, and at first nothing. So old readings that are
                    loaded late, which come faster than they were taken, are never mistaken for a wrong clock.
    seen at         the latest of event time + clock lag over all packets and of the newest reading, of each at most its
                    arrival.
    usual interval  the 0.9 quantile of the gaps between the event times of the packets that came in time (at most
                    SILENT's floor after they were taken, by the corrected clock), the longest gap left out; where there are fewer
                    than 4 gaps, what was learned before.

Packets that arrive within an eighth of STALE's floor after another are passed over: rhythms below it make no difference, and
what is known of a machine needs to be written once in that time. Of the others the 32 newest are kept. Where packets arrive
more than a minute before those that were there already, the service's own clock was ahead and is set back: what is later
by it is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from itertools import pairwise

import msgspec

from app.instants import from_microseconds, to_microseconds

KEPT = 32  # packets of a machine
JUDGED = 9  # newest packets by which a clock is judged
STEADY = 4  # how many times the spread of the lags must fit into that of the event times
FEWEST_GAPS = 4
SET_BACK = 60_000_000  # µs: commits that end in another order than they began differ by less
STALE_INTERVALS, SILENT_INTERVALS = 2, 4

_MICROSECOND = timedelta(microseconds=1)


class Liveness(Enum):
    """How long a machine was not heard, by its own usual interval; NEVER_SEEN without any reading."""

    LIVE = "LIVE"
    STALE = "STALE"
    SILENT = "SILENT"
    NEVER_SEEN = "NEVER_SEEN"


class LivenessLimits(msgspec.Struct, frozen=True):
    """AURUM_STALE_AFTER and AURUM_SILENT_AFTER: floors, for machines that send often."""

    stale_after: timedelta
    silent_after: timedelta


class Packet(msgspec.Struct, frozen=True, array_like=True):
    """When a commit's readings of a machine arrived, and the newest event time among them, in microseconds since 1970."""

    arrived: int
    newest: int

    @property
    def lag(self) -> int:
        return self.arrived - self.newest


class Pulse(msgspec.Struct, frozen=True):
    """What is known of a machine. `packets` in the order in which they arrived; `usual_interval` None while unknown."""

    packets: tuple[Packet, ...] = ()
    usual_interval: timedelta | None = None
    clock_lag: timedelta = timedelta(0)
    seen_at: datetime = datetime.min.replace(tzinfo=UTC)

    def find_seen_at(self, taken_at: datetime, arrived_at: datetime) -> datetime:
        """When the machine was last heard, by the service's clock, given when its newest reading was taken and arrived."""
        return max(self.seen_at, min(taken_at + self.clock_lag, arrived_at))


def learn_pulse(pulse: Pulse, arriving: Iterable[Packet], limits: LivenessLimits) -> Pulse:
    """What is known after more packets, given in the order of their arrival; in how many parts makes no difference."""
    packets = list(pulse.packets)
    lag, usual = pulse.clock_lag // _MICROSECOND, pulse.usual_interval
    seen = to_microseconds(pulse.seen_at)
    spacing = limits.stale_after // _MICROSECOND // 8
    for packet in arriving:
        if packets and packet.arrived < packets[-1].arrived - SET_BACK:
            packets = [each for each in packets if each.arrived <= packet.arrived]
            seen = min(seen, packet.arrived)
        if packets and packet.arrived - packets[-1].arrived < spacing:
            continue
        packets.append(packet)
        del packets[:-KEPT]
        lag = _learn_lag(packets[-JUDGED:], lag)
        usual = _learn_interval(packets, lag, limits) or usual
        # With the lag that is known now: a clock that has just been set back is corrected for what it sent since.
        seen = max(seen, *(_correct(each, lag) for each in packets[-JUDGED:]))
    return Pulse(
        packets=tuple(packets),
        usual_interval=usual,
        clock_lag=lag * _MICROSECOND,
        seen_at=from_microseconds(seen),
    )


def _correct(packet: Packet, lag: int) -> int:
    return min(packet.newest + lag, packet.arrived)


def _learn_lag(packets: Sequence[Packet], known: int) -> int:
    if len(packets) < JUDGED:
        return known
    lags = sorted(packet.lag for packet in packets)
    if STEADY * _spread(lags) > _spread(sorted(packet.newest for packet in packets)):
        return known
    return lags[JUDGED // 2]


def _spread(ascending: Sequence[int]) -> int:
    """Over how much the middle half of JUDGED values is spread."""
    return ascending[-1 - JUDGED // 4] - ascending[JUDGED // 4]


def _learn_interval(packets: Sequence[Packet], lag: int, limits: LivenessLimits) -> timedelta | None:
    late = limits.silent_after // _MICROSECOND
    instants = sorted({packet.newest for packet in packets if packet.lag - lag <= late})
    gaps = sorted(after - before for before, after in pairwise(instants))
    if len(gaps) < FEWEST_GAPS:
        return None
    # Nearest rank, in whole numbers: the least one that nine tenths don't exceed.
    rank = min((9 * len(gaps) + 9) // 10, len(gaps) - 1)
    return gaps[rank - 1] * _MICROSECOND


def judge_liveness(
    seen_at: datetime | None, usual_interval: timedelta | None, now: datetime, limits: LivenessLimits
) -> Liveness:
    """The liveness of a machine that was last heard at `seen_at`, by the service's clock."""
    if seen_at is None:
        return Liveness.NEVER_SEEN
    age = now - seen_at
    usual = usual_interval or timedelta(0)
    if age > max(limits.silent_after, SILENT_INTERVALS * usual):
        return Liveness.SILENT
    return Liveness.STALE if age > max(limits.stale_after, STALE_INTERVALS * usual) else Liveness.LIVE
