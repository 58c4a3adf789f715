"""quantize-static: arithmetic, placement, and what ONNX Runtime's optimizer makes of the result."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from case_pages import parse
from onnxcomp.calibration.ranges import Range, Ranges
from onnxcomp.calibration.synthetic import runnable_feeds
from onnxcomp.edits import sweep
from onnxcomp.errors import UsageError
from onnxcomp.graph import array, scalar
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
from onnxcomp.targets import TARGETS, detect

PASS = find_pass("quantize-static")
FLOATS = st.floats(-1e6, 1e6, width=32)

RESIDUAL = """agraph (float[N, 8, 12, 12] x) => (float[N, 4] y)
<float[8, 8, 3, 3] w1, float[8] b1, float[8, 8, 3, 3] w2, float[8] b2, float[8, 4] w3, float[4] b3>
{
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r1 = Relu (c1)
    c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2, b2)
    [add] s = Add (c2, r1)
    r2 = Relu (s)
    m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r2)
    g = GlobalAveragePool (m)
    f = Flatten (g)
    y = Gemm (f, w3, b3)
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
    samples = runnable_feeds(before, count=4)
    needs = {"ranges": ranges_of(before, samples), "target": TARGETS[target]}
    after = before.clone()
    outcome = apply(PASS, after, options, needs)
    sweep(after)
    if outcome.sites:
        onnx.checker.check_model(ir.to_proto(after), full_check=True)
    saturates = target == "x86-vnni" and detect() == "x86"
    for optimize in (False,) if saturates else (False, True):
        session = Session(after, optimize=optimize)
        for feeds in samples:
            parity = compare_outputs(Session(before).run(feeds), session.run(feeds))
            assert not [output.broken for output in parity.outputs.values() if output.broken]
            assert parity.sqnr_db > least, (optimize, parity)
    second = after.clone()
    assert apply(PASS, second, options, needs).sites == 0
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


def test_clip_becomes_the_saturation_of_the_grid() -> None:
    model, _ = quantized(CLIP.replace("6.0", "0.7"))
    assert not any(node.op_type == "Clip" for node in model.graph)
    assert scalar(model.graph.initializers["r.scale"]) == pytest.approx(0.7 / 255)
    assert scalar(model.graph.initializers["r.zero"]) == 0


def test_a_clip_that_leaves_zero_out_stays() -> None:
    model, _ = quantized(CLIP.replace("{0.0}", "{0.5}"))
    assert any(node.op_type == "Clip" for node in model.graph)


def test_gemm_alpha_and_beta_go_into_the_constants() -> None:
    text = """agraph (float[N, 8] x) => (float[N, 3] y)
    <float[6, 8] w1, float[1, 6] b1, float[6, 3] w2, float one = {2.0}>
    {
        a = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (x, w1, b1)
        r = Relu (a)
        y = Gemm <alpha = 3.0, beta = 0.25> (r, w2, one)
    }"""
    model, left = quantized(text, least=22)
    assert kernels(model) == {"QuantizeLinear": 1, "QGemm": 2}
    assert not left


def test_gemm_that_is_no_affine_map_of_rows_stays_float() -> None:
    text = """agraph (float[8, 8] x) => (float[8, 8] y)
    <float[8, 8] w, float[8, 1] b> { y = Gemm <transA = 1> (x, w, b) }"""
    assert quantized(text)[1] == ["Gemm -> y: its input is transposed (transA)"]
    text = text.replace("<transA = 1>", "")
    assert quantized(text)[1] == ["Gemm -> y: its bias differs between rows"]


def test_a_final_product_returns_floats() -> None:
    text = """agraph (float[N, 5, 8] x) => (float[N, 5, 6] y)
    <float[8, 6] w, float[6] b> { m = MatMul (x, w)  a = Add (m, b)  y = Softmax (a) }"""
    found = kernels(quantized(text, least=22)[0])
    assert found == {"QuantizeLinear": 1, "MatMulIntegerToFloat": 1, "Add": 1, "Softmax": 1}


def test_a_product_with_bias_of_two_dims_is_not_made_a_float_gemm() -> None:
    text = """agraph (float[N, 8] x) => (float[N, 6] y)
    <float[8, 6] w, float[6] b> { m = MatMul (x, w)  y = Add (m, b) }"""
    assert "MatMulIntegerToFloat" in kernels(quantized(text)[0])


def test_shared_weights_are_stored_once_and_shared_biases_per_scale() -> None:
    text = """agraph (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y, float[N, 8, 6, 6] z)
    <float[8, 8, 3, 3] w, float[8] b>
    {
        a = Conv <pads = [1, 1, 1, 1]> (x, w, b)
        y = Conv <pads = [1, 1, 1, 1]> (a, w, b)
        z = Conv <pads = [1, 1, 1, 1]> (a, w, b)
    }"""
    model, _ = quantized(text, least=14)
    assert not float_kernels(model)
    data = [found for v in model.graph.initializers.values() if (found := array(v)) is not None]
    assert [item.ndim for item in data if item.dtype == np.int8 and item.any()] == [4]
    assert len([item for item in data if item.dtype == np.int32 and item.any()]) == 3
    assert {"w", "b"}.isdisjoint(model.graph.initializers)


def test_bias_far_beyond_its_weights() -> None:
    before = parse(
        CLIP.replace("(x, w1)", "(x, w1, b)").replace("<float[8", "<float[8] b, float[8", 1), 17
    )
    weight = before.graph.initializers["w1"]
    data = np.array(array(weight))
    data[0], data[1] = data[0] * 1e-12, 0
    weight.const_value = ir.tensor(data, name="w1")
    model, _ = quantized(before)
    assert not float_kernels(model)


def test_what_is_not_read_in_int8_drops_out() -> None:
    text = """agraph (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y)
    <float[8, 8, 1, 1] w>
    { a = Mul (x, x)  c = Conv (a, w)  d = Add (c, x)  s = Sigmoid (d)  y = Sub (s, x) }"""
    found = kernels(quantized(text)[0])
    assert found["QLinearConv"] == found["Mul"] == found["Add"] == found["Sigmoid"] == 1


def test_shape_arithmetic_stays_as_it_is() -> None:
    text = """agraph (float[N, 8, 6, 6] x) => (float[N, M] y)
    <float[8, 8, 1, 1] w, int64[1] rest = {-1}, float[288, 4] v, int64[1] one = {1}>
    {
        c = Conv (x, w)
        s = Shape <start = 0, end = 1> (c)
        s1 = Mul (s, one)
        t = Concat <axis = 0> (s1, rest)
        f = Reshape (c, t)
        y = MatMul (f, v)
    }"""
    model, _ = quantized(text)
    assert kernels(model)["MatMulIntegerToFloat"] == 1
    assert not float_kernels(model) - {"Mul", "Concat"}


@pytest.mark.parametrize(
    ("body", "consts"),
    [
        (
            "d = Slice (c, zero, four, two)",
            ", int64[1] zero = {0}, int64[1] four = {4}, int64[1] two = {2}",
        ),
        ("e, f = Split <axis = 1> (c, halves) d = Add (e, f)", ", int64[2] halves = {4, 4}"),
        ('d = Resize <mode = "nearest"> (c, , scales)', ", float[4] scales = {1, 1, 2, 2}"),
        ("d = Pad (c, pads)", ", int64[8] pads = {0, 0, 1, 1, 0, 0, 0, 1}"),
        ('d = Pad <mode = "reflect"> (c, pads)', ", int64[8] pads = {0, 0, 1, 1, 0, 0, 0, 1}"),
        ("d = Gather <axis = 1> (c, some)", ", int64[3] some = {5, 0, 3}"),
        ("d = Add (c, k)", ", float[8, 1, 1] k"),
        ("d = Mul (k, c)", ", float k = {0.5}"),
        ("d = Mul (c, c)", ""),
        ("d = LeakyRelu <alpha = 0.1> (c)", ""),
        ("d = Concat <axis = 1> (c, c)", ""),
        ("d = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (c)", ""),
        ("d = Transpose <perm = [0, 1, 3, 2]> (c)", ""),
        ("d = Tile (c, twice)", ", int64[4] twice = {1, 1, 2, 1}"),
    ],
)
def test_between_two_convolutions_it_stays_int8(body: str, consts: str) -> None:
    channels = {"Split": 4, "Gather": 3, "Concat": 16}.get(body.split("= ", 1)[1].split()[0], 8)
    text = f"""agraph (float[N, 8, 6, 6] x) => (float[N, 8, H, W] y)
    <float[8, 8, 1, 1] w, float[8, {channels}, 1, 1] v{consts}>
    {{ c = Conv (x, w)  {body}  y = Conv (d, v) }}"""
    model, left = quantized(text, least=15)
    found = kernels(model)
    assert found["QLinearConv"] == 2
    assert found["DequantizeLinear"] == 1
    assert not left


@pytest.mark.parametrize("dims", ["9", "9, 9", "5, 5, 5"])
@pytest.mark.parametrize("group", [1, 8])
def test_convolutions_of_every_rank_and_grouping(dims: str, group: int) -> None:
    kernel = ", ".join("3" for _ in dims.split(","))
    text = f"""agraph (float[N, 8, {dims}] x) => (float[N, 8, {dims}] y)
    <float[8, {8 // group}, {kernel}] w, float[8] b>
    {{
        c = Conv <group = {group}, auto_pad = "SAME_UPPER"> (x, w, b)
        y = Conv <group = {group}, auto_pad = "SAME_UPPER"> (c, w, b)
    }}"""
    assert kernels(quantized(text, least=14)[0])["QLinearConv"] == 2


def test_a_depthwise_convolution_between_float_ops_stays_float() -> None:
    text = """agraph (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y)
    <float[8, 8, 1, 1] w, float[8, 1, 3, 3] d>
    {
        a = Conv (x, w)
        b = Softplus (a)
        c = Conv <group = 8, pads = [1, 1, 1, 1]> (b, d)
        e = Softplus (c)
        y = Conv (e, w)
    }"""
    model, left = quantized(text)
    assert left == ["Conv -> c: a depthwise convolution between float ops is slower in int8"]
    found = kernels(model)
    assert found["QLinearConv"] == 2
    assert found["QuantizeLinear"] == found["DequantizeLinear"] == 2


def test_an_output_that_is_read_too_keeps_its_name_and_value() -> None:
    text = """agraph (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] mid, float[N, 8, 6, 6] y)
    <float[8, 8, 1, 1] w>
    { c = Conv (x, w)  mid = Relu (c)  d = Conv (mid, w)  y = Add (d, mid) }"""
    model, _ = quantized(text)
    assert [value.name for value in model.graph.outputs] == ["mid", "y"]
    assert kernels(model)["QLinearConv"] == 2


@pytest.mark.parametrize("opset", range(9, 25))
def test_every_operator_set(opset: int) -> None:
    text = RESIDUAL
    if opset < 13:
        text = text.replace("f = Flatten (g)", "f = Squeeze <axes = [2, 3]> (g)")
    model, left = quantized(text, opset=opset, least=14)
    assert model.opset_imports[""] == max(opset, 13)
    assert not left
    assert not float_kernels(model)


def test_one_scale_per_tensor_where_the_model_cannot_be_raised() -> None:
    text = """agraph (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y)
    <float[8, 8, 1, 1] w, float[4] s = {1, 1, 2, 2}, float[16] roi>
    {
        c = Conv (x, w)
        d = Resize <coordinate_transformation_mode = "tf_half_pixel_for_nn"> (c, roi, s)
        y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (d)
    }"""
    model, _ = quantized(text, opset=11)
    assert model.opset_imports[""] == 11
    assert kernels(model)["QLinearConv"] == 1


# ---------------------------------------------------------------- exclude and leave
def test_excluded_nodes_really_stay_float() -> None:
    model, _ = quantized(RESIDUAL, exclude="add")
    assert kernels(model)["Add"] == 1
    assert kernels(model)["QLinearConv"] == 2


def test_an_excluded_convolution_keeps_its_float_weights() -> None:
    text = """agraph (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y)
    <float[8, 8, 1, 1] w>
    { c = Conv (x, w)  [mid] d = Conv (c, w)  e = Relu (d)  y = Conv (e, w) }"""
    model, left = quantized(text, exclude="m?d, nothing*,Conv -> c".replace(" nothing*,", ""))
    assert left == ["Conv -> c: excluded", "mid: excluded"]
    model, left = quantized(text, exclude="mid")
    found = kernels(model)
    assert found["QLinearConv"] == 2
    assert found["Conv"] + found["FusedConv"] == 1
    assert "w" in model.graph.initializers


def test_a_glob_without_a_match_is_an_error() -> None:
    with pytest.raises(UsageError, match="matches no node"):
        quantized(RESIDUAL, exclude="add,nope")


def test_mixed_ranges_are_not_joined() -> None:
    text = """agraph (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y)
    <float[8, 8, 1, 1] w, float[8, 8, 1, 1] v, float[8, 16, 1, 1] u, float k = {100.0}>
    {
        a = Conv (x, w)
        b0 = Conv (x, v)
        b = Mul (b0, k)
        c = Concat <axis = 1> (a, b)
        y = Conv (c, u)
    }"""
    model, left = quantized(text)
    assert len(left) == 1
    assert "one grid would blur them" in left[0]
    assert kernels(model)["Concat"] == 1
    assert kernels(model)["QLinearConv"] == 3


def test_reasons() -> None:
    text = """agraph (float[N, 8, 6, 6] x, float[8, 8, 1, 1] w) => (float[N, 8, 6, 6] y)
    { y = Conv (x, w) }"""
    assert quantized(text)[1] == ["Conv -> y: its weight is not constant"]
    text = (
        """agraph (float16[N, 8] x) => (float16[N, 8] y) <float16[8, 8] w> { y = MatMul (x, w) }"""
    )
    assert quantized(text)[1] == ["MatMul -> y: its weights are float16, not float32"]
    text = """agraph (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y)
    <float[8, 8, 1, 1] w> { y = ConvTranspose (x, w) }"""
    assert quantized(text)[1] == [
        "ConvTranspose -> y: ONNX Runtime has no int8 kernel for ConvTranspose"
    ]


def test_without_a_range_a_node_stays_float() -> None:
    model = parse(CLIP, 17)
    needs = {"ranges": Ranges({"x": Range(-1, 1)}, "minmax", 1, ""), "target": TARGETS["x86"]}
    left = apply(PASS, model, {}, needs).left
    assert [item.reason for item in left] == [
        "no range for its output c",
        "no range for its input r",
    ]


def test_subgraphs_stay_float() -> None:
    text = """agraph (bool c, float[N, 8] x) => (float[N, 8] y)
    <float[8, 8] w> {
        y = If (c) <then_branch = g1 () => (float[N, 8] a) { a = MatMul (x, w) },
                    else_branch = g2 () => (float[N, 8] b) { b = Identity (x) }>
    }"""
    assert quantized(text)[1] == ["MatMul -> a: in a subgraph"]


def test_dead_channels_and_constant_values() -> None:
    text = """agraph (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y)
    <float[8, 8, 1, 1] w, float[8] b, float[8, 8, 1, 1] v, float zero = {0.0}>
    { z = Mul (x, zero)  c = Conv (z, w, b)  y = Conv (c, v) }"""
    model, _ = quantized(text)
    assert not float_kernels(model) - {"Mul"}


def test_gelu_stays_float_and_is_fused() -> None:
    text = """agraph (float[N, 6, 16] x) => (float[N, 6, 16] y)
    <float[16, 16] w, float[16] b, float[16, 16] v, float r = {1.4142135}, float i = {1.0},
     float h = {0.5}>
    {
        m = MatMul (x, w)
        a = Add (m, b)
        d = Div (a, r)
        e = Erf (d)
        p = Add (e, i)
        q = Mul (a, p)
        g = Mul (q, h)
        y = MatMul (g, v)
    }"""
    found = kernels(quantized(text)[0])
    assert found["MatMulIntegerToFloat"] == 2
    assert found["Erf"] == found["QLinearMul"] == 0
