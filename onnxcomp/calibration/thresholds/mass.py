"""How much of a tensor lies where: a histogram as intervals, with zero as a point of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxcomp.calibration.histogram import Histogram
from onnxcomp.graph import Array


@dataclass(frozen=True, eq=False)
class Mass:
    """Counts over ascending intervals [left, right] in which values are taken to lie evenly.

    They are the bins that hold something, cut off at the least and the greatest value, so that
    values that pile up there (a Clip's bound) are a point, and so are exact zeros.
    """

    left: Array
    right: Array
    count: Array
    width: float
    lo: float
    hi: float

    @property
    def total(self) -> float:
        """The number of values."""
        return float(self.count.sum())

    @property
    def middle(self) -> Array:
        """The middles of the intervals."""
        return np.asarray(self.left + (self.right - self.left) / 2)

    @property
    def reach(self) -> float:
        """The greatest magnitude."""
        return max(-self.lo, self.hi)

    def mirrored(self) -> Mass:
        """Return that of -x."""
        left, right = -self.right[::-1] + 0.0, -self.left[::-1] + 0.0
        return Mass(left, right, self.count[::-1], self.width, -self.hi + 0.0, -self.lo + 0.0)

    def without_zeros(self) -> Mass:
        """Return that of the values other than 0."""
        kept = (self.left != 0) | (self.right != 0)
        left, right, count = self.left[kept], self.right[kept], self.count[kept]
        return Mass(left, right, count, self.width, self.lo, self.hi)

    def magnitudes(self) -> Mass:
        """Return that of |x|; no interval has both signs."""
        negative = self.middle < 0
        left = np.where(negative, -self.right, self.left)
        right = np.where(negative, -self.left, self.right)
        order = np.argsort(left + right, kind="stable")
        lo = 0.0 if self.lo < 0 < self.hi else min(abs(self.lo), abs(self.hi))
        return Mass(left[order], right[order], self.count[order], self.width, lo, self.reach)

    def quantile(self, share: float) -> float:
        """Return the value below which this share lies, interpolated within its interval."""
        sums = np.cumsum(self.count)
        wanted = share * float(sums[-1])
        place = min(int(np.searchsorted(sums, wanted)), len(sums) - 1)
        inside = 1.0 - (float(sums[place]) - wanted) / float(self.count[place])
        left, right = float(self.left[place]), float(self.right[place])
        return min(max(left + inside * (right - left), left), right)

    def points(self, each: int) -> tuple[Array, Array]:
        """Return values that stand for the mass, `each` per interval, and their counts."""
        offsets = (np.arange(each) + 0.5) / each
        data = self.left[:, None] + offsets * (self.right - self.left)[:, None]
        return data.reshape(-1), np.repeat(self.count / each, each)


def mass_of(histogram: Histogram) -> Mass:
    """Return the mass of a histogram; raise `ValueError` when it has counted no finite value."""
    if not histogram.total:
        raise ValueError("a histogram without finite values has no range")
    edges, count = histogram.edges, histogram.counts.astype(np.float64)
    left, right = edges[:-1].copy(), edges[1:].copy()
    if histogram.zeros:
        place = -histogram.first  # bin 0 holds the zeros too
        count[place] -= histogram.zeros
        left, right = np.insert(left, place, 0.0), np.insert(right, place, 0.0)
        count = np.insert(count, place, histogram.zeros)
    held = count > 0
    left = np.maximum(left[held], histogram.lo)
    right = np.minimum(right[held], histogram.hi)
    return Mass(left, right, count[held], histogram.width, histogram.lo, histogram.hi)
