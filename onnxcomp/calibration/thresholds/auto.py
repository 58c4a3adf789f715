"""The range that costs those who read the tensor the least."""

from __future__ import annotations

import numpy as np

from onnxcomp.calibration.ranges import Range
from onnxcomp.calibration.thresholds.entropy import entropy
from onnxcomp.calibration.thresholds.kl import kl
from onnxcomp.calibration.thresholds.levels import Levels, quantized
from onnxcomp.calibration.thresholds.loss import mean_square, squared_errors
from onnxcomp.calibration.thresholds.mass import Mass
from onnxcomp.calibration.thresholds.minmax import minmax
from onnxcomp.calibration.thresholds.mse import mse
from onnxcomp.calibration.thresholds.percentile import percentile
from onnxcomp.calibration.thresholds.settings import Consumer, Method, Settings, identity
from onnxcomp.graph import Array

# In the order in which the first of equals is taken.
METHODS: tuple[Method, ...] = (minmax, mse, kl, entropy)
PERCENTILES = (99.999, 99.99, 99.9)
# Values that stand for the mass of a bin.
POINTS = 4
GREATEST = float(np.finfo(np.float32).max)


def auto(mass: Mass, levels: Levels, settings: Settings) -> Range:
    """Return, of the ranges of all methods, that of the least `consumer_error`.

    Tried are those of minmax, mse, kl, entropy and a few percentiles, and then the winner with
    either end of another one.
    """
    found = [method(mass, levels, settings) for method in METHODS]
    found += [percentile(mass, levels, Settings(each)) for each in PERCENTILES]
    best = _best(mass, list(dict.fromkeys(found)), levels, settings)
    if levels.power_of_two or levels.symmetric:
        return best
    crossed = [Range(best.lo, each.hi) for each in found if best.lo <= each.hi]
    best = _best(mass, list(dict.fromkeys([best, *crossed])), levels, settings)
    crossed = [Range(each.lo, best.hi) for each in found if each.lo <= best.hi]
    return _best(mass, list(dict.fromkeys([best, *crossed])), levels, settings)


def _best(mass: Mass, found: list[Range], levels: Levels, settings: Settings) -> Range:
    costs = consumer_errors(mass, found, levels, settings.consumers or (identity,))
    return found[int(np.argmin(costs))]


def consumer_errors(
    mass: Mass, found: list[Range], levels: Levels, consumers: tuple[Consumer, ...]
) -> Array:
    """Return, for each range, the sum over the consumers f of E (f(x) - f(Q(x)))^2 / E f(x)^2.

    Without unit. A consumer that gives only zeros does not count.
    """
    costs = np.zeros(len(found))
    data, count = mass.points(POINTS)
    for consumer in consumers:
        if consumer is identity:
            costs += _linear(mass, found, levels)
            continue
        exact = _applied(consumer, data)
        power = float((exact**2 * count).sum())
        for place, each in enumerate(found if power else ()):
            error = (_applied(consumer, quantized(data, each, levels)) - exact) ** 2
            costs[place] += float((error * count).sum()) / power
    return costs


def _linear(mass: Mass, found: list[Range], levels: Levels) -> Array:
    power = mean_square(mass)
    if not power:
        return np.zeros(len(found))
    lows, highs = np.array([each.lo for each in found]), np.array([each.hi for each in found])
    return squared_errors(mass, lows, highs, levels) / power


def _applied(consumer: Consumer, data: Array) -> Array:
    """Return what a consumer makes of values, with finite numbers for what it cannot tell."""
    with np.errstate(all="ignore"):
        output = np.asarray(consumer(data), np.float64)
    return np.asarray(np.nan_to_num(output, nan=0.0, posinf=GREATEST, neginf=-GREATEST))
