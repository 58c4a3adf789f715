"""The grid of integers that a range is going to get, and what it makes of a value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnxcomp.calibration.ranges import Range
from onnxcomp.graph import Array

# A scale that is not above this is taken for zero, and replaced by 1.
TINY = 2.0**-50
GREATEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Levels:
    """What a grid looks like: unsigned with a zero point, or symmetric; scales of 2^k or any.

    An asymmetric grid has 2^bits - 1 steps between its ends; a symmetric one goes from
    -(2^(bits-1) - 1) to 2^(bits-1) - 1, so that its scale is max |x| / 127 for 8 bits.
    """

    bits: int = 8
    symmetric: bool = False
    power_of_two: bool = False

    @property
    def most(self) -> int:
        """The greatest integer of a symmetric grid."""
        return int(2 ** (self.bits - 1) - 1)

    @property
    def steps(self) -> int:
        """The number of steps from the least to the greatest integer."""
        return 2 * self.most if self.symmetric else int(2**self.bits - 1)


@dataclass(frozen=True, eq=False)
class Grids:
    """Grids real = scale * q with `least` <= q <= `most`, one per row: arrays of shape (n, 1)."""

    scale: Array
    least: Array
    most: Array

    def nearest(self, steps: Array) -> Array:
        """Return the integers next to x / scale, one row per grid."""
        return np.asarray(np.clip(np.rint(steps), self.least, self.most))


def grids_of(lows: Array, highs: Array, levels: Levels) -> Grids:
    """Return the grids of the ranges [lows[i], highs[i]], widened to zero.

    Asymmetric: scale = (hi - lo) / steps and zero_point = round(-lo / scale); symmetric:
    scale = max(-lo, hi) / most. Scales are rounded to float32, as models keep them.
    """
    lows, highs = (np.asarray(ends, np.float64).reshape(-1, 1) for ends in (lows, highs))
    lows, highs = np.minimum(lows, 0.0), np.maximum(highs, 0.0)
    if levels.symmetric:
        scale = _float32(np.maximum(-lows, highs) / levels.most)
        most = np.full_like(scale, levels.most)
        return Grids(scale, -most, most)
    scale = _float32((highs - lows) / levels.steps)
    zero_point = np.clip(np.rint(-lows / scale), 0, levels.steps)
    return Grids(scale, -zero_point, levels.steps - zero_point)


def quantized(data: Array, found: Range, levels: Levels) -> Array:
    """Return values of shape (n,) as they read after a round trip through a range's grid."""
    grid = grids_of(np.array([found.lo]), np.array([found.hi]), levels)
    return np.asarray((grid.nearest(data / grid.scale) * grid.scale)[0])


def widened(found: Range, levels: Levels) -> Range:
    """Return the least range that holds this one and zero and whose scale is a power of two."""
    lo, hi = min(found.lo, 0.0), max(found.hi, 0.0)
    if lo == hi:
        return Range(lo, hi)
    span = max(-lo, hi) * 2 if levels.symmetric else hi - lo
    exponent = math.frexp(span / levels.steps)[1] - 2
    while not _holds(lo, hi, exponent, levels):
        exponent += 1
    return _placed(lo, hi, exponent, levels)


def at_scale(found: Range, exponent: int, share: float, levels: Levels) -> Range:
    """Return the range of scale 2^exponent within another one, or, where it is wider, around it.

    `share` says where it lies when it is narrower: 0 at the lower end, 1 at the upper end; zero is
    always inside. Symmetric grids have no choice.
    """
    lo, hi = min(found.lo, 0.0), max(found.hi, 0.0)
    if levels.symmetric or _holds(lo, hi, exponent, levels):
        return _placed(lo, hi, exponent, levels)
    below = math.ceil(math.ldexp(-lo, -exponent))
    above = math.ceil(math.ldexp(hi, -exponent))
    zero_point = round(below - share * (below + above - levels.steps))
    return _with_zero_point(min(max(zero_point, 0), levels.steps), exponent, levels)


def scale_exponent(found: Range, levels: Levels) -> int:
    """Return the k of a range whose scale is 2^k."""
    grid = grids_of(np.array([found.lo]), np.array([found.hi]), levels)
    return math.frexp(float(grid.scale[0, 0]))[1] - 1


def _holds(lo: float, hi: float, exponent: int, levels: Levels) -> bool:
    if levels.symmetric:
        return max(-lo, hi) <= math.ldexp(levels.most, exponent)
    below = math.ceil(math.ldexp(-lo, -exponent))
    return below + math.ceil(math.ldexp(hi, -exponent)) <= levels.steps


def _placed(lo: float, hi: float, exponent: int, levels: Levels) -> Range:
    """Return the range of this scale that has what it has to spare at its upper end."""
    if levels.symmetric:
        reach = math.ldexp(levels.most, exponent)
        return Range(-reach if lo < 0 else 0.0, reach if hi > 0 else 0.0)
    if hi <= 0:
        return _with_zero_point(levels.steps, exponent, levels)
    return _with_zero_point(math.ceil(math.ldexp(-lo, -exponent)), exponent, levels)


def _with_zero_point(zero_point: int, exponent: int, levels: Levels) -> Range:
    lo = math.ldexp(-zero_point, exponent) + 0.0
    return Range(lo, math.ldexp(levels.steps - zero_point, exponent))


def _float32(scale: Array) -> Array:
    rounded = np.minimum(scale, GREATEST).astype(np.float32).astype(np.float64)
    return np.where(rounded > TINY, rounded, 1.0)
