"""round-weights: never worse than rounding to nearest, on the grid that quantize-static finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from case_pages import parse
from int8_nets import Feeds, normal_feeds, quantized, run_pass, samples_of, sqnr_db, weight
from onnxcomp.calibration.samples import open_samples
from onnxcomp.graph import Array, array
from onnxcomp.linear import gram
from onnxcomp.linear.layers import find_layers
from onnxcomp.model_io import load_model
from onnxcomp.passes.quantize import round_weights
from onnxcomp.passes.quantize._numbers import quantize_weight
from onnxcomp.passes.quantize._rounding import on_grid, round_rows, scale_of_rows, to_nearest
from onnxcomp.pipeline import run_lossless
from onnxcomp.recipe_file import load_recipe
from onnxcomp.registry import apply, find_pass
from onnxcomp.runtime import Session, input_specs
from onnxcomp.targets import TARGETS

PASS = "round-weights"
MODELS = Path(__file__).parent.parent / "models"

LAYERS = """agraph (float[N, 6, 9, 8] x) => (float[N, 7] y)
<float[8, 3, 3, 2] w1, float[8] b1, float[8, 1, 3, 3] w2, float[8, 8, 1, 1] w3, float[8, 6] w4,
 float[7, 6] w5>
{
    c = Conv <group = 2, pads = [1, 0, 0, 1], strides = [2, 1], dilations = [1, 2]> (x, w1, b1)
    d = Conv <group = 8, pads = [1, 1, 1, 1]> (c, w2)
    e = Conv (d, w3)
    g = GlobalAveragePool (e)
    f = Flatten (g)
    m = MatMul (f, w4)
    y = Gemm <transB = 1, alpha = 0.3> (m, w5)
}"""


def correlated(groups: int, columns: int, count: int, rng: np.random.Generator) -> Array:
    """Return rows [groups, count, columns] whose entries depend on each other."""
    mix = rng.standard_normal((groups, columns, columns))
    rows = rng.standard_normal((groups, count, columns)) @ mix + rng.standard_normal(columns)
    return np.asarray(rows * 10.0 ** rng.uniform(-2, 2, columns))


@settings(max_examples=50)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 5), st.integers(1, 70),
    st.sampled_from([64, 127]), st.booleans(),
)  # fmt: skip
def test_never_worse_than_nearest_and_on_the_same_grid(
    seed: int, groups: int, rows: int, columns: int, largest: int, per_channel: bool
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((groups, rows, columns)).astype(np.float32)
    weight *= (10.0 ** rng.uniform(-3, 3, (groups, rows, 1))).astype(np.float32)
    weight[rng.integers(groups), rng.integers(rows)] *= rng.integers(2)  # a dead row, or not
    inputs = correlated(groups, columns, int(rng.integers(1, 2 * columns + 2)), rng)
    gram = inputs.transpose(0, 2, 1) @ inputs / inputs.shape[1]
    scale = scale_of_rows(weight, largest, per_channel=per_channel)
    units = weight / scale
    steps = round_rows(units, gram, largest)
    assert np.array_equal(steps, np.rint(steps))
    assert np.abs(steps).max() <= largest

    def error(found: Array) -> Array:
        return np.asarray(np.square((units - found) @ inputs.transpose(0, 2, 1)).mean(axis=-1))

    nearest = error(to_nearest(units, largest))
    assert np.all(error(steps) <= nearest * (1 + 1e-6) + 1e-12)

    data = on_grid(weight, scale, steps, largest, per_channel=per_channel)
    flat = data.reshape(groups * rows, columns)
    stored = quantize_weight(flat, 0 if per_channel else None, largest)
    alive = np.abs(weight).max(axis=-1).reshape(-1) > 0
    assert np.array_equal(stored.data[alive], steps.reshape(flat.shape)[alive])
    assert np.array_equal(
        np.broadcast_to(stored.scale, (groups * rows,)), scale.reshape(groups * rows)
    )


def test_rows_of_independent_inputs_are_rounded_to_nearest() -> None:
    rng = np.random.default_rng(0)
    units = rng.uniform(-127, 127, (1, 6, 20))
    units[..., 0] = 127
    steps = round_rows(units, np.eye(20)[np.newaxis], 127)
    assert np.array_equal(steps, np.rint(units))


def test_inputs_at_are_what_the_node_multiplies() -> None:
    """W x at the positions is what ONNX Runtime computes there, for each kind of layer."""
    model = parse(LAYERS, 17)
    feeds = normal_feeds("x", (2, 6, 9, 8), 1)[0]
    for layer in find_layers(model.graph):
        out = layer.node.outputs[0].name or ""
        taps = [out, layer.source.name or ""]
        found = {**feeds, **Session(model, taps=taps).run(feeds)}
        rows = layer.inputs_at(found[taps[1]], 10**6, np.random.default_rng(0))
        made = rows @ layer.matrices.transpose(0, 2, 1)  # [groups, positions, rows]
        made = made.transpose(1, 0, 2).reshape(made.shape[1], -1)
        wanted = found[out]
        if wanted.ndim == 4:
            wanted = wanted.transpose(0, 2, 3, 1)
        wanted = wanted.reshape(len(made), -1)
        if len(layer.node.inputs) > 2:
            bias = array(layer.node.inputs[2])
            assert bias is not None
            made = made + bias
        made *= layer.node.attributes.get_float("alpha", 1.0)
        np.testing.assert_allclose(made, wanted, rtol=1e-4, atol=1e-4)


def test_every_kind_of_layer_is_rounded() -> None:
    model = parse(LAYERS, 17)
    feeds = normal_feeds("x", (1, 6, 9, 8), 8)
    after, outcome = run_pass(PASS, model, feeds, target="x86")
    assert outcome.sites + len(outcome.left) == 5
    assert outcome.sites >= 3
    for found in outcome.measured:
        assert found.after > found.before
    held_out = normal_feeds("x", (1, 6, 9, 8), 8, seed=1)
    gain = [sqnr_db(model, quantized(each, feeds, "x86"), held_out) for each in (model, after)]
    assert gain[1] > gain[0], gain


def test_the_same_samples_give_the_same_bytes() -> None:
    model, feeds = parse(LAYERS, 17), normal_feeds("x", (1, 6, 9, 8), 4)
    first, second = (ir.to_proto(run_pass(PASS, model, feeds)[0]) for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()


def test_shared_weights_and_large_ones_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """agraph (float[N, 6] x) => (float[N, 6] y)
    <float[6, 6] w> { a = MatMul (x, w)  y = MatMul (a, w) }"""
    feeds = normal_feeds("x", (4, 6), 4)
    model = parse(text, 17)
    after, outcome = run_pass(PASS, model, feeds)
    assert [left.reason for left in outcome.left] == ["its weight is shared"] * 2
    assert ir.to_proto(after) == ir.to_proto(model)
    monkeypatch.setattr(round_weights, "COLUMNS", 5)
    _, outcome = run_pass(PASS, parse(LAYERS, 17), normal_feeds("x", (1, 6, 9, 8), 2))
    assert "18 columns are more than 5" in [left.reason for left in outcome.left]
    monkeypatch.setattr(round_weights, "COLUMNS", 500)
    monkeypatch.setattr(round_weights, "WORK", 10.0)
    _, outcome = run_pass(PASS, parse(LAYERS, 17), normal_feeds("x", (1, 6, 9, 8), 2))
    assert outcome.sites == 0
    assert {left.reason for left in outcome.left} == {"rounding it takes too long"}


def test_excluded_nodes_keep_their_weights() -> None:
    model, feeds = parse(LAYERS, 17), normal_feeds("x", (1, 6, 9, 8), 4)
    after, outcome = run_pass(PASS, model, feeds, exclude="*c, Gemm*")
    assert np.array_equal(weight(after, "c"), weight(model, "c"))
    assert np.array_equal(weight(after, "y"), weight(model, "y"))
    assert outcome.sites


def test_inputs_that_are_not_finite_are_left_out() -> None:
    model, feeds = parse(LAYERS, 17), normal_feeds("x", (1, 6, 9, 8), 2)
    bad = [{"x": np.full((1, 6, 9, 8), np.nan, np.float32)}]
    assert run_pass(PASS, model, bad)[1].sites == 0
    with_bad, outcome = run_pass(PASS, model, [*bad, *feeds])
    assert outcome.sites
    assert np.isfinite(weight(with_bad, "c")).all()


@pytest.mark.parametrize("name", [PASS, "absorb-high-bias", "correct-bias"])
def test_random_samples_say_nothing(name: str) -> None:
    model = parse(LAYERS, 17)
    random = open_samples("random:4", input_specs(model), model=model)
    needs = {"samples": random, "target": TARGETS["x86"], "original": model, "unfused": model}
    assert apply(find_pass(name), model.clone(), {}, needs).sites == 0


def test_a_few_positions_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gram, "POSITIONS", 5)
    monkeypatch.setattr(gram, "GROUPED_POSITIONS", 5)
    model, feeds = parse(LAYERS, 17), normal_feeds("x", (1, 6, 9, 8), 4)
    layers = list(find_layers(model.graph))
    for _, seen in gram.look_at(model, layers, samples_of(model, feeds)):
        assert seen is not None
        assert max(rows.shape[1] for rows in seen.rows) <= 5


def digits(name: str) -> tuple[ir.Model, list[Feeds], list[Feeds]]:
    """Return a trained model without its batch normalizations, and two halves of images."""
    model, _ = run_lossless(
        load_model(MODELS / f"{name}.onnx"), load_recipe("lossless").steps, None
    )
    with np.load(MODELS / "digits.npz") as samples:
        images = samples["image"].astype(np.float32)
    feeds: list[Feeds] = [{"image": images[i : i + 1]} for i in range(264)]
    return model, feeds[:64], feeds[64:]


@pytest.mark.parametrize("name", ["digits_cnn", "digits_mobile"])
@pytest.mark.parametrize("target", ["x86", "x86-vnni"])
def test_trained_models_are_better_on_images_held_out(name: str, target: str) -> None:
    model, feeds, held_out = digits(name)
    after, outcome = run_pass(PASS, model, feeds, target=target)
    assert outcome.sites > 2
    plain, better = (
        sqnr_db(model, quantized(each, feeds, target), held_out) for each in (model, after)
    )
    # Behind hard swish the gates' own noise decides, and half a dB either way is chance.
    assert better > plain - (0.5 if name == "digits_mobile" else 0.0), (plain, better)
    assert all(found.after > found.before for found in outcome.measured)
