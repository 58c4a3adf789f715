"""equalize-channels: which values it scales, that answers keep their bits, and what int8 gains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from case_pages import parse
from int8_nets import mobile_net, normal_feeds, quantized, run_pass, set_weight, sqnr_db, weight
from onnxcomp.calibration.samples import open_samples
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.graph import Array
from onnxcomp.pipeline import run_lossless
from onnxcomp.recipe_file import load_recipe
from onnxcomp.registry import Outcome, apply, find_pass
from onnxcomp.runtime import Session, input_specs

PASS = "equalize-channels"


def equalized(text: str | ir.Model, opset: int = 17) -> tuple[ir.Model, Outcome]:
    """Equalize, and check that the answers keep their bits and that a second run does nothing."""
    before = parse(text, opset) if isinstance(text, str) else text
    feeds = runnable_feeds(before, count=4)
    after, outcome = run_pass(PASS, before, feeds)
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    first, second = Session(before), Session(after)
    for each in feeds:
        wanted, found = first.run(each), second.run(each)
        assert all(np.array_equal(wanted[name], found[name]) for name in wanted)
    assert run_pass(PASS, after, feeds)[1].sites == 0
    return after, outcome


def uneven(text: str, node: str, axis: int = 0, opset: int = 17) -> ir.Model:
    """Return a model in which one channel that a node makes is 1000 times the others."""
    model = parse(text, opset)
    data = np.array(weight(model, node))
    np.moveaxis(data, axis, 0)[0] *= 1000
    set_weight(model, node, data)
    return model


def reasons(outcome: Outcome) -> list[str]:
    return [left.reason for left in outcome.left]


def unevenness(data: Array, axis: int) -> float:
    reach = np.abs(np.moveaxis(data, axis, 0).reshape(data.shape[axis], -1)).max(axis=1)
    return float(reach.max() / np.median(reach))


CHAIN = """agraph (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y)
<float[8, 4, 1, 1] w1, float[8] b1, float[4, 8, 1, 1] w2, float[8] slope, float lo = {0.0},
 float hi = {6.0}, float[8, 1, 1] slopes, float[8, 1, 1] top>
{ c = Conv (x, w1, b1)  r = OP  y = Conv (r, w2) }"""


@pytest.mark.parametrize(
    "op",
    [
        "Relu (c)",
        "LeakyRelu <alpha = 0.2> (c)",
        "PRelu (c, slopes)",
        "Identity (c)",
        "Dropout (c)",
        "Clip (c, lo)",
        "MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (c)",
        "AveragePool <kernel_shape = [2, 2], pads = [0, 0, 1, 1]> (c)",
        "GlobalAveragePool (c)",
        "Add (c, top)",
        "Add (top, c)",
    ],
)
def test_channels_are_scaled_through(op: str) -> None:
    text = CHAIN.replace("OP", op)
    if "Global" in op:
        text = text.replace("4, 6, 6] y", "4, 1, 1] y")
    model, outcome = equalized(uneven(text, "c"))
    assert outcome.sites == 1
    assert unevenness(weight(model, "c"), 0) < 50
    assert outcome.measured[0].before > 10 * outcome.measured[0].after


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        ("Clip (c, lo, hi)", "whose bounds do not scale"),
        ("HardSwish (c)", "reads it"),
        ("Sigmoid (c)", "reads it"),
        ("Add (c, lo)", "reads it"),
        ("Add (c, x)", "whose"),
        ("Softmax <axis = 1> (c)", "reads it"),
    ],
)
def test_channels_are_not_scaled_through(op: str, reason: str) -> None:
    text = CHAIN.replace("OP", op)
    if "c, x" in op:  # an input of the graph cannot be scaled
        text = text.replace("float[8, 4, 1, 1] w1", "float[4, 4, 1, 1] w1")
        text = text.replace("float[8] b1, float[4, 8, 1, 1]", "float[4] b1, float[4, 4, 1, 1]")
        reason = "it is an input"
    _, outcome = equalized(uneven(text, "c"))
    assert outcome.sites == 0
    assert any(reason in each for each in reasons(outcome)), reasons(outcome)


def test_silu_is_left() -> None:
    text = CHAIN.replace("r = OP", "s = Sigmoid (c)  r = Mul (c, s)")
    _, outcome = equalized(uneven(text, "c"))
    assert outcome.sites == 0
    assert any("Sigmoid" in each for each in reasons(outcome))


def test_an_output_of_the_graph_is_left() -> None:
    text = CHAIN.replace("OP", "Relu (c)").replace("6] y)", "6] y, float[N, 8, 6, 6] r)")
    _, outcome = equalized(uneven(text, "c"))
    assert reasons(outcome) == ["it is an output", "it is an output"]


def test_a_shared_weight_is_left() -> None:
    text = """agraph (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y)
    <float[4, 4, 1, 1] w> { c = Conv (x, w)  r = Relu (c)  y = Conv (r, w) }"""
    model = parse(text, 17)
    data = np.array(weight(model, "c"))
    data[0] *= 1000
    model.graph.initializers["w"].const_value = ir.tensor(data, name="w")
    _, outcome = equalized(model)
    assert outcome.sites == 0
    assert "a weight is shared" in reasons(outcome)


def test_a_value_that_a_branch_captures_is_left() -> None:
    text = """agraph (float[N, 4, 6, 6] x, bool[] flag) => (float[N, 4, 6, 6] y)
    <float[4, 4, 1, 1] w, float[4, 4, 1, 1] v>
    {
        c = Conv (x, w)
        d = Conv (c, v)
        y = If (flag) <then_branch = t () => (a) { a = Add (d, c) },
                       else_branch = e () => (b) { b = Identity (d) }>
    }"""
    model = uneven(text, "c")
    feeds = [{**each, "flag": np.array(True)} for each in normal_feeds("x", (1, 4, 6, 6), 4)]
    assert run_pass(PASS, model, feeds)[1].sites == 0


def test_both_sides_of_a_depthwise_convolution() -> None:
    text = """agraph (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y)
    <float[8, 4, 1, 1] w1, float[8, 1, 3, 3] w2, float[8] b2, float[4, 8, 1, 1] w3>
    {
        c = Conv (x, w1)
        r = Relu (c)
        d = Conv <group = 8, pads = [1, 1, 1, 1]> (r, w2, b2)
        s = Relu (d)
        y = Conv (s, w3)
    }"""
    model, outcome = equalized(uneven(text, "c"))
    assert outcome.sites == 2
    assert unevenness(weight(model, "c"), 0) < 4
    assert unevenness(weight(model, "d"), 0) < 50


def test_residual_sums_are_scaled_together() -> None:
    text = """agraph (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y)
    <float[8, 4, 1, 1] w1, float[8, 8, 3, 3] w2, float[8] b2, float[4, 8, 1, 1] w3>
    {
        c = Conv (x, w1)
        d = Conv <pads = [1, 1, 1, 1]> (c, w2, b2)
        a = Add (d, c)
        r = Relu (a)
        y = Conv (r, w3)
    }"""
    model = uneven(text, "c")
    data = np.array(weight(model, "d"))
    data[:, 0] /= 1000
    set_weight(model, "d", data)
    model, outcome = equalized(model)
    assert outcome.sites == 1
    assert unevenness(weight(model, "c"), 0) < 100


def test_a_sum_of_different_ranks_is_left() -> None:
    """Channels of [N, C, L] lie along another axis of [N, C, H, W]."""
    text = """agraph (float[1, 4, 6] x, float[1, 4, 4, 6] z) => (float[1, 4, 4, 6] y)
    <float[4, 4, 1] w1, float[4, 4, 1, 1] w2, float[4, 4, 1, 1] w3>
    { c = Conv (x, w1)  d = Conv (z, w2)  a = Add (c, d)  y = Conv (a, w3) }"""
    assert equalized(uneven(text, "d"))[1].sites == 0


def test_layer_normalization_hands_its_scale_to_the_product() -> None:
    text = """agraph (float[N, 5, 8] x) => (float[N, 5, 6] y, float[N, 5, 6] z)
    <float[8] scale, float[8] bias, float[8, 6] w, float[8, 6] v>
    { n = LayerNormalization <axis = -1> (x, scale, bias)  y = MatMul (n, w)  z = MatMul (n, v) }"""
    before = uneven(text, "n")
    for node in ("y", "z"):  # the products are used to the outlier
        data = np.array(weight(before, node))
        data[0] /= 1000
        set_weight(before, node, data)
    model, outcome = equalized(before)
    assert outcome.sites == 1
    assert abs(weight(model, "n")[0]) < abs(weight(before, "n")[0]) / 8
    feeds = normal_feeds("x", (2, 5, 8), 4)
    gain = sqnr_db(before, quantized(model, feeds), feeds)
    assert gain > sqnr_db(before, quantized(before, feeds), feeds) + 20


def test_the_bias_of_a_product_is_scaled_with_it() -> None:
    text = """agraph (float[N, 5, 8] x) => (float[N, 5, 6] y)
    <float[8, 8] w, float[8] b, float[8, 6] v>
    { m = MatMul (x, w)  a = Add (b, m)  r = Relu (a)  y = MatMul (r, v) }"""
    model, outcome = equalized(uneven(text, "m", axis=1))
    assert outcome.sites == 1
    assert unevenness(weight(model, "m"), 1) < 50


@pytest.mark.parametrize("bias", ["8", "1, 8", "1", "2, 8", "2, 1"])
def test_gemm_with_any_bias(bias: str) -> None:
    text = f"""agraph (float[2, 4] x) => (float[2, 6] y)
    <float[8, 4] w, float[{bias}] b, float[8, 6] v>
    {{
        a = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (x, w, b)
        r = Relu (a)
        y = Gemm (r, v)
    }}"""
    assert equalized(uneven(text, "a"))[1].sites == 1


def test_transposed_convolutions() -> None:
    text = """agraph (float[N, 4, 6, 6] x) => (float[N, 3, 14, 14] y)
    <float[4, 8, 2, 2] w, float[8] b, float[8, 3, 3, 3] v>
    {
        c = ConvTranspose <strides = [2, 2]> (x, w, b)
        r = Relu (c)
        y = ConvTranspose (r, v)
    }"""
    assert equalized(uneven(text, "c", axis=1))[1].sites == 1


def test_a_dead_channel_and_weights_near_the_end_of_float32() -> None:
    model = uneven(CHAIN.replace("OP", "Relu (c)"), "c")
    data = np.array(weight(model, "c"))
    data[3] = 0
    data[4] = 1e-38
    set_weight(model, "c", data)
    equalized(model)


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.floats(0, 6))
def test_answers_keep_their_bits(seed: int, decades: float) -> None:
    model = mobile_net(10.0**decades, seed)
    after, _ = run_pass(PASS, model, normal_feeds("x", (1, 3, 16, 16), 3, seed))
    other = normal_feeds("x", (2, 3, 16, 16), 1, seed + 1)[0]
    wanted, found = Session(model).run(other)["y"], Session(after).run(other)["y"]
    assert np.array_equal(wanted, found)


@pytest.mark.parametrize(("per_channel", "gain"), [(False, 20.0), (True, 10.0)])
def test_int8_recovers_from_uneven_channels(per_channel: bool, gain: float) -> None:
    model = mobile_net()
    feeds, held_out = (normal_feeds("x", (1, 3, 16, 16), 16, seed) for seed in (1, 2))
    after, outcome = run_pass(PASS, model, feeds)
    assert outcome.sites == 5
    plain, better = (
        sqnr_db(model, quantized(each, feeds, per_channel=per_channel), held_out)
        for each in (model, after)
    )
    assert better > 25
    assert better > plain + gain, (plain, better)


NORMALIZED = """agraph (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y)
<float[8, 4, 1, 1] w1, float[8] g, float[8] b, float[8] m, float[8] v = {1, 1, 1, 1, 1, 1, 1, 1},
 float[4, 8, 1, 1] w2>
{ c = Conv (x, w1)  n = BatchNormalization (c, g, b, m, v)  r = Relu (n)  y = Conv (r, w2) }"""


def test_what_a_normalization_has_learnt_is_not_scaled_away_where_ranges_come_from_it() -> None:
    unfused = uneven(NORMALIZED, "c")
    model, _ = run_lossless(unfused, load_recipe("lossless").steps, None)
    random = open_samples("random:4", input_specs(model), model=model)
    outcome = apply(find_pass(PASS), model.clone(), {}, {"samples": random, "unfused": unfused})
    assert outcome.sites == 0
    assert "its range is what a batch normalization has learnt" in reasons(outcome)
    for samples, before in ((random, model), (replace(random, synthetic=False), unfused)):
        needs = {"samples": samples, "unfused": before}
        assert apply(find_pass(PASS), model.clone(), {}, needs).sites == 1
