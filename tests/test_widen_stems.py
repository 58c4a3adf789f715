"""widen-stems: int8 convolutions over few channels return the same bits from more of them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from case_pages import parse
from int8_checks import kernels, quantized
from onnxcomp.calibration.samples import open_samples
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.edits import add_constant, sweep
from onnxcomp.graph import array
from onnxcomp.int8.regions import find_regions
from onnxcomp.int8.switchboard import make_switchboard
from onnxcomp.registry import apply, find_pass
from onnxcomp.runtime import Session, input_specs
from onnxcomp.targets import TARGETS, detect

PASS = find_pass("widen-stems")
VNNI = {"target": TARGETS["x86-vnni"]}


def stem(
    channels: int = 3,
    side: str = "16, 16",
    kernel: tuple[int, int] = (3, 3),
    pads: tuple[int, int, int, int] = (1, 1, 1, 1),
    options: str = "strides = [2, 2]",
    outputs: int = 16,
) -> str:
    height, width = kernel
    return f"""agraph (float[N, {channels}, {side}] x) => (float[N, {outputs}, H, W] y)
    <float[{outputs}, {channels}, {height}, {width}] w, float[{outputs}] b>
    {{ c = Conv <pads = {list(pads)}, {options}> (x, w, b) y = Relu (c) }}"""


def widened(before: ir.Model) -> tuple[ir.Model, list[str]]:
    """Run the pass on an int8 model, and check that integer kernels return the same bits."""
    after = before.clone()
    outcome = apply(PASS, after, {}, VNNI)
    sweep(after)
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    for feeds in runnable_feeds(before, count=3):
        for optimize in (True, False):
            pair = [Session(each, optimize=optimize).run(feeds)["y"] for each in (before, after)]
            if optimize and detect() != "x86":  # which has no room for such products
                np.testing.assert_array_equal(pair[0], pair[1])
            np.testing.assert_allclose(pair[0], pair[1], atol=np.ptp(pair[0]) / 100)
    assert apply(PASS, after.clone(), {}, VNNI).sites == 0
    assert outcome.sites or ir.to_proto(after) == ir.to_proto(before)
    return after, [left.reason for left in outcome.left]


def int8(text: str) -> ir.Model:
    return quantized(text, target="x86-vnni", least=5.0)[0]


def weight_of(model: ir.Model) -> np.ndarray:
    conv = next(node for node in model.graph if node.op_type == "Conv")
    scales = conv.inputs[1].producer()  # type: ignore[union-attr]
    found = array(scales.inputs[0])  # type: ignore[union-attr]
    assert found is not None
    return found


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_stride_of_two_becomes_channels(channels: int) -> None:
    after, _ = widened(int8(stem(channels)))
    conv = next(node for node in after.graph if node.op_type == "Conv")
    assert weight_of(after).shape == (16, 4 * channels, 2, 2)
    assert conv.attributes.get_ints("strides") == (1, 1)
    assert conv.attributes.get_ints("pads") == (1, 1, 0, 0)
    assert kernels(after)["QLinearConv"] == 1


def test_the_stem_of_a_residual_net() -> None:
    after, _ = widened(int8(stem(3, "32, 32", (7, 7), (3, 3, 3, 3))))
    assert weight_of(after).shape == (16, 12, 4, 4)


@pytest.mark.parametrize(
    ("side", "options"),
    [("15, 16", "strides = [2, 2]"), ("H, W", "strides = [2, 2]"), ("16, 16", "strides = [1, 1]"),
     ("16, 16", "strides = [2, 1]"), ("16, 16", "strides = [2, 2], dilations = [2, 2]")],
)  # fmt: skip
def test_else_a_channel_of_zeros_is_added(side: str, options: str) -> None:
    after, _ = widened(int8(stem(3, side, options=options)))
    assert weight_of(after).shape == (16, 4, 3, 3)
    assert not weight_of(after)[:, 3].any()
    assert [node.op_type for node in after.graph if node.op_type == "Pad"] == ["Pad"]


@settings(max_examples=60, deadline=None)
@given(
    channels=st.integers(1, 3),
    sides=st.tuples(st.integers(8, 15), st.integers(8, 15)),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    pads=st.tuples(*[st.integers(0, 4)] * 4),
    strides=st.sampled_from([(1, 1), (2, 2), (2, 1), (3, 3)]),
)
def test_any_geometry(
    channels: int,
    sides: tuple[int, int],
    kernel: tuple[int, int],
    pads: tuple[int, int, int, int],
    strides: tuple[int, int],
) -> None:
    text = stem(channels, f"{sides[0]}, {sides[1]}", kernel, pads, f"strides = {list(strides)}")
    widened(int8(text))


def test_others_keep_what_they_read() -> None:
    text = """agraph (float[N, 3, 16, 16] x) => (float[N, 8, H, W] y) <float[8, 3, 3, 3] w>
    {
        c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w)
        r = Relu (c)
        a = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (x)
        d = Conv (a, w)
        z = Conv <strides = [2, 2]> (x, w)
        s = GlobalAveragePool (d)
        t = GlobalAveragePool (z)
        u = Add (r, s)
        y = Add (u, t)
    }"""
    after, _ = widened(int8(text))
    assert len([node for node in after.graph if node.op_type == "SpaceToDepth"]) == 2


def test_what_is_not_such_a_convolution_is_left_alone() -> None:
    four = int8(stem(4))
    assert weight_of(widened(four)[0]).shape == (16, 4, 3, 3)
    grouped = """agraph (float[N, 3, 16, 16] x) => (float[N, 3, H, W] y) <float[3, 1, 3, 3] w>
    { c = Conv <group = 3> (x, w) y = Relu (c) }"""
    widened(int8(grouped))
    floats = parse(stem(), 17)
    assert apply(PASS, floats, {}, VNNI).sites == 0


def test_weights_with_a_zero_point_are_left_alone() -> None:
    model = int8(stem())
    conv = next(node for node in model.graph if node.op_type == "Conv")
    scales = conv.inputs[1].producer()  # type: ignore[union-attr]
    zeros = add_constant(model.graph, np.full(16, 3, np.int8), "three")
    scales.replace_input_with(2, zeros)  # type: ignore[union-attr]
    assert apply(PASS, model, {}, VNNI).sites == 0


def test_what_an_int8_node_makes_is_left_alone() -> None:
    text = """agraph (float[N, 3, 16, 16] x) => (float[N, 8, H, W] y)
    <float[2, 3, 3, 3] v, float[8, 2, 3, 3] w>
    { c = Conv (x, v) r = Relu (c) m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
      d = Conv (m, w) y = Relu (d) }"""
    after, left = widened(int8(text))
    assert sorted(left) == [
        "2 outputs are too few for a fourth channel to pay",
        "an int8 node makes its 2 channels",
    ]
    assert not any(node.op_type == "Pad" for node in after.graph)


def test_what_a_float_node_makes_is_widened() -> None:
    text = """agraph (float[N, 16, 16, 3] x) => (float[N, 8, H, W] y) <float[8, 3, 3, 3] w>
    { t = Transpose <perm = [0, 3, 1, 2]> (x) c = Conv <strides = [2, 2]> (t, w) y = Relu (c) }"""
    assert weight_of(widened(int8(text))[0]).shape == (8, 12, 2, 2)


@pytest.mark.parametrize("target", ["x86", "arm64", "tensorrt", "portable"])
def test_other_targets_are_left_alone(target: str) -> None:
    model = int8(stem())
    assert apply(PASS, model, {}, {"target": TARGETS[target]}).sites == 0


def test_the_input_is_still_known_by_its_name() -> None:
    exact = parse(stem(), 17)
    after, _ = widened(int8(stem()))
    feeds = runnable_feeds(exact, count=2)
    board = make_switchboard(exact, after, open_samples(feeds, input_specs(exact)))
    assert ("x",) in [group.values for group in board.groups]
    assert board.noise([0]) > 0
    borders = {name for region in find_regions(after) for name in region.borders}
    assert any("SpaceToDepth" in name or ".wide" in name for name in borders)
