"""The directions in which a layer's outputs vary most, and what is lost without the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxcomp.graph import Array
from onnxcomp.passes.factorize._moments import Split

# Eigenvalues below this share of the largest are rounding.
NOTHING = 1e-12


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Directions of a layer's outputs, and the relative error of each rank.

    `basis` [rows, directions], the first has the most energy. `errors` and `expected`
    [directions + 1]: sum of squares that a rank leaves out over that of all; on the rows that the
    basis was found from, and on rows that it was not, if that is more.
    """

    basis: Array
    errors: Array
    expected: Array

    def rank_for(self, energy: float) -> int:
        """Return the least rank that keeps a share of the energy."""
        within = np.flatnonzero(self.expected <= 1 - energy + 1e-12)
        return int(within[0]) if len(within) else len(self.expected) - 1


def of_outputs(splits: Sequence[Split], weight: Array) -> Spectrum:
    """Return the principal components of outputs, of one or several nodes with one weight.

    `weight` [rows, columns] says in which directions there are outputs at all. Each node's outputs
    are taken about their own mean. Of all rank-r approximations W_r of y = W x, W_r = U_r U_r^T W
    with the first r eigenvectors U_r of Cov(y) leaves the least E|y - mean - W_r (x - mean x)|^2:
    the sum of the other eigenvalues. Source: Zhang et al., 2016 (arXiv 1505.06798).
    """
    span = None
    if weight.shape[0] > weight.shape[1]:
        span, _ = np.linalg.qr(weight)
    basis, values = _eigen_within(sum(split.whole().scatter for split in splits), span)
    errors = _tails(values)
    both = [split for split in splits if split.held.count and split.fit.count]
    if not both:
        return Spectrum(basis, errors, errors)
    tried, _ = _eigen_within(sum(split.fit.scatter for split in both), span)
    held = np.asarray(sum(split.held.about(split.fit.mean) for split in both))
    energies = np.einsum("ij,ij->j", tried, held @ tried)
    return Spectrum(basis, errors, np.maximum(errors, _tails(energies)))


def of_weight(weight: Array) -> Spectrum:
    """Return the singular vectors of a weight [rows, columns]: what is best for white inputs."""
    basis, values, _ = np.linalg.svd(weight.astype(np.float64), full_matrices=False)
    errors = _tails(np.square(values))
    return Spectrum(_signed(basis), errors, errors)


def of_columns(matrix: Array) -> Spectrum:
    """Return the right singular vectors of a tall matrix, by way of its Gram matrix."""
    basis, values = _eigen(matrix.T @ matrix)
    errors = _tails(values)
    return Spectrum(basis, errors, errors)


def energy_without(basis: Array, rank: int, scatter: Array) -> float:
    """Return the share of a scatter's energy that the first directions of a basis leave out."""
    kept = basis[:, :rank]
    total = float(np.trace(scatter))
    return 1 - float(np.einsum("ij,ij->", kept, scatter @ kept)) / max(total, 1e-300)


def root_of(second: Array) -> tuple[Array, Array]:
    """Return the symmetric root of E[x x^T] [n, n], and its pseudo-inverse."""
    basis, values = _eigen(second)
    present = values > NOTHING * max(float(values[0]), 1e-300)
    roots = np.sqrt(values[present])
    kept = basis[:, present]
    return (kept * roots) @ kept.T, (kept / roots) @ kept.T


def _eigen(scatter: Array) -> tuple[Array, Array]:
    values, basis = np.linalg.eigh(scatter)
    return _signed(basis[:, ::-1]), np.maximum(values[::-1], 0.0)


def _eigen_within(scatter: Array | int, span: Array | None) -> tuple[Array, Array]:
    """Return the eigenvectors within a span [n, m] outside of which a scatter has nothing."""
    if span is None:
        return _eigen(np.asarray(scatter))
    basis, values = _eigen(span.T @ np.asarray(scatter) @ span)
    return _signed(span @ basis), values


def _signed(basis: Array) -> Array:
    """Give each direction the sign with which its largest entry is positive."""
    largest = np.abs(basis).argmax(axis=0)
    signs = np.sign(basis[largest, np.arange(basis.shape[1])])
    return np.asarray(basis * np.where(signs == 0, 1.0, signs))


def _tails(values: Array) -> Array:
    """Return the share of a sum that is left out by the first 0, 1, ... numbers."""
    sums = np.concatenate([np.cumsum(values[::-1])[::-1], [0.0]])
    return sums / max(float(sums[0]), 1e-300)
