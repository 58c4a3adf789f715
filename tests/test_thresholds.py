"""Ranges from histograms: what every method must hold, and what each one promises."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcomp.calibration.histogram import Histogram
from onnxcomp.calibration.ranges import Range
from onnxcomp.calibration.thresholds import (
    METHODS,
    Consumer,
    Levels,
    expected_error,
    find_range,
    identity,
    sqnr_db,
)
from onnxcomp.calibration.thresholds.auto import consumer_errors
from onnxcomp.calibration.thresholds.entropy import entropies
from onnxcomp.calibration.thresholds.levels import quantized, scale_exponent
from onnxcomp.calibration.thresholds.mass import mass_of
from onnxcomp.graph import Array
from onnxcomp.passes.quantize._numbers import grid_of

SIZE = 100_000
LEVELS = st.builds(Levels, st.sampled_from([4, 8, 16]), st.booleans(), st.booleans())
METHOD = st.sampled_from(list(METHODS))


def sigmoid(data: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-data)))


def relu(data: Array) -> Array:
    return np.maximum(data, 0)


def histogram_of(data: Array, bins: int = 2048) -> Histogram:
    found = Histogram(bins=bins)
    found.add(np.asarray(data, np.float32))
    return found


def sample(kind: str, size: int, seed: int) -> Array:
    """Draw from one of the shapes that tensors have."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=size)
    drawn: dict[str, Callable[[], Array]] = {
        "normal": lambda: normal,
        "outlier": lambda: np.append(normal, 100.0),
        "heavy": lambda: rng.standard_t(3, size),
        "uniform": lambda: rng.uniform(-1, 2, size),
        "bimodal": lambda: np.where(rng.random(size) < 0.5, normal / 3 - 5, normal / 3 + 5),
        "relu": lambda: relu(normal),
        "relu6": lambda: np.clip(3 * normal + 3, 0, 6),
        "silu": lambda: 3 * normal * sigmoid(3 * normal),
        "positive": lambda: rng.uniform(2, 3, size),
        "negative": lambda: -rng.exponential(1, size),
        "logits": lambda: np.where(rng.random(size) < 6e-4, 2 * normal + 2, 2 * normal - 12),
        "few": lambda: rng.choice([-1.0, 0.0, 0.3, 2.0], size),
        "constant": lambda: np.full(size, 0.3),
        "zeros": lambda: np.zeros(size),
    }
    return np.asarray(drawn[kind](), np.float32)


KINDS = [
    "normal",
    "outlier",
    "heavy",
    "uniform",
    "bimodal",
    "relu",
    "relu6",
    "silu",
    "positive",
    "negative",
    "logits",
    "few",
    "constant",
    "zeros",
]
TENSOR = st.builds(
    sample, st.sampled_from(KINDS), st.sampled_from([1, 7, 300, 20_000]), st.integers(0, 99)
)
BINS = st.sampled_from([1, 2, 100, 1024, 2048, 8192])


# ---------------------------------------------------------------- every method
@settings(deadline=None, max_examples=200)
@given(TENSOR, BINS, METHOD, LEVELS)
def test_a_range_lies_within_the_values_and_zero(
    data: Array, bins: int, method: str, levels: Levels
) -> None:
    histogram = histogram_of(data, bins)
    found = find_range(histogram, method, levels, consumers=(sigmoid, identity))
    lo, hi = min(histogram.lo, 0.0), max(histogram.hi, 0.0)
    if levels.power_of_two:
        scale = 2.0 ** scale_exponent(found, levels)
        assert max(-found.lo, found.hi) <= 2 * levels.steps * max(-lo, hi) or lo == hi == 0
        steps = levels.most if levels.symmetric else levels.steps
        span = max(-found.lo, found.hi) if levels.symmetric else found.hi - found.lo
        assert span in (0.0, scale * steps)
    else:
        assert lo <= found.lo <= found.hi <= hi
        assert found.hi > found.lo or lo == hi or found == Range(histogram.lo, histogram.hi)
    assert find_range(histogram, method, levels, consumers=(sigmoid, identity)) == found


@settings(deadline=None, max_examples=100)
@given(TENSOR, BINS, st.sampled_from([*METHODS][:-1]), LEVELS, st.integers(-12, 12))
def test_scaled_by_a_power_of_two(
    data: Array, bins: int, method: str, levels: Levels, exponent: int
) -> None:
    found = find_range(histogram_of(data, bins), method, levels)
    factor = 2.0**exponent
    scaled = find_range(histogram_of(data * np.float32(factor), bins), method, levels)
    assert (scaled.lo, scaled.hi) == (found.lo * factor, found.hi * factor)


@settings(deadline=None, max_examples=100)
@given(TENSOR, METHOD, LEVELS)
def test_mirrored(data: Array, method: str, levels: Levels) -> None:
    histogram = histogram_of(data)
    inside = data * np.float32(0.9999)  # a value on a border falls into the other bin of the two
    found = find_range(histogram_of(inside), method, levels, consumers=(relu, identity))
    other = find_range(
        histogram_of(-inside), method, levels, consumers=(lambda x: relu(-x), identity)
    )
    assert (found.lo, found.hi) == pytest.approx((-other.hi, -other.lo), abs=2 * histogram.width)


def test_nothing_finite_has_no_range() -> None:
    histogram = histogram_of(np.array([np.nan, np.inf]))
    with pytest.raises(ValueError, match="without finite values"):
        find_range(histogram, "minmax")
    with pytest.raises(ValueError, match="without finite values"):
        expected_error(histogram, Range(0, 1))


def test_what_is_asked_for_must_exist() -> None:
    histogram = histogram_of(np.ones(3))
    with pytest.raises(ValueError, match='no method "max"; there are minmax, '):
        find_range(histogram, "max")
    for share in (0.0, 100.1):
        with pytest.raises(ValueError, match="above 0 and up to 100"):
            find_range(histogram, "percentile", percentile=share)


# ---------------------------------------------------------------- the error of a range
@settings(deadline=None, max_examples=100)
@given(st.floats(-1e6, 0, width=32), st.floats(0, 1e6, width=32))
def test_the_grid_is_that_of_quantization(lo: float, hi: float) -> None:
    found = Range(lo, hi)
    grid = grid_of(found)
    data = np.linspace(1.2 * lo, 1.2 * hi, 101)
    steps = np.clip(np.rint(data / grid.scale), -grid.zero_point, 255 - grid.zero_point)
    assert np.array_equal(quantized(data, found, Levels()), steps * grid.scale)


@pytest.mark.parametrize("levels", [Levels(), Levels(symmetric=True), Levels(bits=4)])
@pytest.mark.parametrize("kind", ["normal", "heavy", "bimodal", "relu", "relu6", "silu", "zeros"])
def test_the_error_is_that_of_the_data(kind: str, levels: Levels) -> None:
    data = sample(kind, SIZE, 0)
    histogram = histogram_of(data)
    for share in (1.0, 0.7, 0.1):
        found = Range(share * histogram.lo, share * histogram.hi)
        exact = float(np.mean((quantized(data.astype(float), found, levels) - data) ** 2.0))
        assert expected_error(histogram, found, levels) == pytest.approx(exact, rel=0.03)
        if exact:
            ratio = 10 * math.log10(float(np.mean(data.astype(float) ** 2)) / exact)
            assert sqnr_db(histogram, found, levels) == pytest.approx(ratio, abs=0.15)


def test_values_at_a_bound_are_a_point() -> None:
    histogram = histogram_of(np.array([0.0, 6.0, 6.0], np.float32))
    assert expected_error(histogram, Range(0, 6)) == pytest.approx(0, abs=1e-12)
    assert expected_error(histogram, Range(0, 5)) == pytest.approx(2 / 3)


# ---------------------------------------------------------------- each method
@pytest.mark.parametrize("kind", KINDS)
def test_minmax_is_exact(kind: str) -> None:
    data = sample(kind, 300, 1)
    assert find_range(histogram_of(data), "minmax") == Range(float(data.min()), float(data.max()))


@settings(deadline=None, max_examples=100)
@given(TENSOR, LEVELS)
def test_minmax_never_clips(data: Array, levels: Levels) -> None:
    found = find_range(histogram_of(data), "minmax", levels)
    lo, hi = min(found.lo, 0.0), max(found.hi, 0.0)
    scale = max(-lo, hi) / levels.most if levels.symmetric else (hi - lo) / levels.steps
    off = np.abs(quantized(data.astype(float), found, levels) - data)
    assert off.max() <= 0.5001 * scale


@settings(deadline=None, max_examples=100)
@given(TENSOR, BINS, LEVELS, st.lists(st.floats(50, 100), min_size=2, max_size=2))
def test_percentile_grows_with_its_share(
    data: Array, bins: int, levels: Levels, shares: list[float]
) -> None:
    histogram = histogram_of(data, bins)
    few, many = (
        find_range(histogram, "percentile", levels, percentile=share) for share in sorted(shares)
    )
    if levels.power_of_two:
        assert few.hi - few.lo <= many.hi - many.lo
    else:
        assert many.lo <= few.lo
        assert few.hi <= many.hi


@pytest.mark.parametrize("kind", ["normal", "heavy", "relu", "silu", "negative"])
def test_percentile_is_that_of_the_data(kind: str) -> None:
    data = sample(kind, SIZE, 2)
    histogram = histogram_of(data)
    found = find_range(histogram, "percentile", percentile=99.0)
    lo, hi = (0.5, 99.5) if data.min() < 0 < data.max() else (1.0, 99.0)
    if data.min() < 0:
        assert found.lo == pytest.approx(np.percentile(data, lo), abs=histogram.width)
    if data.max() > 0:
        assert found.hi == pytest.approx(np.percentile(data, hi), abs=histogram.width)


def _fine_search(histogram: Histogram, levels: Levels) -> float:
    """Return the least error over pairs of ends that lie 2 % apart, from a 60th of the values."""
    ladder = np.append(1.02 ** -np.arange(0.0, 208.0), 0.0)
    lows, highs = min(histogram.lo, 0.0) * ladder, max(histogram.hi, 0.0) * ladder
    if levels.symmetric or 0.0 in (lows[0], highs[0]):
        reaches = max(-histogram.lo, histogram.hi) * ladder
        pairs = [(max(lows[0], -reach), min(highs[0], reach)) for reach in reaches]
    else:
        pairs = [(lo, hi) for lo in np.unique(lows)[::4] for hi in np.unique(highs)[::-4]]
    return min(expected_error(histogram, Range(lo, hi), levels) for lo, hi in pairs)


@pytest.mark.parametrize("levels", [Levels(), Levels(symmetric=True), Levels(bits=4)])
@pytest.mark.parametrize(
    "kind", ["normal", "outlier", "heavy", "uniform", "bimodal", "relu", "relu6", "silu", "logits"]
)
def test_mse_is_as_good_as_a_fine_search(kind: str, levels: Levels) -> None:
    histogram = histogram_of(sample(kind, SIZE, 3), 512)
    found = find_range(histogram, "mse", levels)
    assert expected_error(histogram, found, levels) <= 1.02 * _fine_search(histogram, levels)


@settings(deadline=None, max_examples=100)
@given(TENSOR, BINS, LEVELS)
def test_mse_is_never_worse_than_minmax(data: Array, bins: int, levels: Levels) -> None:
    histogram = histogram_of(data, bins)
    found, whole = (find_range(histogram, name, levels) for name in ("mse", "minmax"))
    assert expected_error(histogram, found, levels) <= expected_error(histogram, whole, levels)


def test_mse_gives_up_an_outlier_when_it_is_rare_enough() -> None:
    """Clipping 100 at T costs (100 - T)^2 / n, which 255 steps outweigh from n = 10^7 or so on."""
    histogram = histogram_of(sample("normal", SIZE, 4))
    histogram.counts *= 1000
    histogram.add(np.array([100.0], np.float32))
    assert 3 <= find_range(histogram, "mse").hi <= 10
    often = find_range(histogram_of(sample("outlier", SIZE, 4)), "mse")
    assert 80 <= often.hi <= 95


@settings(deadline=None, max_examples=100)
@given(TENSOR, BINS, LEVELS)
def test_entropy_never_costs_more_than_minmax(data: Array, bins: int, levels: Levels) -> None:
    histogram = histogram_of(data, bins)
    found, whole = (find_range(histogram, name, levels) for name in ("entropy", "minmax"))
    limit = expected_error(histogram, whole, levels)
    assert expected_error(histogram, found, levels) <= limit * (1 + 1e-9)


def test_entropy_is_that_of_the_integers() -> None:
    data = sample("silu", SIZE, 5)
    found = Range(-0.2, 7.0)
    steps = np.rint(quantized(data.astype(float), found, Levels()) * 255 / 7.2)
    shares = np.unique(steps, return_counts=True)[1] / SIZE
    exact = -(shares * np.log2(shares)).sum()
    mass = mass_of(histogram_of(data))
    told = entropies(mass, np.array([found.lo]), np.array([found.hi]), Levels())
    assert told[0] == pytest.approx(exact, abs=0.02)


# ---------------------------------------------------------------- auto
CONSUMERS: list[tuple[Consumer, ...]] = [(), (identity,), (sigmoid,), (relu, identity), (np.exp,)]


@settings(deadline=None, max_examples=60)
@given(TENSOR, st.sampled_from(CONSUMERS), LEVELS)
def test_auto_is_never_worse_than_a_candidate(
    data: Array, consumers: tuple[Consumer, ...], levels: Levels
) -> None:
    histogram = histogram_of(data)
    names = ["auto", "minmax", "mse", "kl", "entropy", "percentile"]
    found = [find_range(histogram, name, levels, consumers=consumers) for name in names]
    costs = consumer_errors(mass_of(histogram), found, levels, consumers or (identity,))
    assert costs[0] <= costs[1:].min() * (1 + 1e-9)


def test_logits_before_a_sigmoid_keep_their_scores() -> None:
    data = sample("logits", SIZE, 6)
    histogram = histogram_of(data)
    capped = find_range(histogram, "percentile", percentile=99.8)
    assert sigmoid(np.array([capped.hi]))[0] < 0.6
    found = find_range(histogram, "auto", consumers=(sigmoid,))
    assert sigmoid(np.array([found.hi]))[0] > 0.95
    score = sigmoid(quantized(data.astype(float), found, Levels()))
    assert np.abs(score - sigmoid(data.astype(float))).max() < 0.05


def test_auto_gives_up_what_no_consumer_sees() -> None:
    histogram = histogram_of(sample("logits", SIZE, 6))
    assert find_range(histogram, "auto", consumers=(relu,)).lo > -21
    seen = find_range(histogram, "auto", consumers=(sigmoid,))
    assert seen.lo > find_range(histogram, "minmax").lo


def test_a_consumer_may_fail_on_some_values() -> None:
    histogram = histogram_of(sample("normal", 300, 7))
    found = find_range(histogram, "auto", consumers=(np.log, np.exp))
    assert histogram.lo <= found.lo < found.hi <= histogram.hi
