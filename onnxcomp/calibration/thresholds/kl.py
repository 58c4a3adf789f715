"""The range whose quantized distribution diverges least from the original one."""

from __future__ import annotations

import math

import numpy as np

from onnxcomp.calibration.ranges import Range
from onnxcomp.calibration.thresholds.levels import Levels, at_scale, scale_exponent, widened
from onnxcomp.calibration.thresholds.mass import Mass
from onnxcomp.calibration.thresholds.settings import Settings
from onnxcomp.graph import Array

# More bins than this resolve the noise of the samples rather than the shape of the distribution,
# and so do bins that hold fewer values than this on average.
BINS = 1024
VALUES_PER_BIN = 32
# Of the values other than zero no more than this share is clipped: with all but a few bins cut
# off, P and Q agree because neither tells anything.
CLIPPED = 0.1
# Beyond this many bins, T is tried at steps of less than a hundredth of it.
FINE = 128
# What stands for no value where the reference has some: half a value.
HALF = 0.5


def kl(mass: Mass, levels: Levels, settings: Settings) -> Range:  # noqa: ARG001
    """Return the range cut at the |x| <= T of least Kullback-Leibler divergence.

    After Migacz, 8-bit Inference with TensorRT, GTC 2017, with these differences. Exact zeros are
    left out: they are exact at any T. Values of one sign have all levels of an asymmetric grid,
    others half of them. The bins are joined until at most 1,024 are in use and those hold 32
    values each, so that the result does not depend on how fine the histogram is. Levels are spread
    over the bins as evenly as whole bins allow, and give fractions. T may keep fewer bins than
    there are levels: only clipping counts there. No more than a tenth of the values is clipped. Of
    equal divergences that of the smallest T is taken.
    """
    found = Range(min(mass.lo, 0.0), max(mass.hi, 0.0))
    bins, width = magnitude_bins(mass)
    if not len(bins):
        return found
    cells = 2 ** (levels.bits - 1)
    if found.lo * found.hi == 0 and not levels.symmetric:
        cells = levels.steps
    tried = candidates(bins)
    kept = int(tried[np.argmin(divergences(bins, tried, cells))])
    reach = mass.reach if kept == len(bins) else kept * width
    found = Range(max(found.lo, -reach), min(found.hi, reach))
    if not levels.power_of_two:
        return found
    return _of_power_of_two(found, mass, levels, cells)


def magnitude_bins(mass: Mass) -> tuple[Array, float]:
    """Return the counts of |x| in bins [i w, (i + 1) w), without zeros, and w."""
    values = mass.without_zeros()
    if not len(values.count):
        return values.count, mass.width
    places = np.floor(np.abs(values.middle) / mass.width).astype(np.int64)
    most = min(BINS, max(1, int(values.total) // VALUES_PER_BIN))
    times = max(0, math.ceil(math.log2((places.max() + 1) / most)))
    return np.bincount(places >> times, values.count), math.ldexp(mass.width, times)


def candidates(bins: Array) -> Array:
    """Return the numbers of bins that T may keep, ascending, all of them last."""
    sums = np.cumsum(bins)
    least = int(np.searchsorted(sums, (1.0 - CLIPPED) * sums[-1])) + 1
    tried = np.arange(least, len(bins) + 1)
    kept = tried % np.maximum(1, 2 ** np.floor(np.log2(tried / FINE))) == 0
    kept[-1] = True
    return np.asarray(tried[kept])


def divergences(bins: Array, kept: Array, cells: int | Array) -> Array:
    """Return KL(P || Q) in nats when the first `kept[i]` bins are kept, shape (n,).

    P is those bins, with the rest added to the last of them; Q is what they hold, merged to
    `cells` levels and spread over the bins of a level that are not empty in P. Where Q is 0 and P
    is not, Q is half a value. P and Q are normalized before.
    """
    sums = np.concatenate([[0.0], np.cumsum(bins)])
    filled = np.concatenate([[0.0], np.cumsum(bins > 0)])
    logs = np.concatenate([[0.0], np.cumsum(_xlogx(bins))])
    total, inside = sums[-1], sums[kept]
    cells = np.minimum(cells, kept)
    last = bins[kept - 1] + (total - inside)  # the last bin of P
    appears = (last > 0) & (bins[kept - 1] == 0)  # filled by what is clipped alone

    borders = _borders(kept, cells, int(np.max(cells)))
    held = np.diff(sums[borders], axis=1)
    spread = np.diff(filled[borders], axis=1)
    rows, end = np.arange(len(kept)), cells - 1
    spread[rows, end] += appears
    p_held = held.copy()
    p_held[rows, end] += total - inside
    q = np.where(held > 0, held, HALF) / np.maximum(spread, 1.0)
    own = logs[kept - 1] + _xlogx(last)
    cross = (p_held * np.log(q)).sum(axis=1)
    q_total = np.maximum(inside, HALF)
    return np.asarray((own - cross) / total - np.log(total) + np.log(q_total))


def _borders(kept: Array, cells: Array, most: int) -> Array:
    """Return the bins at which levels begin, and the end; rows of fewer levels repeat it."""
    steps = np.minimum(np.arange(most + 1), cells[:, None])
    return np.asarray(steps * kept[:, None] // cells[:, None])


def _xlogx(data: Array) -> Array:
    return np.asarray(data * np.log(np.where(data > 0, data, 1.0)))


def _of_power_of_two(found: Range, mass: Mass, levels: Levels, cells: int) -> Range:
    """Return the better one of the ranges with the scales of 2^k around that of another."""
    wide = widened(found, levels)
    exponent = scale_exponent(wide, levels)
    narrow = at_scale(found, exponent - 1, 0.5, levels)
    bins, width = magnitude_bins(mass)
    reaches = np.array([max(-each.lo, each.hi) for each in (narrow, wide)])
    kept = np.clip(np.rint(reaches / width), 1, len(bins)).astype(np.int64)
    used = np.clip(np.rint(cells * kept * width / reaches), 1, cells).astype(np.int64)
    costs = divergences(bins, kept, used)
    return narrow if costs[0] < costs[1] else wide
