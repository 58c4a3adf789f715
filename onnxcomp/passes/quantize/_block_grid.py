"""Weights in a few bits: each block of a row has a scale of its own, and perhaps a zero point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxcomp.graph import Array
from onnxcomp.passes.quantize._numbers import TINY

# Half-quadratic splitting: its norm, weights of the penalty, and how fast that grows.
NORM = 0.7
PENALTY = 10.0
GROWTH = 1.05
ITERATIONS = 4
# How far the largest weights are cut off at first; each is tried.
CUTS = (1.0, 0.9)


@dataclass(frozen=True)
class BlockFormat:
    """How a row is stored: `bits` for each weight, blocks of so many, with zero points or without.

    Where it is `mirrored` a scale may be negative, so that the largest weight of either sign is at
    the far end of the grid, -2^(bits-1).
    """

    bits: int
    block: int
    symmetric: bool = True
    mirrored: bool = True

    @property
    def middle(self) -> int:
        """The step that is zero without zero points."""
        return int(2 ** (self.bits - 1))

    @property
    def last(self) -> int:
        """The greatest step; the least is 0."""
        return int(2**self.bits - 1)

    def blocks(self, columns: int) -> int:
        """Return how many blocks a row has; the last may be shorter."""
        return -(-columns // self.block)


@dataclass(frozen=True)
class BlockGrid:
    """w = scale * (q - zero) for each block, both [rows, blocks]; q is from 0 to `last`."""

    scale: Array
    zero: Array


def nearest_grid(matrix: Array, fmt: BlockFormat, cut: float = 1.0) -> BlockGrid:
    """Return the grid that reaches `cut` times the extremes of each block of [rows, columns]."""
    blocks = _in_blocks(matrix, fmt.block)
    high, low = (np.maximum(sign * blocks, 0).max(axis=-1) * cut for sign in (1, -1))
    if not fmt.symmetric:
        scale = _positive((high + low) / np.float32(fmt.last))
        return BlockGrid(scale, np.clip(np.rint(low / scale), 0, fmt.last).astype(np.uint8))
    scale = _positive(np.maximum(high / (fmt.middle - 1), low / fmt.middle))
    if fmt.mirrored:
        scale = _positive(np.maximum(high, low) / fmt.middle)
        scale = np.where(high > low, -scale, scale)
    return BlockGrid(scale, np.full(scale.shape, fmt.middle, np.uint8))


def fitted_grid(matrix: Array, fmt: BlockFormat) -> BlockGrid:
    """Return for each block the grid of least squared error that half-quadratic splitting finds.

    Outliers e are split off, by the proximal operator of |e|^p, and the grid fits what is left:
    min |e|_p^p + beta/2 |W - s (Q - z) - e|^2 in turns for e and for s (or z), with whole z.
    Source: Badri and Shaji, 2023 (Half-Quadratic Quantization). Never worse than `nearest_grid`.
    """
    blocks = _in_blocks(matrix, fmt.block)
    best, least = nearest_grid(matrix, fmt), None
    for cut in CUTS:
        grid, beta = nearest_grid(matrix, fmt, cut), PENALTY
        for step in range(ITERATIONS):
            steps = _to_steps(blocks, grid, fmt)
            error = blocks - _values(steps, grid)
            noise = np.square(error).sum(axis=-1)
            least = noise if least is None else least
            better = noise < least
            best = BlockGrid(*(_pick(better, *each) for each in zip(_both(grid), _both(best))))  # noqa: B905
            least = np.minimum(noise, least)
            if step + 1 < ITERATIONS:
                grid = _refitted(blocks - _shrunk(error, beta), steps, grid, fmt)
                beta *= GROWTH
    return best


def steps_on(matrix: Array, grid: BlockGrid, fmt: BlockFormat) -> Array:
    """Return the nearest steps of [rows, columns], uint8."""
    steps = _to_steps(_in_blocks(matrix, fmt.block), grid, fmt)
    return np.asarray(steps.astype(np.uint8).reshape(len(matrix), -1)[:, : matrix.shape[1]])


def values_on(steps: Array, grid: BlockGrid, fmt: BlockFormat) -> Array:
    """Return scale * (q - zero), float32 of the shape of `steps` [rows, columns]."""
    found = _values(_in_blocks(steps.astype(np.float32), fmt.block), grid)
    return np.asarray(found.reshape(len(steps), -1)[:, : steps.shape[1]])


def padded(steps: Array, grid: BlockGrid, fmt: BlockFormat) -> Array:
    """Return steps [rows, columns] as [rows, blocks, block]; what is filled up is zero."""
    rows, columns = steps.shape
    filled = np.empty((rows, fmt.blocks(columns) * fmt.block), np.uint8)
    filled[:, :columns] = steps
    filled[:, columns:] = grid.zero[:, -1:]
    return filled.reshape(rows, -1, fmt.block)


def _in_blocks(matrix: Array, block: int) -> Array:
    rows, columns = matrix.shape
    missing = -columns % block
    full = np.pad(matrix, ((0, 0), (0, missing))) if missing else np.ascontiguousarray(matrix)
    return full.reshape(rows, -1, block)


def _positive(scale: Array) -> Array:
    return np.where(scale > TINY, scale, 1.0).astype(np.float32)


def _to_steps(blocks: Array, grid: BlockGrid, fmt: BlockFormat) -> Array:
    steps = blocks / grid.scale[..., np.newaxis] + grid.zero[..., np.newaxis].astype(np.float32)
    return np.asarray(np.clip(np.rint(steps), 0, fmt.last))


def _values(steps: Array, grid: BlockGrid) -> Array:
    centred = steps - grid.zero[..., np.newaxis].astype(np.float32)
    return np.asarray(centred * grid.scale[..., np.newaxis])


def _shrunk(error: Array, beta: float) -> Array:
    size = np.abs(error)
    with np.errstate(divide="ignore"):
        less = size - NORM / np.float32(beta) * np.power(size, np.float32(NORM - 1))
    return np.asarray(np.sign(error) * np.maximum(less, 0))


def _refitted(target: Array, steps: Array, grid: BlockGrid, fmt: BlockFormat) -> BlockGrid:
    """Return the grid on which these steps are nearest to `target`."""
    zero = grid.zero
    if not fmt.symmetric:
        wanted = (steps - target / grid.scale[..., np.newaxis]).mean(axis=-1)
        zero = np.clip(np.rint(wanted), 0, fmt.last).astype(np.uint8)
    centred = steps - zero[..., np.newaxis].astype(np.float32)
    power = np.square(centred).sum(axis=-1)
    scale = (centred * target).sum(axis=-1) / np.maximum(power, 1)
    usable = np.abs(scale) > TINY if fmt.mirrored else scale > TINY
    return BlockGrid(np.where(usable, scale, grid.scale).astype(np.float32), zero)


def _both(grid: BlockGrid) -> tuple[Array, Array]:
    return grid.scale, grid.zero


def _pick(better: Array, new: Array, old: Array) -> Array:
    return np.where(better, new, old)
