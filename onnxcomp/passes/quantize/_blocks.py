"""A weight in a few bits, computed some rows at a time: little of a large one is in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxcomp.graph import Array
from onnxcomp.passes.quantize._block_grid import (
    BlockFormat,
    BlockGrid,
    fitted_grid,
    nearest_grid,
    steps_on,
    values_on,
)

# How many numbers are rounded at a time.
NUMBERS = 2**18


@dataclass(frozen=True)
class Blocks:
    """The grid of a weight [rows, columns], and its steps where they are not just the nearest."""

    fmt: BlockFormat
    grid: BlockGrid
    steps: Array | None = None

    def part(self, matrix: Array, rows: slice) -> tuple[Array, BlockGrid]:
        """Return the steps of some rows, [rows, columns] in uint8, with their grid."""
        grid = BlockGrid(self.grid.scale[rows], self.grid.zero[rows])
        if self.steps is not None:
            return self.steps[rows], grid
        return steps_on(np.ascontiguousarray(matrix[rows]), grid, self.fmt), grid

    def values(self, matrix: Array) -> Array:
        """Return the numbers that stand for a weight [rows, columns]."""
        steps, grid = self.part(matrix, slice(None))
        return values_on(steps, grid, self.fmt)


def find_blocks(matrix: Array, fmt: BlockFormat, *, fitted: bool) -> Blocks | None:
    """Return a weight's blocks, rounded to the nearest steps; None where it is not finite."""
    grids = []
    for rows in row_slices(matrix):
        part = np.ascontiguousarray(matrix[rows])
        if not np.isfinite(part).all():
            return None
        grids.append(fitted_grid(part, fmt) if fitted else nearest_grid(part, fmt))
    scale, zero = (np.concatenate([getattr(g, name) for g in grids]) for name in ("scale", "zero"))
    return Blocks(fmt, BlockGrid(scale, zero))


def blocks_sqnr(matrix: Array, blocks: Blocks) -> float:
    """Return the signal-to-noise ratio (dB) of a weight and what stands for it."""
    signal = noise = 0.0
    for rows in row_slices(matrix):
        part = np.ascontiguousarray(matrix[rows])
        error = part - values_on(*blocks.part(matrix, rows), blocks.fmt)
        signal += float(np.vdot(part, part))
        noise += float(np.vdot(error, error))
    if signal == 0.0:
        return -math.inf
    return math.inf if noise == 0.0 else 10 * math.log10(signal / noise)


def row_slices(matrix: Array) -> Iterator[slice]:
    """Yield the rows that are worked on at a time."""
    count = max(1, NUMBERS // max(matrix.shape[1], 1))
    for start in range(0, len(matrix), count):
        yield slice(start, start + count)
