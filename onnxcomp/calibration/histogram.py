"""Exact counts of the values that stream through a tensor, in constant memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxcomp.graph import Array

Counts = NDArray[np.int64]

# Bins on each side of zero; after a doubling of their width at least half of them are in use.
BINS = 2048
# Finer bins than 2^-120 tell nothing: scales below that are taken for zero.
FINEST = -120
# Elements that are counted at a time.
BLOCK = 1 << 16
# From this share of the greatest number of a type on, a value stands for infinity: exporters
# write masks as the least finite number, and adding scores to it leaves it there.
NEARLY = 0.99


@dataclass(eq=False)
class Histogram:
    """Counts of finite values in bins [k w, (k + 1) w), where w = 2^exponent.

    `counts[i]` is that of bin `first + i`; no bin at the ends is empty. `zeros` counts what is
    exactly 0, which bin 0 holds too; `lo` and `hi` are the least and the greatest finite value.
    `infinite` counts infinities and the greatest numbers of a type, which masks write for them.

    The width is the least one at which all values fit in `bins` bins on either side, so it depends
    on the values alone: in whatever order they come, and in however many histograms that are then
    merged, the result is the same.
    """

    bins: int = BINS
    exponent: int = FINEST
    first: int = 0
    counts: Counts = field(default_factory=lambda: np.zeros(0, np.int64))
    zeros: int = 0
    nan: int = 0
    infinite: int = 0
    lo: float = math.inf
    hi: float = -math.inf

    @property
    def total(self) -> int:
        """The number of finite values."""
        return int(self.counts.sum())

    @property
    def width(self) -> float:
        """The width of a bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def edges(self) -> Array:
        """The borders of the bins, one more than there are bins."""
        steps = np.arange(self.first, self.first + len(self.counts) + 1.0)
        return np.asarray(np.ldexp(steps, self.exponent))

    @property
    def centers(self) -> Array:
        """The middles of the bins."""
        middles = np.arange(self.first, self.first + len(self.counts)) + 0.5
        return np.asarray(np.ldexp(middles, self.exponent))

    def add(self, data: Array) -> tuple[float, float] | None:
        """Count the elements of a float array of any shape; return its finite extremes, if any.

        It goes block by block, each of which stays in the processor's cache.
        """
        limit = _limit(data.dtype)
        flat = (data.astype(np.float32) if data.dtype.itemsize < 4 else data).reshape(-1)
        room = _Room(flat.dtype, min(flat.size, BLOCK))
        least, greatest = math.inf, -math.inf
        for start in range(0, flat.size, BLOCK):
            block = flat[start : start + BLOCK]
            lo, hi = float(block.min()), float(block.max())
            if not (-limit < lo and hi < limit):  # also where one is NaN
                block = self._leave_out(block, limit)
                if not block.size:
                    continue
                lo, hi = float(block.min()), float(block.max())
            least, greatest = min(least, lo), max(greatest, hi)
            self._count_block(block, lo, hi, room)
        return None if greatest < least else (least + 0.0, greatest + 0.0)  # no -0.0, which varies

    def _count_block(self, block: Array, lo: float, hi: float, room: _Room) -> None:
        self.lo, self.hi = min(self.lo, lo + 0.0), max(self.hi, hi + 0.0)
        if lo <= 0 <= hi:
            self.zeros += int(np.count_nonzero(block == 0))  # five times as fast as on floats
        self._widen(_exponent(max(-self.lo, self.hi), self.bins))
        first, last = (_place(end, self.exponent) for end in (lo, hi))
        places = room.places_of(block, self.exponent, first)
        self._count(first, np.bincount(places, minlength=last - first + 1))

    def merge(self, other: Histogram) -> None:
        """Count what another histogram of as many bins has counted."""
        if other.bins != self.bins:
            raise ValueError(f"histograms of {self.bins} and {other.bins} bins")
        self.zeros += other.zeros
        self.nan += other.nan
        self.infinite += other.infinite
        if not len(other.counts):
            return
        self.lo, self.hi = min(self.lo, other.lo), max(self.hi, other.hi)
        exponent = max(self.exponent, other.exponent)
        self._widen(exponent)
        self._count(*_doubled(other.first, other.counts, exponent - other.exponent))

    def _leave_out(self, data: Array, limit: float) -> Array:
        """Count what is not finite, and return the rest."""
        missing = np.isnan(data)
        inside = np.abs(data) < limit
        self.nan += int(missing.sum())
        self.infinite += data.size - int(inside.sum()) - int(missing.sum())
        return data[inside]

    def _widen(self, exponent: int) -> None:
        if exponent > self.exponent:
            self.first, self.counts = _doubled(self.first, self.counts, exponent - self.exponent)
            self.exponent = exponent

    def _count(self, first: int, counts: Counts) -> None:
        if not len(self.counts):
            self.first, self.counts = first, counts.astype(np.int64)
            return
        start = min(first, self.first)
        stop = max(first + len(counts), self.first + len(self.counts))
        if (start, stop) != (self.first, self.first + len(self.counts)):
            wider = np.zeros(stop - start, np.int64)
            wider[self.first - start :][: len(self.counts)] = self.counts
            self.first, self.counts = start, wider
        self.counts[first - start :][: len(counts)] += counts


class _Room:
    """Where the places of a block's elements are reckoned, again and again."""

    def __init__(self, dtype: np.dtype[Any], size: int) -> None:
        self._steps, self._places = np.empty(size, dtype), np.empty(size, np.intp)

    def places_of(self, block: Array, exponent: int, first: int) -> NDArray[np.intp]:
        """Return the bin of each element, counted from bin `first`."""
        steps, places = self._steps[: block.size], self._places[: block.size]
        kind = block.dtype.type
        np.multiply(block, kind(math.ldexp(1.0, -exponent)), out=steps)  # a power of two: exact
        if first:  # else no number is negative, and a cast rounds down too
            np.floor(steps, out=steps)
            if exponent > 0 and first < 0:  # what is so near to zero that the product is zero
                np.minimum(steps, -1, out=steps, where=block < 0)
            np.subtract(steps, kind(first), out=steps)
        places[...] = steps
        return places


def _place(value: float, exponent: int) -> int:
    """Return the bin of a value; a negative one is never in bin 0, however small."""
    place = math.floor(math.ldexp(value, -exponent))
    return min(place, -1) if value < 0 else place


def _limit(dtype: np.dtype[Any]) -> float:
    return NEARLY * float(np.finfo(dtype).max)


def _exponent(reach: float, bins: int) -> int:
    """Return the least exponent e at which |x| < bins 2^e holds up to `reach`."""
    return max(math.frexp(reach / bins)[1], FINEST) if reach else FINEST  # x = f 2^e, f < 1


def _doubled(first: int, counts: Counts, times: int) -> tuple[int, Counts]:
    """Return the first bin and the counts after the width of the bins has doubled n times."""
    if not times or not len(counts):
        return first, counts
    places = np.arange(first, first + len(counts)) >> min(times, 62)
    found = np.bincount(places - places[0], counts).astype(np.int64)
    return int(places[0]), found
