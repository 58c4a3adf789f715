"""What a range costs: the expected squared error of quantization, clipping and rounding."""

from __future__ import annotations

import math

import numpy as np

from onnxcomp.calibration.histogram import Histogram
from onnxcomp.calibration.ranges import Range
from onnxcomp.calibration.thresholds.levels import Levels, grids_of
from onnxcomp.calibration.thresholds.mass import Mass, mass_of
from onnxcomp.graph import Array

# Candidates times intervals that are worked on at a time: they stay in the processor's cache.
BLOCK = 1 << 16


def expected_error(histogram: Histogram, found: Range, levels: Levels | None = None) -> float:
    """Return the mean squared error of a tensor that is quantized to a range.

    In squared units of the tensor, over all its finite values. Zeros cost nothing; other values
    are taken to lie evenly in their bins.
    """
    ends = np.array([found.lo]), np.array([found.hi])
    return float(squared_errors(mass_of(histogram), *ends, levels or Levels())[0])


def sqnr_db(histogram: Histogram, found: Range, levels: Levels | None = None) -> float:
    """Return 10 log10(mean square / mean squared error): infinite where nothing is lost."""
    power, error = mean_square(mass_of(histogram)), expected_error(histogram, found, levels)
    if not error:
        return math.inf
    return 10.0 * math.log10(power / error) if power else -math.inf


def mean_square(mass: Mass) -> float:
    """Return the mean of x^2."""
    left, right = mass.left, mass.right
    squares = (left * left + left * right + right * right) / 3
    return float((squares * mass.count).sum() / mass.total)


def squared_errors(mass: Mass, lows: Array, highs: Array, levels: Levels) -> Array:
    """Return the mean squared error of each of the ranges [lows[i], highs[i]], shape (n,).

    Exact for values that lie evenly in their intervals: with u = x / scale, n the integer that it
    becomes and r = u - n, the integral of r^2 from 0 to u is n / 12 + r^3 / 3, also where n is at
    the end of the grid.
    """
    found = np.empty(len(lows))
    rows = max(1, BLOCK // max(1, len(mass.count)))
    for start in range(0, len(lows), rows):
        part = slice(start, start + rows)
        found[part] = _block(mass, lows[part], highs[part], levels)
    return found


def _block(mass: Mass, lows: Array, highs: Array, levels: Levels) -> Array:
    grids = grids_of(lows, highs, levels)
    left, right = mass.left / grids.scale, mass.right / grids.scale
    first, last = grids.nearest(left), grids.nearest(right)
    extent = right - left
    left -= first
    right -= last
    same = first == last
    within = (left * left + left * right + right * right) / 3
    across = (last - first) / 12 + (right * right * right - left * left * left) / 3
    means = np.where(same, within, across / np.where(same, 1.0, extent))
    sums = np.einsum("ij,j->i", means, mass.count)
    return np.asarray(sums * grids.scale[:, 0] ** 2 / mass.total)
