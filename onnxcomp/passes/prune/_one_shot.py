"""Weights zeroed column by column, each time with the others moved to make up for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxcomp.graph import Array
from onnxcomp.passes.prune._patterns import lowest_of

# Added to the diagonal of a Gram matrix, as a share of its mean: it is of a few samples only.
DAMPING = 0.01
# Columns that are gone through one by one before the others are brought up to date.
BLOCK = 128
SWEEPS = 5


@dataclass(frozen=True)
class Choice:
    """How the columns of a row are chosen: `count` runs of `width` over all rows, or n of m.

    `zeroed` [groups, rows, columns] says it beforehand, where a pattern spans rows.
    """

    count: int = 0
    width: int = 1
    keep: int = 0
    of: int = 0
    zeroed: Array | None = None


def one_shot(weight: Array, gram: Array, choice: Choice) -> Array:
    """Return a weight [groups, rows, columns] with zeros for which E[|(W - W') x|^2] is small.

    `gram` is H = E[x x^T], [groups, columns, columns]. With H^-1 = U^T U, zeroing w_j costs
    w_j^2 / U_jj^2 where the columns behind j make up for it best, which is by -w_j U_j: / U_jj
    (Frantar & Alistarh, 2023, arXiv 2301.00774). The columns are gone through in blocks; what is
    zeroed is chosen at the start of each by that cost, for n:m at the start of each group.
    """
    factor = _factor(gram + _ridge(gram))
    work = weight.astype(np.float64)
    zeroed = np.zeros(weight.shape, dtype=bool)
    columns, done = weight.shape[-1], 0
    step = max(choice.of, choice.width)
    block = max(BLOCK // step, 1) * step
    pivots = np.einsum("gkk->gk", factor)[:, np.newaxis]
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        here = slice(start, stop)
        if choice.zeroed is not None:
            zeroed[..., here] = choice.zeroed[..., here]
        elif not choice.of:
            due = choice.count * stop // columns - done
            cost = np.square(work[..., here] / pivots[..., here])
            zeroed[..., here] = _cheapest(cost, due, choice.width)
            done += due
        errors = _through(work, zeroed, factor, here, choice)
        work[..., stop:] -= errors @ factor[:, here, stop:]
    return work


def _through(work: Array, zeroed: Array, factor: Array, here: slice, choice: Choice) -> Array:
    """Zero the columns of a block, move those behind within it, and return the errors over U_jj."""
    inner = factor[:, here, here]
    near, errors = work[..., here], np.zeros(work[..., here].shape)
    pivots = np.einsum("gkk->gk", inner)[:, np.newaxis]
    for j in range(near.shape[-1]):
        if choice.of and choice.zeroed is None and j % choice.of == 0:
            group = slice(j, j + choice.of)
            cost = np.square(near[..., group] / pivots[..., group])
            found = lowest_of(cost, choice.of - choice.keep, choice.of)
            zeroed[..., here.start + j : here.start + j + choice.of] = found
        gone = zeroed[..., here.start + j]
        errors[..., j] = np.where(gone, near[..., j], 0.0) / pivots[..., j]
        near[..., j] = np.where(gone, 0.0, near[..., j])
        near[..., j + 1 :] -= errors[..., j, np.newaxis] * inner[:, j, np.newaxis, j + 1 :]
    return errors


def _cheapest(cost: Array, count: int, width: int) -> Array:
    runs = cost.reshape(*cost.shape[:-1], -1, width).sum(axis=-1)
    found = lowest_of(runs.reshape(1, -1), count, runs.size).reshape(runs.shape)
    return np.repeat(found, width, axis=-1)


def towards(weight: Array, gram: Array, cross: Array) -> Array:
    """Return the weight whose products with z are nearest to W x: the argmin of E[|W x - W' z|^2].

    W' = W (E[x z^T] + r) (E[z z^T] + r)^-1, r the damping. z is what the layer gets once those
    before it are pruned: their error is made up for as far as it can be.
    """
    if cross is gram:
        return weight
    ridge = _ridge(gram)
    wanted = weight @ (cross + ridge)
    return np.asarray(np.linalg.solve(gram + ridge, wanted.transpose(0, 2, 1)).transpose(0, 2, 1))


def _ridge(gram: Array) -> Array:
    size = gram.shape[-1]
    mean = np.einsum("gkk->g", gram) / size
    return np.asarray((DAMPING * mean + 1e-12)[:, np.newaxis, np.newaxis] * np.eye(size))


def _factor(gram: Array) -> Array:
    """Return the upper triangular U with H^-1 = U^T U."""
    backwards = np.linalg.cholesky(gram[:, ::-1, ::-1])
    return np.triu(np.linalg.inv(backwards[:, ::-1, ::-1]))


def refit(weight: Array, pruned: Array, gram: Array) -> Array:
    """Return a pruned weight whose other entries are moved so that the error falls further.

    One column after the other is set to what is best given all others, a few times over; each time
    tr((W - W') H (W - W')^T) with the damped H cannot grow.
    """
    size, matrix = gram.shape[-1], gram + _ridge(gram)
    found, kept = pruned.astype(np.float64), pruned != 0
    slope = (weight - found) @ matrix
    pivots = np.einsum("gkk->gk", matrix)
    for _ in range(SWEEPS):
        for start in range(0, size, BLOCK):
            here = slice(start, min(start + BLOCK, size))
            old, near = found[..., here].copy(), slope[..., here].copy()
            for j in range(here.start, here.stop):
                move = near[..., j - start] / pivots[:, j, np.newaxis]
                move = np.where(kept[..., j], move, 0.0)
                found[..., j] += move
                near -= move[..., np.newaxis] * matrix[:, j, np.newaxis, here]
            slope -= (found[..., here] - old) @ matrix[:, here]
    return found
