"""Weights rounded to int8 block by block, so that little of a large one is in memory at once."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from onnxcomp.graph import Array
from onnxcomp.passes.quantize._numbers import TINY

LARGEST = 127
# How many numbers are rounded at a time: what fits a cache.
BLOCK = 2**16


def scales_of(weight: Array, axes: Collection[int]) -> Array | None:
    """Return max |w| / 127 for each index along `axes`, with 1 in the place of every other dim.

    Where all numbers are zero the scale is 1. None when a number is not finite.
    """
    others = tuple(axis for axis in range(weight.ndim) if axis not in axes)
    high = weight.max(axis=others, keepdims=True, initial=0.0)
    low = weight.min(axis=others, keepdims=True, initial=0.0)
    scale = np.maximum(high, -low) / np.float32(LARGEST)
    if not np.isfinite(scale).all():
        return None
    return np.where(scale > TINY, scale, 1.0).astype(np.float32)


def round_weight(weight: Array, scale: Array) -> Array:
    """Return round(w / scale) as int8."""
    steps = np.empty(weight.shape, dtype=np.int8)
    for block in _blocks(weight):
        part = weight[block] / _part(scale, block)
        steps[block] = np.rint(part, out=part)
    return steps


def rounding_sqnr(weight: Array, scale: Array) -> float:
    """Return the signal-to-noise ratio (dB) of a weight and its rounded form."""
    signal = noise = 0.0
    for block in _blocks(weight):
        part, step = weight[block], _part(scale, block)
        error = part / step
        error -= np.rint(error)
        error *= step
        signal += float(np.vdot(part, part))
        noise += float(np.vdot(error, error))
    if signal == 0.0:
        return -math.inf
    return math.inf if noise == 0.0 else 10 * math.log10(signal / noise)


def _blocks(weight: Array) -> list[slice]:
    rows = max(1, BLOCK * len(weight) // max(weight.size, 1))
    return [slice(start, start + rows) for start in range(0, len(weight), rows)]


def _part(scale: Array, block: slice) -> Array:
    return scale if len(scale) == 1 else scale[block]
