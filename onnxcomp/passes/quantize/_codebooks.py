"""A few values that stand for all numbers of a weight, found on a histogram of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxcomp.graph import Array
from onnxcomp.passes.quantize._blocks import row_slices

# Bins are even in the cube root, so that those of small numbers are narrow: a few large numbers
# would else leave most of a weight in a few bins.
BINS = 2**14
ROUNDS = 60
# From this share of exact zeros on, a weight is pruned, and zero is one of its values.
PRUNED = 0.05
# Ratios of neighbours that are tried for a logarithmic codebook.
RATIOS = tuple(np.linspace(0.3, 0.95, 27))
KINDS = ("kmeans", "log", "pow2", "ternary", "binary")


@dataclass(frozen=True)
class Histogram:
    """Numbers in bins: how much they count, and their mean, weighted so; exact zeros apart."""

    counts: Array
    means: Array
    zeros: float

    @property
    def magnitudes(self) -> Histogram:
        """The same of their magnitudes, in rising order."""
        size = np.abs(self.means)
        order = np.argsort(size, kind="stable")
        return Histogram(self.counts[order], size[order], self.zeros)

    @property
    def is_pruned(self) -> bool:
        """Whether so many are zero that zero must stay."""
        total = self.counts.sum() + self.zeros
        return bool(self.zeros > PRUNED * total)


def histogram(weight: Array, importance: Array | None = None) -> Histogram:
    """Return the histogram of [rows, columns]; `importance`, of that shape, is what each counts."""
    reach = np.float32(max(weight.max(), -weight.min(), 1e-37))
    counts, sums, zeros = np.zeros(BINS), np.zeros(BINS), 0.0
    for rows in row_slices(weight):
        flat = np.ascontiguousarray(weight[rows]).reshape(-1)
        counted = np.ones_like(flat) if importance is None else importance[rows].reshape(-1)
        places = ((np.cbrt(flat / reach) + 1) * ((BINS - 1) / 2)).astype(np.int32)
        zero = flat == 0
        zeros += float(counted[zero].sum())
        share = counted * ~zero
        counts += np.bincount(places, share, BINS)
        sums += np.bincount(places, share * flat, BINS)
    kept = counts > 0
    return Histogram(counts[kept], sums[kept] / counts[kept], zeros)


def find_codebook(kind: str, found: Histogram, size: int) -> Array:
    """Return at most `size` values in rising order, float32."""
    if not len(found.counts):
        return np.zeros(1, np.float32)
    values = _FINDERS[kind](found, size)
    return np.unique(values.astype(np.float32))


def codes_of(weight: Array, codebook: Array) -> Array:
    """Return for each number the index of the nearest value, uint8."""
    edges = (codebook[1:] + codebook[:-1]) / 2
    return np.searchsorted(edges, weight).astype(np.uint8)


# ---------------------------------------------------------------- k-means
def _kmeans(found: Histogram, size: int) -> Array:
    """Return the values of Lloyd's iteration on bins, with zero fixed where weights are pruned."""
    distinct = len(found.counts) + (found.zeros > 0)
    size = min(size, distinct)
    share = np.cumsum(found.counts) - found.counts / 2
    places = (np.arange(size) + 0.5) / size
    starts = (
        np.interp(places * found.counts.sum(), share, found.means),
        np.linspace(found.means[0], found.means[-1], size),
    )
    tried = [_lloyd(found, start) for start in starts]
    return min(tried, key=lambda values: _noise(found, values))


def _lloyd(found: Histogram, values: Array) -> Array:
    counts, sums = (
        np.concatenate([[0.0], np.cumsum(each)])
        for each in (found.counts, found.counts * found.means)
    )
    for _ in range(ROUNDS):
        values = _with_zero(values) if found.is_pruned else values
        edges = np.searchsorted(found.means, (values[1:] + values[:-1]) / 2)
        ends = np.concatenate([[0], edges, [len(found.means)]])
        count, total = np.diff(counts[ends]), np.diff(sums[ends])
        moved = np.where(count > 0, total / np.maximum(count, 1e-30), values)
        if np.allclose(moved, values, rtol=0, atol=1e-7 * np.abs(values).max()):
            break
        values = np.sort(moved)
    return _with_zero(values) if found.is_pruned else values


def _with_zero(values: Array) -> Array:
    values = values.copy()
    values[np.abs(values).argmin()] = 0.0
    return np.sort(values)


def _noise(found: Histogram, values: Array) -> float:
    values = np.sort(values)
    places = np.searchsorted((values[1:] + values[:-1]) / 2, found.means)
    near = np.square(found.means - values[places]) * found.counts
    return float(near.sum() + found.zeros * np.square(values).min())


# ---------------------------------------------------------------- values with a rule
def _log(found: Histogram, size: int) -> Array:
    """Return zero and +-a r^k, with the ratio r of least error."""
    largest = np.abs(found.means).max()
    tried = [_signed(largest * ratio ** np.arange((size - 1) // 2)) for ratio in RATIOS]
    return min(tried, key=lambda values: _noise(found, values))


def _pow2(found: Histogram, size: int) -> Array:
    """Return zero and +-2^k, with the greatest k of least error."""
    top = int(np.ceil(np.log2(np.abs(found.means).max())))
    tried = [_signed(2.0 ** (top - shift - np.arange((size - 1) // 2))) for shift in range(4)]
    return min(tried, key=lambda values: _noise(found, values))


def _ternary(found: Histogram, _: int) -> Array:
    """Return -a, 0, a of least error: of the n largest |w|, (sum |w|)^2 / n is greatest.

    Source: Li et al., 2016 (arXiv 1605.04711), with the threshold searched.
    """
    sizes = found.magnitudes
    counts = np.cumsum(sizes.counts[::-1])
    sums = np.cumsum((sizes.counts * sizes.means)[::-1])
    best = int(np.argmax(sums**2 / counts))
    return _signed(np.array([sums[best] / counts[best]]))


def _binary(found: Histogram, _: int) -> Array:
    """Return -a and a, a the mean |w| (Rastegari et al., 2016, arXiv 1603.05279)."""
    sizes = found.magnitudes
    mean = (sizes.counts * sizes.means).sum() / (sizes.counts.sum() + found.zeros)
    return np.array([-mean, mean])


def _signed(sizes: Array) -> Array:
    return np.sort(np.concatenate([-sizes, [0.0], sizes]))


_FINDERS: dict[str, Callable[[Histogram, int], Array]] = {
    "kmeans": _kmeans,
    "log": _log,
    "pow2": _pow2,
    "ternary": _ternary,
    "binary": _binary,
}
