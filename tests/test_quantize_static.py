"""quantize-static: arithmetic, placement, and what ONNX Runtime's optimizer makes of the result."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from case_pages import parse
from hypothesis import given
from hypothesis import strategies as st

from onnxcomp.calibration.ranges import Range, Ranges
from onnxcomp.calibration.synthetic import random_feeds
from onnxcomp.errors import UsageError
from onnxcomp.graph import sweep
from onnxcomp.int8_coverage import optimized_graph
from onnxcomp.parity import compare_outputs
from onnxcomp.passes.quantize._numbers import (
    Grid,
    grid_of,
    least_scales,
    quantize_bias,
    quantize_to,
    quantize_weight,
)
from onnxcomp.registry import apply, find_pass
from onnxcomp.runtime import Session
from onnxcomp.targets import TARGETS

PASS = find_pass("quantize-static")
FLOATS = st.floats(-1e6, 1e6, width=32)

RESIDUAL = """agraph (float[N, 8, 12, 12] x) => (float[N, 4] y)
<float[8, 8, 3, 3] w1, float[8] b1, float[8, 8, 3, 3] w2, float[8] b2, float[8, 4] w3>
{
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r1 = Relu (c1)
    c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2, b2)
    [add] s = Add (c2, r1)
    r2 = Relu (s)
    m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r2)
    g = GlobalAveragePool (m)
    f = Flatten (g)
    y = Gemm (f, w3)
}"""
SQUEEZE_EXCITE = """agraph (float[N, 8, 12, 12] x) => (float[N, 8, 12, 12] y)
<float[8, 8, 1, 1] w1, float[4, 8, 1, 1] w2, float[4] b2, float[8, 4, 1, 1] w3, float[8] b3,
 float[8, 8, 1, 1] w4>
{
    c = Conv (x, w1)
    g = GlobalAveragePool (c)
    a = Conv (g, w2, b2)
    r = Relu (a)
    e = Conv (r, w3, b3)
    gate = Sigmoid (e)
    m = Mul (c, gate)
    y = Conv (m, w4)
}"""
SILU = """agraph (float[N, 8, 12, 12] x) => (float[N, 8, 12, 12] y)
<float[8, 8, 1, 1] w1, float[8, 1, 3, 3] w2>
{
    c = Conv (x, w1)
    gate = Sigmoid (c)
    m = Mul (c, gate)
    y = Conv <group = 8, pads = [1, 1, 1, 1]> (m, w2)
}"""
CONCAT = """agraph (float[N, 8, 12, 12] x) => (float[N, 8, 12, 12] y)
<float[8, 8, 1, 1] w1, float[8, 8, 1, 1] w2, float[8, 16, 1, 1] w3>
{
    a = Conv (x, w1)
    b = Conv (x, w2)
    r = Relu (b)
    p = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r)
    c = Concat <axis = 1> (a, p)
    y = Conv (c, w3)
}"""
ATTENTION = """agraph (float[N, 6, 16] x) => (float[N, 6, 16] y)
<float[16, 16] wq, float[16, 16] wk, float[16, 16] wv, float[16, 16] wo, float[16] bq,
 int64[4] heads = {0, 6, 4, 4}, int64[3] flat = {0, 6, 16}>
{
    q0 = MatMul (x, wq)
    q1 = Add (q0, bq)
    q2 = Reshape (q1, heads)
    q = Transpose <perm = [0, 2, 1, 3]> (q2)
    k0 = MatMul (x, wk)
    k1 = Reshape (k0, heads)
    k = Transpose <perm = [0, 2, 3, 1]> (k1)
    v0 = MatMul (x, wv)
    v1 = Reshape (v0, heads)
    v = Transpose <perm = [0, 2, 1, 3]> (v1)
    scores = MatMul (q, k)
    p = Softmax <axis = -1> (scores)
    o = MatMul (p, v)
    o1 = Transpose <perm = [0, 2, 1, 3]> (o)
    o2 = Reshape (o1, flat)
    y = MatMul (o2, wo)
}"""
CLIP = """agraph (float[N, 8, 12, 12] x) => (float[N, 8, 12, 12] y)
<float[8, 8, 3, 3] w1, float low = {0.0}, float high = {6.0}, float[8, 8, 1, 1] w2>
{
    c = Conv <pads = [1, 1, 1, 1]> (x, w1)
    r = Clip (c, low, high)
    y = Conv (r, w2)
}"""
PRE_ACTIVATION = """agraph (float[N, 8, 12, 12] x) => (float[N, 8, 12, 12] y)
<float[8, 8, 1, 1] w1, float[8, 8, 1, 1] w2, float[8, 8, 1, 1] w3>
{
    c = Conv (x, w1)
    r = Relu (c)
    d = Conv (r, w2)
    s = Add (c, d)
    y = Conv (s, w3)
}"""
FLOAT_KERNELS = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Add", "Mul"}
FLOAT_KERNELS |= {"Concat", "Relu", "Clip", "LeakyRelu", "Sigmoid", "AveragePool"}


def ranges_of(model: ir.Model, samples: list[dict[str, np.ndarray]]) -> Ranges:
    taps = [out.name for node in model.graph for out in node.outputs if out.name]
    session = Session(model, taps=taps)
    seen: dict[str, list[float]] = {}
    for feeds in samples:
        for name, data in {**feeds, **session.run(feeds)}.items():
            if data.dtype.kind == "f" and data.size:
                seen.setdefault(name, []).extend((float(data.min()), float(data.max())))
    values = {name: Range(min(ends), max(ends)) for name, ends in seen.items()}
    return Ranges(values, "minmax", len(samples), "test")


def quantized(
    text: str | ir.Model,
    *,
    opset: int = 17,
    target: str = "x86",
    least: float = 18.0,
    **options: object,
) -> tuple[ir.Model, list[str]]:
    """Quantize, check what every result promises, and return it with the reasons that it left."""
    before = parse(text, opset) if isinstance(text, str) else text
    samples = list(random_feeds(before, count=4, size=3))
    needs = {"ranges": ranges_of(before, samples), "target": TARGETS[target]}
    after = before.clone()
    outcome = apply(PASS, after, options, needs)
    sweep(after)
    if outcome.sites:
        onnx.checker.check_model(ir.to_proto(after), full_check=True)
    for optimize in (False, True):
        session = Session(after, optimize=optimize)
        for feeds in samples:
            parity = compare_outputs(Session(before).run(feeds), session.run(feeds))
            assert not [output.broken for output in parity.outputs.values() if output.broken]
            assert parity.sqnr_db > least, (optimize, parity)
    second = after.clone()
    assert apply(PASS, second, {}, needs).sites == 0
    assert outcome.sites or ir.to_proto(after) == ir.to_proto(before)
    return after, [f"{left.node}: {left.reason}" for left in outcome.left]


def kernels(model: ir.Model) -> Counter[str]:
    """Count the operators of the graph that ONNX Runtime really runs."""
    return Counter(node.op_type for node in optimized_graph(model))


def float_kernels(model: ir.Model) -> set[str]:
    return set(kernels(model)) & FLOAT_KERNELS


# ---------------------------------------------------------------- arithmetic
@given(FLOATS, FLOATS, st.lists(st.floats(0, 1), max_size=20))
def test_nothing_in_the_range_is_off_by_more_than_half_a_step(
    first: float, second: float, places: list[float]
) -> None:
    low, high = sorted((first, second))
    grid = grid_of(Range(low, high))
    assert np.isfinite(grid.scale)
    assert grid.scale > 0
    assert 0 <= grid.zero_point <= 255
    data = np.array([low, high, 0.0, *(low + place * (high - low) for place in places)])
    back = grid.scale * (quantize_to(grid, data).astype(np.float64) - grid.zero_point)
    if high - low > 1e-9:
        assert np.abs(back - data).max() <= grid.scale * 0.5 * (1 + 1e-4)
    assert back[2] == 0


def test_a_range_without_extent_has_a_finite_grid() -> None:
    assert grid_of(Range(0.0, 0.0)) == Grid(1.0, 0)
    assert grid_of(Range(5.0, 5.0)).span == pytest.approx(5.0)
    assert grid_of(Range(-5.0, -5.0)).zero_point == 255


@given(st.integers(0, 2**32 - 1), st.sampled_from([64, 127]), st.sampled_from([None, 0, 1]))
def test_weights_are_off_by_half_a_step_at_most(seed: int, largest: int, axis: int | None) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((4, 3)) * 10.0 ** rng.integers(-6, 3, (4, 1))).astype(np.float32)
    weight[0] = 0
    found = quantize_weight(weight, axis, largest)
    assert np.abs(found.data.astype(int)).max() <= largest
    scale = found.scale.reshape(() if axis is None else (-1, 1) if axis == 0 else (1, -1))
    assert np.all(np.abs(found.data * scale.astype(np.float64) - weight) <= scale * 0.5001)


def test_the_weight_scale_rises_where_the_bias_would_overflow() -> None:
    weight, bias = np.array([[1e-9], [1.0], [0.0]], np.float32), np.array([50.0, 1.0, 0.3])
    found = quantize_weight(weight, 0, 127, least_scales(bias, 0.001))
    steps, scale = quantize_bias(bias, 0.001, found.scale)
    np.testing.assert_allclose(steps * scale.astype(np.float64), bias, rtol=1e-3)
    assert found.scale[1] == pytest.approx(1 / 127)


# ---------------------------------------------------------------- fusion
@pytest.mark.parametrize(
    "text", [RESIDUAL, SQUEEZE_EXCITE, SILU, CONCAT, ATTENTION, CLIP, PRE_ACTIVATION]
)
@pytest.mark.parametrize("target", ["x86", "x86-vnni"])
def test_nothing_stays_float(text: str, target: str) -> None:
    model, left = quantized(text, target=target, least=14.0)
    assert not float_kernels(model), kernels(model)
    assert not left
