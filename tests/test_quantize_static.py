"""quantize-static: arithmetic, and what becomes of single operators and options."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from case_pages import parse
from int8_checks import PASS, float_kernels, kernels, quantized
from int8_zoo import CLIP, RESIDUAL, SHARED
from onnxcomp.calibration.ranges import Range, Ranges
from onnxcomp.errors import UsageError
from onnxcomp.graph import array, scalar
from onnxcomp.passes.quantize._numbers import (
    Grid,
    grid_of,
    least_scales,
    quantize_bias,
    quantize_to,
    quantize_weight,
    with_multiple,
    written_grid,
)
from onnxcomp.registry import apply
from onnxcomp.targets import TARGETS

FLOATS = st.floats(-1e6, 1e6, width=32)


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


@given(FLOATS, FLOATS, st.floats(0.01, 100), st.floats(-1, 1), st.lists(st.floats(0, 1)))
def test_bytes_written_on_one_grid_are_read_on_another(
    first: float, second: float, factor: float, place: float, places: list[float]
) -> None:
    low, high = min(first, second, 0.0), max(first, second, 1.0)
    shift = place * min(high, -low) if low else place * high
    read = with_multiple(grid_of(Range(low, high)), shift)
    written = written_grid(read, factor, shift)
    if written is None:
        assert not low <= shift + read.scale <= high
        return
    wanted = np.array([low + share * (high - low) for share in places])
    steps = quantize_to(written, (wanted - shift) / factor)
    back = read.scale * (steps.astype(np.float64) - read.zero_point)
    assert np.all(np.abs(back - wanted) <= read.scale * 1.01)  # the shift is rounded too


def test_a_shift_is_put_on_the_grid_from_two_steps_on() -> None:
    grid = with_multiple(Grid(0.1, 51), 2.55)
    assert grid.scale == pytest.approx(2.55 / 25)
    assert grid.zero_point == 50
    assert with_multiple(Grid(0.1, 0), 0.29).scale == pytest.approx(0.145)
    assert with_multiple(Grid(0.1, 0), 0.19) == Grid(0.1, 0)


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
def test_clip_becomes_the_saturation_of_the_grid() -> None:
    model, _ = quantized(CLIP.replace("6.0", "0.7"))
    assert not any(node.op_type == "Clip" for node in model.graph)
    assert scalar(model.graph.initializers["r.scale"]) == pytest.approx(0.7 / 255)
    assert scalar(model.graph.initializers["r.zero"]) == 0


def test_a_clip_that_leaves_zero_out_stays() -> None:
    model, _ = quantized(CLIP.replace("{0.0}", "{0.5}"))
    assert any(node.op_type == "Clip" for node in model.graph)


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
    model, _ = quantized(SHARED, least=14)
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


@pytest.mark.parametrize("opset", range(9, 26))
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


def test_dead_channels_and_constant_values() -> None:
    text = """agraph (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y)
    <float[8, 8, 1, 1] w, float[8] b, float[8, 8, 1, 1] v, float zero = {0.0}>
    { z = Mul (x, zero)  c = Conv (z, w, b)  y = Conv (c, v) }"""
    model, _ = quantized(text)
    assert not float_kernels(model) - {"Mul"}
