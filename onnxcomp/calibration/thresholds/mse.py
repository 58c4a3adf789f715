"""The range of the least mean squared error."""

from __future__ import annotations

import numpy as np

from onnxcomp.calibration.ranges import Range
from onnxcomp.calibration.thresholds.levels import (
    TINY,
    Levels,
    at_scale,
    scale_exponent,
    widened,
)
from onnxcomp.calibration.thresholds.loss import squared_errors
from onnxcomp.calibration.thresholds.mass import Mass
from onnxcomp.calibration.thresholds.settings import Settings
from onnxcomp.graph import Array

# Ends are tried at reach * 2^(-j / 12), down to a 2^11th of it.
PER_OCTAVE, OCTAVES = 12, 11
# Then around the best one, at steps this many times as fine each round.
FINER, ROUNDS = 4, 3
# Neighbours on either side in a round: of both ends at once, or of the only one.
NEAR_TWO, NEAR_ONE = 2, 6
# Where a range of a power of two that does not hold all may lie.
PLACES = 9


def mse(mass: Mass, levels: Levels, settings: Settings) -> Range:  # noqa: ARG001
    """Return the range of the least expected squared error, clipping and rounding together.

    Both ends are searched (Banner et al., Post-training 4-bit quantization, NeurIPS 2019, solve
    the symmetric case for known densities): first with scale^2 / 12 for the rounding of each value
    but zero, then around the best with the error summed over the bins. Never worse than minmax.
    """
    lo, hi = min(mass.lo, 0.0), max(mass.hi, 0.0)
    if (hi - lo) / levels.steps <= TINY:
        return Range(lo, hi)
    if levels.power_of_two:
        return _of_power_of_two(mass, Range(lo, hi), levels)
    one = levels.symmetric or lo * hi == 0
    lows, highs = _one_end(lo, hi) if one else _two_ends(mass, lo, hi, levels)
    best = _best(mass, np.append(lows, lo), np.append(highs, hi), levels)
    shifts = np.arange(-NEAR_ONE, NEAR_ONE + 1) if one else np.arange(-NEAR_TWO, NEAR_TWO + 1)
    for turn in range(ROUNDS):
        factors = 2.0 ** (shifts / (PER_OCTAVE * FINER**turn))
        pairs = (factors, factors) if one else np.meshgrid(factors, factors)
        lows = np.maximum(best.lo * pairs[0].reshape(-1), lo)
        highs = np.minimum(best.hi * pairs[1].reshape(-1), hi)
        best = _best(mass, np.append(best.lo, lows), np.append(best.hi, highs), levels)
    return best


def _best(mass: Mass, lows: Array, highs: Array, levels: Levels) -> Range:
    place = int(np.argmin(squared_errors(mass, lows, highs, levels)))
    return Range(float(lows[place]) + 0.0, float(highs[place]))


def _ladder() -> Array:
    return np.asarray(2.0 ** (-np.arange(PER_OCTAVE * OCTAVES + 1) / PER_OCTAVE))


def _one_end(lo: float, hi: float) -> tuple[Array, Array]:
    """Return the ranges within |x| <= T, for each T that is tried."""
    reaches = max(-lo, hi) * _ladder()
    return np.maximum(lo, -reaches), np.minimum(hi, reaches)


def _two_ends(mass: Mass, lo: float, hi: float, levels: Levels) -> tuple[Array, Array]:
    """Return the best few of all pairs of ends, by what is clipped and scale^2 / 12."""
    values = mass.without_zeros()
    lows, highs = lo * np.append(_ladder(), 0.0), hi * np.append(_ladder(), 0.0)
    beyond_hi, clip_hi = _clipped(values, highs)
    beyond_lo, clip_lo = _clipped(values.mirrored(), -lows)
    inside = values.total - beyond_lo[:, None] - beyond_hi
    scale = (highs - lows[:, None]) / levels.steps
    costs = clip_lo[:, None] + clip_hi + inside * scale**2 / 12
    rows, columns = np.unravel_index(np.argsort(costs, axis=None, kind="stable")[:8], costs.shape)
    return lows[rows], highs[columns]


def _clipped(values: Mass, ends: Array) -> tuple[Array, Array]:
    """Return how many values lie beyond each end, and the sum of the squares of their excess."""
    middle, extent = values.middle, values.right - values.left
    moments = (
        values.count,
        values.count * middle,
        values.count * (middle**2 + extent**2 / 12),
    )
    places = np.searchsorted(middle, ends, side="right")
    tails = [np.append(np.cumsum(each[::-1])[::-1], 0.0)[places] for each in moments]
    return tails[0], np.maximum(tails[2] - 2 * ends * tails[1] + ends**2 * tails[0], 0.0)


def _of_power_of_two(mass: Mass, whole: Range, levels: Levels) -> Range:
    wide = widened(whole, levels)
    exponent = scale_exponent(wide, levels)
    shares = [0.0] if levels.symmetric else np.linspace(0.0, 1.0, PLACES)
    found = [wide]
    for less in range(1, OCTAVES + 1):
        found += [at_scale(whole, exponent - less, float(share), levels) for share in shares]
    lows, highs = np.array([each.lo for each in found]), np.array([each.hi for each in found])
    return _best(mass, lows, highs, levels)
