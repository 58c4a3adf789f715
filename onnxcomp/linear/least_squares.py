"""The weight and bias that come closest to wanted outputs, from streamed normal equations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from onnxcomp.graph import Array

# How strongly the present weight pulls: the ridge, over the mean square of an input. Below the one
# from which on the error rises, weaker ones only fit noise, and are not tried.
RIDGES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
# A factor beyond this for an input channel says that the rows do not determine it.
LARGEST_SCALE = 10.0
# The share of zeros from which on they are a pattern that stays: the weight was pruned.
ZEROS = 0.01
# Steps of conjugate gradients within a pattern, for each ridge; each brings a weight closer.
STEPS = 12
# Numbers that are gathered before they are multiplied.
CHUNK = 2_000_000


@dataclass(frozen=True)
class Affine:
    """y = W x + b for each group: `weight` [groups, rows, columns], `bias` [groups, rows]."""

    weight: Array
    bias: Array

    def error(self, rows: Array, wanted: Array) -> float:
        """Return sum |y - W x - b|^2 for x and y [groups, positions, columns or rows]."""
        made = rows @ self.weight.transpose(0, 2, 1) + self.bias[:, np.newaxis]
        return float(np.square(wanted - made, dtype=np.float64).sum())


@dataclass(frozen=True)
class Solved:
    """An affine map with its error over the rows held out, and that of the one before it.

    Errors are relative: the sum of squares over that of the wanted outputs.
    """

    affine: Affine
    before: float
    after: float


@dataclass
class Equations:
    """The sums that least squares need, in float64, and the rows held out as they came."""

    groups: int
    rows: int
    columns: int
    count: int = 0
    held_x: list[Array] = field(default_factory=list)
    held_y: list[Array] = field(default_factory=list)
    _pending: list[tuple[Array, Array]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._xx = np.zeros((self.groups, self.columns, self.columns))
        self._yx = np.zeros((self.groups, self.rows, self.columns))
        self._x = np.zeros((self.groups, self.columns))
        self._y = np.zeros((self.groups, self.rows))

    @property
    def is_empty(self) -> bool:
        """Whether no rows were counted in."""
        return not (self.count or self._pending)

    @property
    def held_count(self) -> int:
        """How many rows are held out."""
        return sum(each.shape[1] for each in self.held_x)

    def hold_out(self, x: Array, y: Array) -> None:
        """Keep rows to check on: x [groups, positions, columns], y [groups, positions, rows]."""
        self.held_x.append(x)
        self.held_y.append(y)

    def add(self, x: Array, y: Array) -> None:
        """Count rows in: x [groups, positions, columns], y [groups, positions, rows]."""
        self._pending.append((x, y))
        if sum(each.size for each, _ in self._pending) > CHUNK:
            self._multiply()

    def _multiply(self) -> None:
        if not self._pending:
            return
        x, y = (
            np.concatenate(part, axis=1, dtype=np.float64)
            for part in zip(*self._pending, strict=True)
        )
        self._pending.clear()
        self.count += x.shape[1]
        self._x += x.sum(axis=1)
        self._y += y.sum(axis=1)
        if self.groups == 1:
            self._xx[0] += x[0].T @ x[0]  # twice as fast: numpy sees that it is symmetric
        else:
            self._xx += x.transpose(0, 2, 1) @ x
        self._yx += y.transpose(0, 2, 1) @ x

    def moments(self, *, centred: bool) -> Moments:
        """Return the means, and E[x x^T] and E[y x^T], around the means if `centred`."""
        self._multiply()
        x, y = self._x / self.count, self._y / self.count
        if not centred:
            x, y = np.zeros_like(x), np.zeros_like(y)
        outer_x, outer_y = (each[:, :, np.newaxis] * x[:, np.newaxis] for each in (x, y))
        return Moments(x, y, self._xx / self.count - outer_x, self._yx / self.count - outer_y)


@dataclass(frozen=True)
class Moments:
    """Means [groups, columns] and [groups, rows], and second moments of x and of y by x."""

    x: Array
    y: Array
    xx: Array
    yx: Array


def error_of(affine: Affine, equations: Equations) -> float:
    """Return the relative error of an affine map over the rows held out."""
    pairs = list(zip(equations.held_x, equations.held_y, strict=True))
    noise = sum(affine.error(x, y) for x, y in pairs)
    signal = sum(float(np.square(y, dtype=np.float64).sum()) for _, y in pairs)
    return noise / max(signal, 1e-30)


def solve(equations: Equations, present: Affine, taps: int, *, has_bias: bool) -> Solved | None:
    """Return the affine map with the least error on the rows held out, if it beats the present one.

    W = (Y X^T + l W0) (X X^T + l I)^-1 is pulled to the present weight W0, with a ridge l that is
    tried out; where there are fewer rows than columns, one factor for each input channel (of `taps`
    columns) is tried too. Zeros of a pruned weight stay. With `has_bias` the bias is free: x and y
    are around their means, and b = E[y] - W E[x]. Sources: Hoerl and Kennard, 1970, for the ridge;
    Kwon et al., 2022 (arXiv 2204.09656), for the factors.
    """
    before = error_of(present, equations)
    best, least = None, before
    moments = equations.moments(centred=has_bias)
    with np.errstate(over="ignore", invalid="ignore"):
        for weights in _candidates(moments, equations, present.weight, taps):
            last = np.inf
            for weight in weights:
                tried = _with_bias(weight, moments, None if has_bias else present.bias)
                error = error_of(tried, equations)
                if error < least:  # false for what is not finite
                    best, least = tried, error
                if not error <= last:
                    break
                last = error
    return None if best is None else Solved(best, before, least)


def _with_bias(weight: Array, moments: Moments, bias: Array | None) -> Affine:
    if bias is None:
        bias = moments.y - (weight @ moments.x[:, :, np.newaxis])[..., 0]
    return Affine(weight.astype(np.float32), bias.astype(np.float32))


def pattern(weight: Array) -> Array | None:
    """Return where a pruned weight is not zero, or None for one that is not pruned."""
    mask = weight != 0
    return mask if mask.mean() <= 1 - ZEROS else None


def _candidates(
    moments: Moments, equations: Equations, weight: Array, taps: int
) -> Iterator[Iterator[Array]]:
    """Yield ways to find weights, each from the strongest ridge to the weakest."""
    present, mask = weight.astype(np.float64), pattern(weight)
    if mask is None:
        yield (_pulled(moments.xx, moments.yx, present, ridge) for ridge in RIDGES)
    else:
        yield _within(mask, moments, present)
    if equations.count < equations.columns:
        yield _scaled(moments, present, taps)


def _pull(xx: Array, ridge: float) -> Array:
    """Return l for each group, as [groups, 1, 1]."""
    pull = ridge * np.einsum("gkk->gk", xx).mean(axis=1)
    return np.where(pull > 0, pull, 1.0)[:, np.newaxis, np.newaxis]  # no input at all: W stays


def _pulled(xx: Array, yx: Array, present: Array, ridge: float) -> Array:
    """Return (B + l W0) (A + l I)^-1 for A [groups, K, K] and B [groups, N, K]."""
    pull, system = _pull(xx, ridge), xx.copy()
    np.einsum("gkk->gk", system)[...] += pull[..., 0]
    right = (yx + pull * present).transpose(0, 2, 1)
    return np.asarray(np.linalg.solve(system, right).transpose(0, 2, 1))


def _within(mask: Array, moments: Moments, present: Array) -> Iterator[Array]:
    """Yield, for each ridge, what is close to `_pulled` and zero outside the mask.

    Each row has a system of its own then: conjugate gradients, for all rows side by side, with the
    diagonal for a preconditioner, from what the ridge before gave.
    """
    weight = present.copy()
    for ridge in RIDGES:
        pull = _pull(moments.xx, ridge)
        diagonal = np.einsum("gkk->gk", moments.xx)[:, np.newaxis] + pull
        left = mask * (moments.yx - weight @ moments.xx + pull * (present - weight))
        step = left / diagonal
        size = (left * step).sum(axis=-1, keepdims=True)
        for _ in range(STEPS):
            product = mask * (step @ moments.xx + pull * step)
            length = _ratio(size, (step * product).sum(axis=-1, keepdims=True))
            weight = weight + length * step
            left = left - length * product
            scaled = left / diagonal
            last, size = size, (left * scaled).sum(axis=-1, keepdims=True)
            step = scaled + _ratio(size, last) * step
        yield weight


def _ratio(first: Array, second: Array) -> Array:
    return np.divide(first, second, out=np.zeros_like(first), where=second > 0)


def _scaled(moments: Moments, present: Array, taps: int) -> Iterator[Array]:
    """Yield the present weight with each input channel multiplied by the factor that fits best.

    The normal equations of the factors are sums over those of the columns: with y = sum_c s_c W_c
    x_c, they are M s = r for M_cd = tr(W_c^T W_d A_dc) and r_c = tr(W_c^T B_c).
    """
    groups, rows, columns = present.shape
    channels = columns // taps
    products = (present.transpose(0, 2, 1) @ present) * moments.xx
    system = products.reshape(groups, channels, taps, channels, taps).sum(axis=(2, 4))
    right = (present * moments.yx).reshape(groups, rows, channels, taps).sum(axis=(1, 3))
    ones = np.ones((groups, 1, channels))
    for ridge in RIDGES:
        factors = _pulled(system, right[:, np.newaxis], ones, ridge)[:, 0]
        if np.abs(factors).max() <= LARGEST_SCALE:
            yield present * np.repeat(factors, taps, axis=1)[:, np.newaxis]
