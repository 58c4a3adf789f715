"""correct-bias: mean errors are gone on what it saw, and every form of a bias."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from case_pages import parse
from int8_nets import Feeds, mobile_net, normal_feeds, quantized, run_pass, set_weight, sqnr_db
from onnxcomp.calibration.ranges import Range, Ranges
from onnxcomp.graph import Array, array, is_op, label
from onnxcomp.int8_coverage import optimized_graph
from onnxcomp.passes.quantize._numbers import BIAS_MAX
from onnxcomp.registry import Outcome, apply, find_pass
from onnxcomp.runtime import Session
from onnxcomp.targets import TARGETS

PASS = "correct-bias"

FORMS = """agraph (float[N, 4, 6, 6] x) => (float[N, 6] y)
<float[8, 4, 3, 3] w1, float[8, 8, 1, 1] w2, float[8] b2, float[8, 8] w3, float[8, 8] w4,
 float[8] b4, float[8, 6] w5, float[6] b5>
{
    c = Conv <pads = [1, 1, 1, 1]> (x, w1)
    r = Relu (c)
    d = Conv (r, w2, b2)
    g = GlobalAveragePool (d)
    f = Flatten (g)
    h = Gemm <transB = 1> (f, w3)
    i = Gemm (h, w4, b4)
    m = MatMul (i, w5)
    y = Add (m, b5)
}"""


def corrected(exact: ir.Model, int8: ir.Model, feeds: Sequence[Feeds]) -> tuple[ir.Model, Outcome]:
    after, outcome = run_pass(PASS, int8, feeds, original=exact)
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    assert outcome.sites or ir.to_proto(after) == ir.to_proto(int8)
    return after, outcome


def steps_of(model: ir.Model) -> dict[str, float]:
    """Return the greatest step of the bias of each layer that has an int32 one."""
    found = {}
    for node in model.graph:
        dequantize = node.inputs[2].producer() if len(node.inputs) > 2 and node.inputs[2] else None
        if is_op(node, "Conv", "Gemm") and dequantize is not None:
            scale = array(dequantize.inputs[1])
            assert scale is not None
            found[label(node)] = float(scale.max())
    return found


def feeds_with_a_mean(count: int, seed: int = 0, channels: int = 4, size: int = 6) -> list[Feeds]:
    return [
        {"x": each["x"] + np.float32(0.7)}
        for each in normal_feeds("x", (1, channels, size, size), count, seed)
    ]


def mean_errors(exact: ir.Model, other: ir.Model, feeds: list[Feeds]) -> dict[str, Array]:
    """Return for each layer the mean error of each channel of what it makes, before activations."""
    nodes = {label(node): node.outputs[0].name or "" for node in exact.graph}
    found: dict[str, Array] = {}
    for node in other.graph:
        if not is_op(node, "Conv", "Gemm", "MatMul"):
            continue
        taps = (nodes[label(node)], node.outputs[0].name or "")
        first, second = Session(exact, taps=taps[:1]), Session(other, taps=taps[1:])
        axes = (0, 2, 3) if is_op(node, "Conv") else (0,)
        found[label(node)] = np.mean(
            [
                (second.run(each)[taps[1]] - first.run(each)[taps[0]]).mean(axis=axes)
                for each in feeds
            ],
            axis=0,
        )
    return found


@settings(max_examples=3, phases=[Phase.generate])
@given(st.integers(0, 2**32 - 1))
def test_the_mean_error_is_gone_on_the_samples_that_it_saw(seed: int) -> None:
    model, feeds = mobile_net(3.0, seed), feeds_with_a_mean(16, seed, 3, 16)
    int8 = quantized(model, feeds, "x86", per_channel=False)
    after, outcome = corrected(model, int8, feeds)
    before, left = mean_errors(model, int8, feeds), mean_errors(model, after, feeds)
    assert outcome.sites > 0
    steps, skipped = steps_of(after), {each.node for each in outcome.left}
    for name in before.keys() - skipped:
        assert np.abs(left[name]).max() <= 0.6 * steps[name] + 1e-4, name
        assert np.abs(left[name]).max() < 0.2 * np.abs(before[name]).max(), name


def test_every_form_of_a_bias() -> None:
    model, feeds = parse(FORMS, 17), feeds_with_a_mean(16)
    int8 = quantized(model, feeds, "x86")
    after, outcome = corrected(model, int8, feeds)
    assert outcome.sites + len(outcome.left) == 5
    assert {found.node for found in outcome.measured} >= {"Conv -> c", "Conv -> d"}
    assert all(found.after < found.before for found in outcome.measured)
    kernels = [Counter(node.op_type for node in optimized_graph(each)) for each in (int8, after)]
    assert kernels[0] == kernels[1]
    held_out = feeds_with_a_mean(16, seed=1)
    assert sqnr_db(model, after, held_out) > sqnr_db(model, int8, held_out) - 0.1


def test_only_an_error_that_both_halves_of_the_samples_show_is_taken_out() -> None:
    model, feeds = parse(FORMS, 17), feeds_with_a_mean(16)
    opposite = [{"x": each["x"] * (-1) ** i} for i, each in enumerate(feeds)]
    _, outcome = corrected(model, quantized(model, opposite, "x86"), opposite)
    assert "its mean error differs between samples" in {left.reason for left in outcome.left}
    _, outcome = corrected(model, quantized(model, feeds, "x86"), feeds[:1])
    assert outcome.sites == 0
    assert {left.reason for left in outcome.left} == {"fewer than two samples show its mean"}


def test_a_bias_near_the_end_of_its_range_stays() -> None:
    model, feeds = parse(FORMS, 17), feeds_with_a_mean(8)
    bias = np.full(8, 0.1)
    bias[0] = 1e9
    set_weight(model, "d", bias, index=2)
    after, _ = corrected(model, quantized(model, feeds, "x86"), feeds)
    for node in after.graph:
        data = array(node.inputs[0]) if is_op(node, "DequantizeLinear") else None
        if data is not None and data.dtype == np.int32:
            assert np.abs(data.astype(np.int64)).max() <= BIAS_MAX + 1


def test_what_a_branch_captures_is_there_for_it() -> None:
    text = """agraph (float[N, 4, 6, 6] x, bool[] flag) => (float[N, 4, 6, 6] y)
    <float[4, 4, 1, 1] w, float[4, 4, 1, 1] v, float two = {2.0}>
    {
        c = Conv (x, w)
        s = Sigmoid (x)
        d = If (flag) <then_branch = t () => (a) { a = Mul (s, two) },
                       else_branch = e () => (b) { b = Identity (c) }>
        y = Conv (d, v)
    }"""
    model = parse(text, 17)
    feeds: list[Feeds] = [{**each, "flag": np.array(True)} for each in feeds_with_a_mean(8)]
    int8 = model.clone()
    ranges = {"x": (-4, 5), "c": (-20, 20), "d": (-20, 20), "y": (-50, 50)}
    given = Ranges({name: Range(*ends) for name, ends in ranges.items()}, "minmax", 1, "test")
    apply(find_pass("quantize-static"), int8, {}, {"ranges": given, "target": TARGETS["x86"]})
    after, outcome = run_pass(PASS, int8, feeds, original=model)
    assert outcome.sites + len(outcome.left) == 2
    assert Session(after).run(feeds[0])


def test_models_without_int8_layers_stay() -> None:
    model, feeds = parse(FORMS, 17), feeds_with_a_mean(4)
    after, outcome = corrected(model, model, feeds)
    assert outcome.sites == 0
    assert ir.to_proto(after) == ir.to_proto(model)
