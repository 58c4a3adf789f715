"""The arithmetic of int8: grids of activations, scales of weights, integer biases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxcomp.calibration.ranges import Range
from onnxcomp.graph import Array

LEVELS = 255
WEIGHT_MAX = 127
# What an int8 zero point is less than the uint8 one of the same grid.
SIGNED_OFFSET = 128
# Below this a scale is taken for zero: its products with other scales would leave float32.
TINY = 2.0**-50
# A bias leaves half of int32 to the sum that it is added to.
BIAS_MAX = 2**30
# From so many steps on, a number is put on a grid by larger steps: at most 1.5 times as large.
WHOLE_STEPS = 2


@dataclass(frozen=True)
class Grid:
    """A uint8 grid: real = scale * (q - zero_point); `scale` is exact in float32.

    In int8 all bytes, the zero point among them, are 128 less.
    """

    scale: float
    zero_point: int

    @property
    def span(self) -> float:
        """The distance between the least and the greatest number of the grid."""
        return self.scale * LEVELS


# The grid that gates are read on: 0, 1 and, for a hard sigmoid, 0.5 are all on it.
GATE = Grid(float(np.float32(1 / 254)), 1)


@dataclass(frozen=True)
class IntWeight:
    """A quantized weight: real = scale * data, with one scale or one per index of `axis`."""

    data: Array
    scale: Array
    axis: int | None


def with_zero(found: Range) -> Range:
    """Widen a range to include zero, which padding and Relu need to be exact."""
    return Range(min(found.lo, 0.0), max(found.hi, 0.0))


def clipped(found: Range, low: float, high: float) -> Range:
    """Return the part of a range that lies within [low, high]; zero is expected in both."""
    inside = with_zero(found)
    return Range(max(inside.lo, low), min(inside.hi, high))


def grid_of(found: Range) -> Grid:
    """Return the grid of a range: scale = (hi - lo) / 255, zero_point = round(-lo / scale).

    Within the range nothing is off by more than half a step. A range without extent, that of a
    tensor of zeros, gets scale 1.
    """
    inside = with_zero(found)
    scale = float(np.float32((inside.hi - inside.lo) / LEVELS))
    if not scale > TINY:
        return Grid(1.0, 0)
    return Grid(scale, int(np.clip(np.rint(-inside.lo / scale), 0, LEVELS)))


def symmetric_grid(found: Range) -> Grid:
    """Return the grid of a range around zero: scale = max |x| / 127, the zero point in the middle.

    As int8 its zero point is 0.
    """
    scale = float(np.float32(max(abs(found.lo), abs(found.hi)) / 127))
    return Grid(scale if scale > TINY else 1.0, SIGNED_OFFSET)


def with_multiple(grid: Grid, number: float) -> Grid:
    """Return a grid of the same range that a number lies on too, where it is some steps from zero.

    What an activation function closes is then exact: it becomes that number, often in most places.
    """
    steps = int(abs(number) / grid.scale * (1 + 1e-6))
    if steps < WHOLE_STEPS:
        return grid
    scale = float(np.float32(abs(number) / steps))
    low = grid.zero_point * grid.scale
    return Grid(scale, int(np.clip(np.rint(low / scale), 0, LEVELS)))


def written_grid(read: Grid, factor: float, shift: float) -> Grid | None:
    """Return the grid to write x on so that its bytes, read on another, are factor * x + shift.

    scale = s / factor and zero_point = z + shift / s; None where that is no byte.
    """
    zero = round(read.zero_point + shift / read.scale)
    if not 0 <= zero <= LEVELS:
        return None
    return Grid(float(np.float32(read.scale / factor)), zero)


def range_of_array(data: Array) -> Range | None:
    """Return the range of a constant, or None when it is empty or not finite."""
    if not data.size or not np.isfinite(data).all():
        return None
    return Range(float(data.min()), float(data.max()))


def quantize_to(grid: Grid, data: Array) -> Array:
    """Return the uint8 form of a constant on a grid."""
    steps = np.rint(data.astype(np.float64) / grid.scale) + grid.zero_point
    return np.asarray(np.clip(steps, 0, LEVELS).astype(np.uint8))


def weight_scale(
    weight: Array, axis: int | None, largest: int, least_scale: Array | float = 0.0
) -> Array:
    """Return the scale of a weight, per index of `axis`: max |w| / largest, in float32.

    `least_scale` raises single scales (see `least_scales`); a channel of zeros takes it, or 1.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    reach = np.abs(weight.astype(np.float64)).max(
        axis=None if axis is None else others, initial=0.0
    )
    least = np.max(least_scale) if axis is None else least_scale
    scale = np.maximum(reach / largest, least)
    return np.where(scale > TINY, scale, 1.0 if axis is None else TINY).astype(np.float32)


def quantize_weight(
    weight: Array, axis: int | None, largest: int, least_scale: Array | float = 0.0
) -> IntWeight:
    """Quantize a weight symmetrically by the scales of `weight_scale`."""
    scale = weight_scale(weight, axis, largest, least_scale)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    steps = np.rint(
        weight.astype(np.float64) / scale.astype(np.float64).reshape(() if axis is None else shape)
    )
    data = np.clip(steps, -largest, largest).astype(np.int8)
    return IntWeight(np.asarray(data), np.asarray(scale), axis)


def least_scales(bias: Array | None, input_scale: float) -> Array | float:
    """Return the weight scales below which a bias would not fit in int32: |b| / (s_x * 2^30)."""
    return 0.0 if bias is None else np.abs(bias.astype(np.float64)) / (input_scale * BIAS_MAX)


def quantize_bias(bias: Array, input_scale: float, weight_scale: Array) -> tuple[Array, Array]:
    """Return a bias as int32 with its scales: scale = s_x * s_w, as the integer kernels assume."""
    scale = np.float32(input_scale) * np.broadcast_to(weight_scale, bias.shape).astype(np.float32)
    steps = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    limit = np.iinfo(np.int32).max
    return np.clip(steps, -limit, limit).astype(np.int32), np.asarray(scale)
