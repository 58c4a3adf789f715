"""The histogram counts exactly, whatever the order and however the data is split."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcomp.calibration.histogram import BINS, FINEST, Histogram

BIG = float(np.finfo(np.float32).max)
floats = st.floats(-(2.0**100), 2.0**100, width=32)


def counted(*parts: Any, bins: int = BINS, dtype: type = np.float32) -> Histogram:
    histogram = Histogram(bins)
    for part in parts:
        histogram.add(np.asarray(part, dtype))
    return histogram


def facts(histogram: Histogram) -> tuple[Any, ...]:
    ends = histogram.exponent, histogram.first, histogram.lo, histogram.hi
    return *ends, histogram.zeros, histogram.nan, histogram.infinite, histogram.counts.tolist()


def test_bins_hold_what_lies_between_their_edges() -> None:
    data = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    histogram = counted(data)
    places = np.searchsorted(histogram.edges, data, side="right") - 1
    assert np.bincount(places).tolist() == histogram.counts.tolist()
    assert histogram.total == data.size
    assert (histogram.lo, histogram.hi) == (data.min(), data.max())
    assert histogram.edges[0] <= data.min() < histogram.edges[1]
    assert histogram.edges[-2] <= data.max() < histogram.edges[-1]
    assert BINS / 2 <= np.abs(data).max() / histogram.width < BINS
    assert np.allclose(np.diff(histogram.edges), histogram.width)
    assert np.allclose(histogram.centers - histogram.edges[:-1], histogram.width / 2)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.lists(floats, max_size=8), max_size=5), st.randoms())
def test_order_and_splits_do_not_matter(parts: list[list[float]], random: Any) -> None:
    whole = counted(list(itertools.chain(*parts)))
    shuffled = parts[:]
    random.shuffle(shuffled)
    assert facts(counted(*shuffled)) == facts(whole)
    merged = Histogram()
    for part in shuffled:
        merged.merge(counted(part))
    assert facts(merged) == facts(whole)


@settings(deadline=None)
@given(*[st.lists(floats, max_size=6)] * 3)
def test_merging_is_associative_and_commutative(
    a: list[float], b: list[float], c: list[float]
) -> None:
    left, right, turned = counted(a), counted(b), counted(c)
    left.merge(counted(b))
    left.merge(counted(c))
    right.merge(counted(c))
    first = counted(a)
    first.merge(right)
    turned.merge(counted(b))
    turned.merge(counted(a))
    assert facts(left) == facts(first) == facts(turned)


@settings(deadline=None)
@given(st.lists(floats, min_size=1, max_size=20), st.integers(-40, 40))
def test_scaling_by_a_power_of_two_moves_nothing_but_the_width(
    data: list[float], power: int
) -> None:
    array = np.array(data)
    one, other = counted(array, dtype=np.float64), counted(np.ldexp(array, power), dtype=np.float64)
    if min(one.exponent, other.exponent) > FINEST:
        assert other.exponent - one.exponent == power
        assert (other.first, other.counts.tolist()) == (one.first, one.counts.tolist())


@pytest.mark.parametrize("bins", [1, 2, 16, 8192])
def test_any_number_of_bins(bins: int) -> None:
    histogram = counted([-1.0, 0.0, 0.5, 3.0], bins=bins)
    assert histogram.total == 4
    assert len(histogram.counts) <= 2 * bins
    assert (histogram.lo, histogram.hi, histogram.zeros) == (-1.0, 3.0, 1)


def test_what_is_not_finite_is_counted_apart() -> None:
    histogram = counted([math.nan, math.inf, -math.inf, -BIG, BIG, 1.0, -2.0, 0.0, -0.0])
    assert (histogram.nan, histogram.infinite, histogram.zeros) == (1, 4, 2)
    assert (histogram.lo, histogram.hi, histogram.total) == (-2.0, 1.0, 4)
    nothing = counted([math.nan, math.inf])
    assert (nothing.total, nothing.nan, nothing.infinite) == (0, 1, 1)
    assert counted([]).total == 0


def test_the_least_number_of_a_half_is_a_mask_too() -> None:
    histogram = counted([-65504.0, 2.0], dtype=np.float16)
    assert (histogram.infinite, histogram.lo, histogram.hi) == (1, 2.0, 2.0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_types(dtype: type) -> None:
    data: Any = np.random.default_rng(0).standard_normal(1000).astype(dtype)
    histogram = counted(data, dtype=dtype)
    assert histogram.total == 1000
    assert (histogram.lo, histogram.hi) == (float(data.min()), float(data.max()))


def test_extremes_of_the_types() -> None:
    wide = counted([1e308, -1e300, 5e-324], dtype=np.float64)
    assert (wide.total, wide.lo, wide.hi) == (3, -1e300, 1e308)
    tiny = counted([1e-45, -1e-45, 1e-42])
    assert (tiny.exponent, tiny.total) == (FINEST, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_tiny_negative_number_beside_a_huge_one(dtype: Any) -> None:
    tiny, huge = -np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max / 4
    together = counted([tiny, huge], dtype=dtype)
    assert facts(together) == facts(counted([tiny], [huge], dtype=dtype))
    assert together.first == -1


def test_zeros_and_constants() -> None:
    assert facts(counted([0.0, -0.0, 0.0]))[:4] == (FINEST, 0, 0.0, 0.0)
    assert math.copysign(1, counted([-0.0]).lo) == 1
    constant = counted(np.full(10, 6.0))
    assert (constant.counts.tolist(), constant.lo, constant.hi) == ([10], 6.0, 6.0)


def test_arrays_that_are_not_contiguous() -> None:
    data = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert facts(counted(data.transpose(2, 0, 1)[::2])) == facts(counted(data[:, :, ::2]))


def test_histograms_of_other_bins_do_not_merge() -> None:
    with pytest.raises(ValueError, match="2048 and 16 bins"):
        counted([1.0]).merge(counted([1.0], bins=16))
