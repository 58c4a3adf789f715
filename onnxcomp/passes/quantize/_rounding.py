"""Rounding of a weight matrix to a grid, with an eye to what it is multiplied with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxcomp.graph import Array
from onnxcomp.passes.quantize._numbers import weight_scale

# Added to the diagonal of a Gram matrix, as a share of its mean: it is of a few samples only.
RIDGE = 0.01
SWEEPS = 1
# Columns that are rounded one by one before the others are brought up to date by one product.
BLOCK = 32

# Returns what is nearest to wanted numbers on the grid of a column: (wanted, column) -> on grid.
Put = Callable[[Array, int], Array]


def scale_of_rows(weight: Array, largest: int, *, per_channel: bool) -> Array:
    """Return the scale that quantize-static finds for each row, [groups, rows, 1]."""
    groups, rows, columns = weight.shape
    scale = weight_scale(weight.reshape(-1, columns), 0 if per_channel else None, largest)
    return np.broadcast_to(scale.reshape(-1), (groups * rows,)).reshape(groups, rows, 1)


def on_grid(weight: Array, scale: Array, steps: Array, largest: int, *, per_channel: bool) -> Array:
    """Return scale * steps in float32; what is at the end of the grid is just max |w| again.

    So the scale that is found for the result is that of the weight, to the bit.
    """
    reach = np.abs(weight).max(axis=-1 if per_channel else None, keepdims=True)
    data = np.where(np.abs(steps) == largest, np.sign(steps) * reach, scale * steps)
    return np.asarray(data.astype(np.float32))


def to_nearest(units: Array, largest: int) -> Array:
    """Return the nearest whole steps of a weight in units of its scale."""
    return np.asarray(np.clip(np.rint(units), -largest, largest))


def round_rows(units: Array, gram: Array, largest: int) -> Array:
    """Return whole steps q for which E[|(u - q) x|^2] is small.

    `units` u [groups, rows, columns] is the weight in units of its scale, `gram` H = E[x x^T]
    [groups, columns, columns]. Columns are rounded in the order of their weight in H, each with
    the error of those before it made up for (Frantar et al., 2023, arXiv 2210.17323); then each is
    set to the best step given all others. No row is worse than by rounding to nearest, and the
    entry of greatest magnitude keeps its step, so that the scale is found again. Zeros stay zero.
    """
    order = np.argsort(np.einsum("gkk->k", gram), kind="stable")
    units = units[..., order].astype(np.float32)
    matrix = damped(gram[:, order][:, :, order].astype(np.float32))
    nearest = to_nearest(units, largest)
    held = units == 0  # what is pruned stays so, in its pattern
    np.put_along_axis(held, np.abs(units).argmax(axis=-1, keepdims=True), True, axis=-1)

    def put(wanted: Array, column: int) -> Array:
        kept = nearest[..., column]
        return np.where(held[..., column], kept, to_nearest(wanted, largest))

    found = descended(units, fed_back(units, matrix, put), matrix, put)
    found = better_rows(units, nearest, found, gram[:, order][:, :, order])
    return np.asarray(found[..., np.argsort(order)])


def better_rows(weight: Array, first: Array, second: Array, gram: Array) -> Array:
    """Return for each row of a weight which of two that stand for it has the smaller error."""
    before, after = (_errors(weight - each, gram) for each in (first, second))
    return np.where((after < before)[..., np.newaxis], second, first)


def _errors(error: Array, gram: Array) -> Array:
    wide = error.astype(np.float64)
    return np.asarray(((wide @ gram) * wide).sum(axis=-1))


def damped(gram: Array) -> Array:
    """Return a Gram matrix [groups, columns, columns] that can be inverted."""
    size = gram.shape[-1]
    mean = np.einsum("gkk->g", gram) / size
    ridge = (RIDGE * mean + 1e-12)[:, np.newaxis, np.newaxis] * np.eye(size, dtype=np.float32)
    return np.asarray(gram + ridge.astype(np.float32))


def fed_back(weight: Array, gram: Array, put: Put) -> Array:
    """Round from the last column to the first, each with the error so far made up for.

    With H = L L^T the error of a row e is |e L|^2, whose part j is e_j L_jj and what the columns
    behind j add; e_j is chosen to cancel that.
    """
    factor = np.linalg.cholesky(gram)
    factor = factor / np.einsum("gkk->gk", factor)[:, np.newaxis]
    error, found, size = np.zeros_like(weight), np.empty_like(weight), weight.shape[-1]
    for stop in range(size, 0, -BLOCK):
        start = max(stop - BLOCK, 0)
        owed = error[..., stop:] @ factor[:, stop:, start:stop]
        for j in range(stop - 1, start - 1, -1):
            rounded = put(weight[..., j] + owed[..., j - start], j)
            found[..., j] = rounded
            error[..., j] = weight[..., j] - rounded
            owed += error[..., j, np.newaxis] * factor[:, j, np.newaxis, start:stop]
    return found


def descended(weight: Array, found: Array, gram: Array, put: Put) -> Array:
    """Set each column to the best on its grid given all others: the error never grows."""
    found, size = found.copy(), weight.shape[-1]
    slope = (weight - found) @ gram
    pivots = np.einsum("gkk->gk", gram)
    for _ in range(SWEEPS):
        for start in range(0, size, BLOCK):
            block = slice(start, min(start + BLOCK, size))
            old, near = found[..., block].copy(), slope[..., block].copy()
            for j in range(block.start, block.stop):
                wanted = found[..., j] + near[..., j - start] / pivots[:, j, np.newaxis]
                move = put(wanted, j) - found[..., j]
                found[..., j] += move
                near -= move[..., np.newaxis] * gram[:, j, np.newaxis, block]
            slope -= (found[..., block] - old) @ gram[:, block]
    return found
