"""What probabilities foretell of accuracy: nothing where nothing moved, else what flips cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcomp.decisions import Decisions, are_probabilities
from onnxcomp.graph import Array
from onnxcomp.parity import compare_outputs


def softmax(logits: Array) -> Array:
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(odds / odds.sum(-1, keepdims=True))


def foretold(logits: Array, noise: Array) -> float | None:
    decisions = Decisions()
    for rows in np.array_split(np.arange(len(logits)), 3):  # as samples come
        decisions.add(softmax(logits[rows]), softmax(logits[rows] + noise[rows]))
    return decisions.expected_drop()


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.05, 0.3, 1.0]))
def test_it_is_the_mean_cost_of_what_noise_flips(seed: int, deviation: float) -> None:
    """Two classes, labels drawn from the original's own probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (20_000, 2))
    noise = np.zeros_like(logits)
    noise[:, 0] = rng.normal(0, deviation, len(logits))
    found = foretold(logits, noise)
    p = softmax(logits)
    before = np.take_along_axis(p, p.argmax(-1)[:, None], -1)
    after = np.take_along_axis(p, (logits + noise).argmax(-1)[:, None], -1)
    assert found == pytest.approx(float((before - after).mean()), rel=0.25, abs=2e-4)


def test_more_noise_foretells_more_and_none_nothing() -> None:
    rng = np.random.default_rng(0)
    logits, noise = rng.normal(0, 2, (500, 5)), rng.normal(0, 1, (500, 5))
    found = [foretold(logits, share * noise) or 0.0 for share in (0.0, 0.1, 0.3, 1.0)]
    assert found[0] == 0.0
    assert found == sorted(found)
    assert len(set(found)) == 4


@pytest.mark.parametrize(
    "data",
    [
        np.ones((3, 4)),
        np.array([0.5, 0.5]),
        np.zeros((0, 2)),
        np.array([[1.5, -0.5]]),
        np.ones((3, 1)),
    ],
    ids=["sums", "rank 1", "empty", "negative", "one class"],
)
def test_other_outputs_foretell_nothing(data: Array) -> None:
    assert not are_probabilities(data)
    decisions = Decisions()
    decisions.add(data, data)
    assert decisions.expected_drop() is None


def test_one_sample_that_is_no_distribution_ends_it() -> None:
    decisions = Decisions()
    decisions.add(np.full((2, 4), 0.25), np.full((2, 4), 0.25))
    decisions.add(np.ones((2, 4)), np.ones((2, 4)))
    assert decisions.expected_drop() is None


def test_parity_reports_the_worst_output() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1, (200, 3)).astype(np.float32)
    same = {"a": softmax(logits), "b": softmax(logits), "c": logits}
    moved = {**same, "b": softmax(logits + rng.normal(0, 0.5, logits.shape).astype(np.float32))}
    parity = compare_outputs(same, moved)
    assert parity.outputs["a"].expected_drop == 0.0
    assert parity.outputs["c"].expected_drop is None
    assert parity.expected_drop == parity.outputs["b"].expected_drop
    assert parity.outputs["b"].to_dict()["expected_drop"] == parity.expected_drop
    assert parity.expected_drop is not None
    assert parity.expected_drop > 0.005
