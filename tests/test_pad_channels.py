"""pad-channels: widths of depthwise convolutions."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from case_pages import parse
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.edits import sweep
from onnxcomp.graph import array
from onnxcomp.parity import compare_outputs
from onnxcomp.registry import apply, find_pass
from onnxcomp.runtime import Session
from onnxcomp.targets import TARGETS

PASS = find_pass("pad-channels")


def block(channels: int, activation: str = "HardSwish (e)", kernel: int = 3) -> str:
    """Return the text of a MobileNetV3 block with squeeze and excitation and a residual."""
    pads = [kernel // 2] * 4
    return f"""agraph (float[N, 8, 9, 9] x) => (float[N, 8, 9, 9] y)
    <float[{channels}, 8, 1, 1] we, float[{channels}] be,
     float[{channels}, 1, {kernel}, {kernel}] wd, float[{channels}] bd,
     float[4, {channels}, 1, 1] ws, float[{channels}, 4, 1, 1] wt, float[8, {channels}, 1, 1] wp>
    {{
        e = Conv (x, we, be)
        f = {activation}
        [dw] d = Conv <group = {channels}, pads = {pads}> (f, wd, bd)
        r = Relu (d)
        g = GlobalAveragePool (r)
        s = Conv (g, ws)
        t = Conv (s, wt)
        h = HardSigmoid (t)
        m = Mul (r, h)
        p = Conv (m, wp)
        y = Add (p, x)
    }}"""


def padded(text: str, target: str = "x86", opset: int = 17) -> tuple[ir.Model, list[str]]:
    """Run the pass, and check that outputs keep their values and a second run does nothing."""
    before = parse(text, opset)
    after = before.clone()
    outcome = apply(PASS, after, {}, {"target": TARGETS[target]})
    sweep(after)
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    for feeds in runnable_feeds(before, count=2):
        found = compare_outputs(Session(before).run(feeds), Session(after).run(feeds))
        assert not [output.broken for output in found.outputs.values() if output.broken]
        assert found.sqnr_db > 100
    assert apply(PASS, after.clone(), {}, {"target": TARGETS[target]}).sites == 0
    assert outcome.sites or ir.to_proto(after) == ir.to_proto(before)
    return after, [left.reason for left in outcome.left]


def widths(model: ir.Model) -> list[tuple[int, ...]]:
    data = [array(n.inputs[1]) for n in model.graph if n.op_type == "Conv"]
    return [found.shape[:2] for found in data if found is not None]


def test_every_weight_around_a_depthwise_convolution_is_widened() -> None:
    model, left = padded(block(72))
    assert widths(model) == [(80, 8), (80, 1), (4, 80), (80, 4), (8, 80)]
    assert not left


@pytest.mark.parametrize("target", ["arm64", "tensorrt"])
def test_other_targets_keep_their_widths(target: str) -> None:
    assert widths(padded(block(72), target)[0])[0] == (72, 8)


@settings(max_examples=15, deadline=None)
@given(st.integers(60, 130), st.sampled_from(["Relu (e)", "Sigmoid (e)", "Mul (e, e)"]))
def test_any_width_becomes_a_multiple_of_16(channels: int, activation: str) -> None:
    model, _ = padded(block(channels, activation))
    found = widths(model)[0][0]
    assert found % 16 == 0
    assert channels <= found < channels + 16


def test_the_added_channels_are_zeros_and_shared_weights_are_kept() -> None:
    text = """agraph (float[N, 72, 5, 5] x) => (float[N, 72, 5, 5] y)
    <float[72, 72, 1, 1] w, float[72, 1, 3, 3] d>
    {
        a = Conv (x, w)
        b = Conv <group = 72, pads = [1, 1, 1, 1]> (a, d)
        y = Conv (b, w)
    }"""
    model, _ = padded(text)
    assert widths(model) == [(80, 72), (80, 1), (72, 80)]
    first = array(next(iter(model.graph)).inputs[1])
    assert first is not None
    assert not np.any(first[72:])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (block(24), "24 channels are too few to add 8"),
        (block(72, "Softmax <axis = 1> (e)"), "more than convolutions and activations share"),
        (block(72).replace("=> (", "=> (float[N, 72, 9, 9] r, "), "more than convolutions"),
    ],
)
def test_left_alone(text: str, reason: str) -> None:
    model, left = padded(text)
    assert widths(model) == widths(parse(text, 17))
    assert len(left) == 1
    assert left[0].startswith(reason)


def test_what_a_subgraph_reads_is_left_alone() -> None:
    text = """agraph (bool c, float[N, 8, 5, 5] x) => (float[N, 72, 5, 5] y)
    <float[72, 8, 1, 1] w, float[72, 1, 3, 3] d>
    {
        a = Conv (x, w)
        b = Conv <group = 72, pads = [1, 1, 1, 1]> (a, d)
        y = If (c) <then_branch = g1 () => (float[N, 72, 5, 5] t) { t = Relu (b) },
                    else_branch = g2 () => (float[N, 72, 5, 5] f) { f = Identity (b) }>
    }"""
    assert widths(padded(text)[0]) == [(72, 8), (72, 1)]
