"""The figures of parity against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from case_pages import parse
from onnxcomp.parity import ParityMeter, compare_outputs
from onnxcomp.reference import natural_ranges
from onnxcomp.registry import Effect

FLOATS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=3, max_side=6),
    elements=st.floats(-100, 100, width=32),
)


@given(FLOATS)
def test_a_model_equals_itself(data: np.ndarray) -> None:
    parity = compare_outputs({"y": data}, {"y": data.copy()})
    assert not parity.failures(Effect.EXACT)
    assert math.isinf(parity.sqnr_db)
    assert parity.outputs["y"].cosine == pytest.approx(1.0)


@given(FLOATS, st.floats(0.001, 10))
def test_figures_match_their_formulas(data: np.ndarray, noise: float) -> None:
    rng = np.random.default_rng(0)
    other = (data + noise * rng.standard_normal(data.shape)).astype(np.float32)
    found = compare_outputs({"y": data}, {"y": other}).outputs["y"]
    x, y = data.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    assert found.max_abs == pytest.approx(np.abs(x - y).max())
    signal, error = float(x @ x), float((x - y) @ (x - y))
    if signal > 0 and error > 0:
        assert found.sqnr_db == pytest.approx(10 * math.log10(signal / error))
        assert found.cosine == pytest.approx(x @ y / np.sqrt(signal * (y @ y)), abs=1e-9)
    if np.ptp(x) > 0:
        spread = max(np.ptp(x), 0.01 * np.abs(x).max())
        assert found.relative == pytest.approx(found.max_abs / spread)


@given(st.lists(FLOATS, min_size=2, max_size=4))
def test_samples_add_up_to_one_array(parts: list[np.ndarray]) -> None:
    meter = ParityMeter()
    for part in parts:
        meter.add({"y": part}, {"y": part + np.float32(1)})
    whole = np.concatenate([part.ravel() for part in parts])
    at_once = compare_outputs({"y": whole}, {"y": whole + np.float32(1)}).outputs["y"]
    assert meter.result().outputs["y"].sqnr_db == pytest.approx(at_once.sqnr_db)
    assert meter.result().samples == len(parts)


@pytest.mark.parametrize(
    ("expected", "actual", "reason"),
    [
        (np.zeros(3, np.float32), np.zeros(4, np.float32), "instead of"),
        (np.zeros(3, np.float32), np.zeros(3, np.float64), "instead of"),
        (np.array([1.0, np.nan]), np.array([1.0, 2.0]), "NaN or infinite"),
        (np.array([1.0, 2.0]), np.array([1.0, np.inf]), "NaN or infinite"),
        (np.array([1.0, np.inf]), np.array([1.0, -np.inf]), "NaN or infinite"),
        (np.array([1, 2]), np.array([1, 3]), "values differ"),
        (np.array(["a"], object), np.array(["b"], object), "values differ"),
    ],
)
def test_broken_outputs_say_how(expected: np.ndarray, actual: np.ndarray, reason: str) -> None:
    parity = compare_outputs({"y": expected}, {"y": actual})
    for effect in (Effect.EXACT, Effect.CLOSE):
        assert reason in parity.failures(effect)[0]


def test_a_missing_output_is_broken() -> None:
    parity = compare_outputs({"y": np.zeros(1)}, {})
    assert parity.failures(Effect.CLOSE) == ["y: it is missing"]


def test_exact_means_bits_and_close_means_rounding() -> None:
    data = np.linspace(0, 1, 11, dtype=np.float32)
    nearly = compare_outputs({"y": data}, {"y": data * np.float32(1 + 1e-6)})
    assert nearly.failures(Effect.EXACT)
    assert not nearly.failures(Effect.CLOSE)
    off = compare_outputs({"y": data}, {"y": data * np.float32(1 + 1e-4)})
    assert off.failures(Effect.CLOSE)
    assert not off.failures(Effect.CLOSE, "float16")


def test_exact_tells_the_sign_of_zero_and_takes_nan_for_nan() -> None:
    zeros = compare_outputs({"y": np.array([0.0])}, {"y": np.array([-0.0])})
    assert zeros.failures(Effect.EXACT)
    nans = compare_outputs({"y": np.array([np.nan])}, {"y": np.array([np.nan])})
    assert not nans.failures(Effect.EXACT)


def test_sequences_are_compared_element_by_element() -> None:
    first, second = [np.zeros(2), np.ones(2)], [np.zeros(2), np.full(2, 3.0)]
    assert compare_outputs({"y": first}, {"y": second}).outputs["y"].max_abs == 2  # type: ignore[dict-item]
    assert compare_outputs({"y": first}, {"y": first[:1]}).outputs["y"].broken  # type: ignore[dict-item]


def test_json_has_no_infinity() -> None:
    exact = compare_outputs({"y": np.ones(2)}, {"y": np.ones(2)}).outputs["y"].to_dict()
    figures = {"max_abs": 0.0, "sqnr_db": 999.0, "cosine": 1.0, "top1": 1.0}
    assert exact == {**figures, "expected_drop": None}


def test_a_natural_range_counts_at_least() -> None:
    """Sigmoid errs by 1e-7, which is no rounding of its range where all answers are near 0."""
    meter = ParityMeter({"p": 1.0})
    meter.add({"p": np.array([0.0, 1e-5], np.float32)}, {"p": np.array([1e-7, 1e-5], np.float32)})
    assert not meter.result().failures(Effect.CLOSE)
    meter.add({"p": np.array([0.0, 1e-5], np.float32)}, {"p": np.array([1e-3, 1e-5], np.float32)})
    assert meter.result().failures(Effect.CLOSE)


def test_rounding_of_what_is_the_same_number_is_no_difference() -> None:
    """Softmax sums to 1, but for its rounding."""
    fifth = np.full(8, 0.2, np.float32)
    expected, actual = fifth.copy(), fifth.copy()
    expected[::2] = np.nextafter(expected[::2], np.float32(1))
    actual[::3] = np.nextafter(actual[::3], np.float32(1))
    assert not compare_outputs({"y": expected}, {"y": actual}).failures(Effect.CLOSE)
    actual[0] += 0.001
    assert compare_outputs({"y": expected}, {"y": actual}).failures(Effect.CLOSE)


def test_natural_ranges_are_found_behind_movement() -> None:
    model = parse(
        "g (float[2,3] x) => (float[3,2] p, float[2,3] q, float[2,3] r) { s = Sigmoid (x)"
        "  p = Transpose (s)   q = Tanh (x)   r = Add (s, q) }",
        17,
    )
    assert natural_ranges(model) == {"p": 1.0, "q": 2.0}
