"""Random numbers by index instead of in sequence: what arrives is a key and indexes, the same numbers leave every time.

Because number 1,000,000 needs none of the 999,999 before it, a reading doesn't depend on where a batch begins.
Nothing here fails.
"""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
KeyArray = NDArray[np.uint64]
MaskArray = NDArray[np.bool]

# Increment and multipliers of SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
# OOPSLA 2014, with the finaliser (variant 13) of Stafford.
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

_OCTAVES = ((9_000, 0.25), (67_000, 0.2), (660_000, 0.3), (5_820_000, 0.25))
_DRIFT_OCTAVES = ((111_600_000, 0.4), (432_000_000, 0.6))


def make_keys(*names: str) -> KeyArray:
    """One key per name, shape (len(names), 1), so that a key stands before the row of indexes it is used with."""
    digests = [blake2b(name.encode(), digest_size=8).digest() for name in names]
    return np.array([[int.from_bytes(digest, "big")] for digest in digests], dtype=np.uint64)


def draw_bits(keys: KeyArray, indexes: IntArray) -> KeyArray:
    """64 random bits for each key and index: outputs number `indexes` of the SplitMix64 generator seeded with `keys`.

    Shapes (k, 1) and (n,) give (k, n). Sums and products wrap at 2**64, which is the generator's arithmetic.
    """
    state: KeyArray = keys + indexes.astype(np.uint64) * _GAMMA
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))


def draw_uniform(keys: KeyArray, indexes: IntArray) -> FloatArray:
    """Evenly spread over [0, 1), from the upper 53 bits; shape (k, n)."""
    return (draw_bits(keys, indexes) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw_bell(keys: KeyArray, indexes: IntArray) -> FloatArray:
    """Bell-shaped over [-1, 1], standard deviation 0.289; shape (k, n).

    The sum of four even numbers of 16 bits (Irwin-Hall): near enough to normal, but never outside its bounds,
    so that a healthy reading never leaves its range by bad luck.
    """
    bits = draw_bits(keys, indexes)
    parts = [(bits >> np.uint64(16 * quarter)) & np.uint64(0xFFFF) for quarter in range(4)]
    total: FloatArray = np.sum([part.astype(np.float64) for part in parts], axis=0)
    return total / (2 * 65535.0) - 1.0


def _wander(keys: KeyArray, instants: IntArray, octaves: tuple[tuple[int, float], ...]) -> FloatArray:
    """Value noise: a random height at each multiple of an octave's period, joined by smooth steps, octaves added up.

    Source: Ebert et al., "Texturing and Modeling", 3rd ed. 2003, ch. 2. Octave o has its own keys: keys + o.
    """
    total = np.zeros(np.broadcast_shapes(keys.shape, instants.shape))
    for octave, (period, weight) in enumerate(octaves, start=1):
        own = keys + np.uint64(octave)
        knot, rest = np.divmod(instants, period)
        part = rest / period
        left, right = draw_uniform(own, knot), draw_uniform(own, knot + 1)
        total += weight * (2 * (left + (right - left) * part * part * (3 - 2 * part)) - 1)
    return total


def wander(keys: KeyArray, instants: IntArray) -> FloatArray:
    """A line in [-1, 1] that moves over 9 s to 97 min. `instants` in ms since 1970, shape (n,); answers (k, n)."""
    return _wander(keys, instants, _OCTAVES)


def drift(keys: KeyArray, instants: IntArray) -> FloatArray:
    """A line in [-1, 1] that moves over 31 h to 5 days. `instants` in ms since 1970, shape (n,); answers (k, n)."""
    return _wander(keys, instants, _DRIFT_OCTAVES)
