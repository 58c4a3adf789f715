"""The KL threshold: equal to a plain loop, and the same however fine the histogram is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcomp.calibration.histogram import Histogram
from onnxcomp.calibration.thresholds import Levels, find_range, sqnr_db
from onnxcomp.calibration.thresholds.kl import candidates, divergences, magnitude_bins
from onnxcomp.calibration.thresholds.mass import mass_of
from onnxcomp.graph import Array

SIZE = 100_000


def histogram_of(data: Array, bins: int = 2048) -> Histogram:
    found = Histogram(bins=bins)
    found.add(np.asarray(data, np.float32))
    return found


def divergence(bins: Array, kept: int, cells: int) -> float:
    """Build P and Q bin by bin, and sum P log(P / Q)."""
    inside, clipped = bins[:kept].astype(float), float(bins[kept:].sum())
    p = inside.copy()
    p[-1] += clipped
    q, cells = np.zeros(kept), min(cells, kept)
    for cell in range(cells):
        members = range(cell * kept // cells, (cell + 1) * kept // cells)
        filled = [place for place in members if p[place] > 0]
        for place in filled:
            q[place] = sum(inside[place] for place in members) / len(filled)
    q[(q == 0) & (p > 0)] = 0.5
    p, q = p / p.sum(), q / max(inside.sum(), 0.5)
    return float(sum(p[i] * np.log(p[i] / q[i]) for i in range(kept) if p[i] > 0))


COUNTS = st.lists(
    st.one_of(st.just(0), st.integers(0, 3), st.integers(0, 10_000)), min_size=1, max_size=40
).filter(any)


@settings(deadline=None, max_examples=200)
@given(COUNTS, st.integers(1, 20))
def test_equal_to_a_loop(counts: list[int], cells: int) -> None:
    bins = np.trim_zeros(np.array(counts, float), "b")
    kept = np.arange(1, len(bins) + 1)
    expected = [divergence(bins, int(each), cells) for each in kept]
    assert divergences(bins, kept, cells) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 99), st.sampled_from(["normal", "relu", "heavy"]))
def test_the_least_of_a_loop(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    data = rng.standard_t(4, 9000) if kind == "heavy" else rng.normal(size=9000)
    data = np.maximum(data, 0) if kind == "relu" else data
    histogram = histogram_of(data)
    bins, width = magnitude_bins(mass_of(histogram))
    cells = 255 if kind == "relu" else 128
    tried = candidates(bins)
    costs = [divergence(bins, int(kept), cells) for kept in tried]
    found = find_range(histogram, "kl")
    reach = max(-found.lo, found.hi)
    place = -1 if reach == max(-histogram.lo, histogram.hi) else list(tried * width).index(reach)
    assert costs[place] == pytest.approx(min(costs), abs=1e-9)


@pytest.mark.parametrize("kind", ["normal", "outlier", "heavy", "relu", "uniform", "mixture"])
def test_the_same_however_fine_the_histogram_is(kind: str) -> None:
    rng = np.random.default_rng(1)
    normal = rng.normal(size=SIZE)
    data = {
        "normal": normal,
        "outlier": np.append(normal, 100.0),
        "heavy": rng.standard_t(3, SIZE),
        "relu": np.maximum(rng.standard_t(3, SIZE), 0),
        "uniform": rng.uniform(-1, 1, SIZE),
        "mixture": np.where(rng.random(SIZE) < 0.01, 20 * normal, normal),
    }[kind]
    reaches = [
        find_range(histogram_of(data, bins), "kl").hi for bins in (1024, 1500, 2048, 4096, 8192)
    ]
    assert max(reaches) <= 1.15 * min(reaches)
    if kind == "outlier":
        assert 3 <= min(reaches) <= max(reaches) <= 10
    if kind == "uniform":
        assert min(reaches) > 0.99


def test_zeros_do_not_decide() -> None:
    data = np.maximum(np.random.default_rng(2).normal(size=SIZE), 0)
    spiked = np.append(data, np.zeros(10 * SIZE))
    assert find_range(histogram_of(data), "kl") == find_range(histogram_of(spiked), "kl")


def test_one_sided_values_have_all_levels() -> None:
    data = np.abs(np.random.default_rng(3).standard_t(3, SIZE))
    mirrored = np.append(data, -data)
    one, two = (find_range(histogram_of(each), "kl").hi for each in (data, mirrored))
    assert one > two  # finer levels leave room for more of the tail
    symmetric = find_range(histogram_of(data), "kl", Levels(symmetric=True)).hi
    assert symmetric < one


def test_as_many_levels_as_bins_clip_next_to_nothing() -> None:
    histogram = histogram_of(np.random.default_rng(4).normal(size=SIZE))
    found = find_range(histogram, "kl", Levels(bits=16))
    assert found.hi >= 0.9 * histogram.hi


def test_few_values_are_not_clipped() -> None:
    for size in (1, 10, 100):
        histogram = histogram_of(np.random.default_rng(5).uniform(-1, 1, size))
        assert sqnr_db(histogram, find_range(histogram, "kl")) > 30
