"""The range whose quantized distribution tells the most."""

from __future__ import annotations

import numpy as np

from onnxcomp.calibration.ranges import Range
from onnxcomp.calibration.thresholds.levels import Levels, grids_of, widened
from onnxcomp.calibration.thresholds.loss import squared_errors
from onnxcomp.calibration.thresholds.mass import Mass
from onnxcomp.calibration.thresholds.percentile import holding
from onnxcomp.calibration.thresholds.settings import Settings
from onnxcomp.graph import Array

# The shares that are clipped: none, then from a millionth to a tenth.
OUTSIDE = np.append(0.0, 10.0 ** np.linspace(-6.0, -1.0, 41))


def entropy(mass: Mass, levels: Levels, settings: Settings) -> Range:  # noqa: ARG001
    """Return the range that gives the integers the greatest Shannon entropy.

    Of the percentile ranges of 90 to 100 %, those whose squared error is above that of minmax left
    out: where rare great values matter, entropy would give them up. For tensors that are read by
    rank or by threshold (hashes, codes, tokens) rather than by size; it clips more than least
    squares does, up to a few percent of a bell curve. Of equal entropies the widest range is taken.
    """
    found = [holding(mass, 1.0 - float(outside), levels) for outside in OUTSIDE]
    if levels.power_of_two:
        found = [widened(each, levels) for each in found]
    lows, highs = np.array([each.lo for each in found]), np.array([each.hi for each in found])
    errors = squared_errors(mass, lows, highs, levels)
    told = np.where(errors <= errors[0], entropies(mass, lows, highs, levels), -np.inf)
    return found[int(np.argmax(told))]


def entropies(mass: Mass, lows: Array, highs: Array, levels: Levels) -> Array:
    """Return the entropy in bits of a tensor's integers for each of the ranges, shape (n,)."""
    grids = grids_of(lows, highs, levels)
    borders = (grids.least + np.arange(levels.steps) + 0.5) * grids.scale
    below = _below(mass, borders)
    ends = np.zeros((len(lows), 1)), np.full((len(lows), 1), mass.total)
    shares = np.diff(np.concatenate([ends[0], below, ends[1]], axis=1), axis=1) / mass.total
    shares = np.maximum(shares, 0.0)
    return np.asarray(-(shares * np.log2(np.where(shares > 0, shares, 1.0))).sum(axis=1))


def _below(mass: Mass, borders: Array) -> Array:
    """Return how many values lie below each border."""
    sums = np.concatenate([[0.0], np.cumsum(mass.count)])
    place = np.searchsorted(mass.right, borders, side="right")  # intervals wholly below
    inside = np.minimum(place, len(mass.count) - 1)
    extent = mass.right[inside] - mass.left[inside]
    share = (borders - mass.left[inside]) / np.where(extent > 0, extent, 1.0)
    part = np.where(place < len(mass.count), np.clip(share, 0.0, 1.0) * mass.count[inside], 0.0)
    return np.asarray(sums[place] + np.where(extent > 0, part, 0.0))
