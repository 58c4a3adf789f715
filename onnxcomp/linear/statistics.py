"""Outputs of a layer brought to the mean and spread that they should have, channel by channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxcomp.graph import Array

# A factor beyond this is not taken: the layer makes something else by now.
LARGEST_FACTOR = 10.0

# What a layer makes, and what it should make: each [groups, positions, rows].
Rows = tuple[Array, Array]


@dataclass(frozen=True)
class Matched:
    """y * factor + shift for each channel [groups, rows], with relative held-out errors."""

    factor: Array
    shift: Array
    before: float
    after: float


def match(rows: Sequence[Rows], held: Sequence[Rows]) -> Matched | None:
    """Return the factors and shifts that match mean and deviation, or else only the mean.

    y' = (y - mean) s_wanted / s + mean_wanted. Of the two, what has the least error on the rows
    held out; None where neither lowers it. Source: Jordan et al., 2023 (arXiv 2211.08403).
    """
    mean, deviation = _moments([made for made, _ in rows])
    wanted_mean, wanted_deviation = _moments([wanted for _, wanted in rows])
    ratio = np.divide(wanted_deviation, deviation, out=np.ones_like(deviation), where=deviation > 0)
    ratio = np.where((ratio > 0) & (ratio <= LARGEST_FACTOR), ratio, 1.0)
    before, best = _error(held, np.ones_like(ratio), np.zeros_like(ratio)), None
    least = before
    for factor in (ratio, np.ones_like(ratio)):
        shift = wanted_mean - mean * factor
        error = _error(held, factor, shift)
        if error < least:
            best, least = Matched(factor, shift, before, error), error
    return best


def _moments(parts: Sequence[Array]) -> tuple[Array, Array]:
    joined = np.concatenate(parts, axis=1, dtype=np.float64)
    return joined.mean(axis=1), joined.std(axis=1)


def _error(held: Sequence[Rows], factor: Array, shift: Array) -> float:
    noise = signal = 0.0
    for made, wanted in held:
        moved = made * factor[:, np.newaxis] + shift[:, np.newaxis]
        noise += float(np.square(wanted - moved).sum())
        signal += float(np.square(wanted, dtype=np.float64).sum())
    return noise / max(signal, 1e-30)
