"""The forms of int8 models for each target."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

import onnxcomp
from case_pages import parse
from int8_checks import quantized
from int8_zoo import ATTENTION, CLIP, GEMM, HARD_SWISH, RESIDUAL, ZOO
from onnxcomp.errors import ModelError
from onnxcomp.graph import array
from onnxcomp.passes.quantize._numbers import quantize_weight
from onnxcomp.passes.quantize._saturation import safe_scales
from onnxcomp.pipeline import run_once
from onnxcomp.recipe import Step
from onnxcomp.targets import TARGETS

SEEDS = st.integers(0, 2**32 - 1)


# ---------------------------------------------------------------- saturation without VNNI
def worst_pair(rows: np.ndarray, *, ordered: bool) -> int:
    """Return the farthest that vpmaddubsw would reach: pairs of weights by activations of 255.

    An activation of zero takes a weight out of its pair.
    """
    rows = rows.astype(np.int64)
    pairs = [(rows[:, i], rows[:, i + 1]) for i in range(rows.shape[1] - 1)]
    if not ordered:
        pairs = [
            (rows[:, i], rows[:, j])
            for i in range(rows.shape[1])
            for j in range(i + 1, rows.shape[1])
        ]
    sums = [255 * np.maximum.reduce([abs(a), abs(b), abs(a + b)]) for a, b in pairs]
    return int(max(map(np.max, sums), default=0))


def node_of(kind: str, weight: np.ndarray) -> ir.Node:
    held = ir.Value(name="w", const_value=ir.tensor(weight))
    attributes = [ir.AttrInt64("transB", 1)] if kind == "Gemm" else []
    return ir.Node("", kind, [ir.Value(name="x"), held], attributes)


@given(SEEDS, st.sampled_from(["Conv", "1x1", "Gemm", "MatMul"]), st.booleans())
def test_no_channel_overflows_and_only_those_that_would_are_narrowed(
    seed: int, kind: str, per_channel: bool
) -> None:
    rng = np.random.default_rng(seed)
    channels, depth = rng.integers(1, 5), rng.integers(1, 10)
    rows = rng.standard_t(2, (channels, depth)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.3] = 0
    shape = (channels, 1, depth) if kind == "Conv" else (channels, depth, 1)
    weight = {"Gemm": rows, "MatMul": rows.T}.get(kind, rows.reshape(shape))
    node = node_of("Conv" if kind == "1x1" else kind, weight)
    axis = (1 if kind == "MatMul" else 0) if per_channel else None
    ordered = kind != "Conv" or depth == 1

    def quantize(least: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        found = quantize_weight(weight, axis, 127, least)
        data = found.data.T if kind == "MatMul" else found.data.reshape(rows.shape)
        return data, np.broadcast_to(found.scale, (int(channels),))

    plain, plain_scale = quantize(0.0)
    safe, scale = quantize(safe_scales(node, weight, axis))
    assert worst_pair(safe, ordered=ordered) <= 32767
    for channel in range(channels):
        if per_channel and worst_pair(plain[[channel]], ordered=ordered) <= 32000:
            exact, found = plain[channel] * plain_scale[channel], safe[channel] * scale[channel]
            np.testing.assert_allclose(found, exact, rtol=1e-3)
        assert scale[channel] <= plain_scale[channel] * 127 / 63.9


def test_opposite_signs_cannot_overflow() -> None:
    weight = np.array([[1.0, -0.99, 1.0, -1.0], [1.0, 0.99, 0.0, 0.0]], np.float32)
    scales = safe_scales(node_of("Gemm", weight), weight, 0)
    data = quantize_weight(weight, 0, 127, scales).data
    assert data.tolist() == [[127, -126, 127, -127], [64, 64, 0, 0]]


def test_a_lone_large_weight_keeps_its_bits() -> None:
    weight = np.array([[1.0, 0.004, 0.003]], np.float32).reshape(1, 1, 3)
    data = quantize_weight(weight, 0, 127, safe_scales(node_of("Conv", weight), weight, 0)).data
    assert data.ravel().tolist() == [127, 1, 0]


@pytest.mark.parametrize("axis", [0, None])
def test_rows_that_were_rounded_to_seven_bits_keep_their_steps(axis: int | None) -> None:
    rng = np.random.default_rng(0)
    steps = rng.integers(-64, 65, (3, 9))
    steps[:, 0] = 64
    weight = (steps * np.float32(0.0123)).astype(np.float32)
    scales = safe_scales(node_of("Gemm", weight), weight, axis)
    np.testing.assert_array_equal(quantize_weight(weight, axis, 127, scales).data, steps)


def test_only_targets_that_saturate_are_narrowed() -> None:
    for name, target in TARGETS.items():
        if target.explicit:
            continue
        model, _ = quantized(CLIP, target=name)
        data = array(model.graph.initializers["w1.q"])
        assert data is not None
        assert (np.abs(data.astype(int)).max() < 127) == target.saturates


# ---------------------------------------------------------------- arm64
@pytest.mark.parametrize("text", [RESIDUAL, ATTENTION, HARD_SWISH, ZOO["concat"].text])
def test_arm_has_signed_activations(text: str) -> None:
    signed, left = quantized(text, target="arm64", least=14)
    plain, _ = quantized(text, target="portable", least=14)
    assert not left
    assert byte_types(signed) == {TensorProto.INT8}
    assert byte_types(plain) == {TensorProto.UINT8}
    assert [node.op_type for node in signed.graph] == [node.op_type for node in plain.graph]


def byte_types(model: ir.Model) -> set[int]:
    quantizers = [node for node in model.graph if node.op_type == "QuantizeLinear"]
    zeros = [array(node.inputs[2]) for node in quantizers]
    return {onnx.helper.np_dtype_to_tensor_dtype(zero.dtype) for zero in zeros if zero is not None}


def makers_of(node: ir.Node) -> list[str]:
    """Return the operators that make the inputs of a node."""
    makers = [value.producer() for value in node.inputs if value is not None]
    return [maker.op_type for maker in makers if maker is not None]


def test_padding_of_signed_bytes() -> None:
    text = """agraph (float[N, 8, 6, 6] x) => (float[N, 8, H, W] y)
    <float[8, 8, 1, 1] w, int64[8] pads = {0, 0, 1, 1, 0, 0, 0, 1}>
    { c = Conv (x, w)  d = Pad (c, pads)  y = Conv (d, w) }"""
    assert byte_types(quantized(text, target="arm64")[0]) == {TensorProto.INT8}


# ---------------------------------------------------------------- TensorRT
def test_tensorrt_reads_symmetric_values_and_quantizes_weights_itself() -> None:
    model, left = quantized(RESIDUAL, target="tensorrt", least=14)
    assert not left
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = array(node.inputs[2])
            assert zero is not None
            assert zero.dtype == np.int8
            assert not zero.any()
    for name in ("w1", "w2", "w3"):
        weight = model.graph.initializers[name]
        (quantize,) = weight.consumers()
        (dequantize,) = quantize.outputs[0].consumers()
        (reader,) = dequantize.outputs[0].consumers()
        assert reader.inputs[1] is dequantize.outputs[0]
        axis = 1 if reader.op_type == "Gemm" else 0
        assert quantize.attributes.get_int("axis", 9) == axis
        assert quantize.inputs[1].shape == [weight.shape[axis]]  # type: ignore[index, union-attr]
        bias = reader.inputs[2]
        assert bias is not None
        assert bias.name in ("b1", "b2", "b3")


def test_tensorrt_adds_an_int8_residual_to_a_float_convolution() -> None:
    model, _ = quantized(RESIDUAL, target="tensorrt", least=14)
    (add,) = (node for node in model.graph if node.op_type == "Add")
    assert sorted(makers_of(add)) == ["Conv", "DequantizeLinear"]
    kept = [node.op_type for node in model.graph if node.op_type in ("Relu", "MaxPool")]
    assert kept == ["Relu", "Relu", "MaxPool"]
    behind = {reader.op_type for node in model.graph if node.op_type in ("Conv", "Gemm")
              for reader in node.outputs[0].consumers()}  # fmt: skip
    assert behind == {"Relu", "Add"}


def test_tensorrt_and_products_of_two_activations() -> None:
    model, left = quantized(ATTENTION, target="tensorrt", least=14)
    assert not left
    for node in model.graph:
        if node.op_type == "MatMul":
            assert set(makers_of(node)) == {"DequantizeLinear"}


def test_tensorrt_keeps_what_a_gemm_multiplies() -> None:
    model, _ = quantized(GEMM, target="tensorrt")
    gemms = [node for node in model.graph if node.op_type == "Gemm"]
    assert [node.attributes.get_float("alpha", 1.0) for node in gemms] == [0.5, 3.0]


@pytest.mark.parametrize("opset", [9, 11, 13, 19, 25])
def test_tensorrt_at_every_operator_set(opset: int) -> None:
    model, _ = quantized(CLIP if opset > 10 else CLIP.replace("Clip (c, low, high)", "Relu (c)"),
                         opset=opset, target="tensorrt")  # fmt: skip
    assert model.opset_imports[""] == max(opset, 13)
    assert parse(CLIP, 17).graph.outputs[0].name == model.graph.outputs[0].name


# ---------------------------------------------------------------- verified on this machine
@pytest.mark.parametrize("target", ["arm64", "tensorrt"])
def test_signed_activations_are_verified_as_they_run_on_their_target(target: str) -> None:
    """ONNX Runtime makes a Gemm of this, and on x86 uint8 of int8: then it does not load."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[2, 8, 16] x) => (float[2, 8, 32] y)'
        " { a = MatMul (x, w)  y = Add (a, b) }"
    )
    rng = np.random.default_rng(0)
    for name, shape in (("w", (16, 32)), ("b", (32,))):
        data = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(data, name))
    samples = [{"x": rng.standard_normal((2, 8, 16)).astype(np.float32)} for _ in range(8)]
    report = onnxcomp.optimize(model, int8=True, calib=samples, target=target).report
    assert [item.scheme.name for item in report.candidates if item.chosen] == ["static"]
    assert report.int8 is not None
    assert report.int8.macs_share == (1.0 if target == "arm64" else 0.0)


def test_what_onnx_runtime_refuses_of_a_try_is_left_out() -> None:
    def refuse(_: ir.Model) -> list[str]:
        raise ModelError("ONNX Runtime cannot load the model: no kernel")

    model = parse("agraph (float[2] x) => (float[2] y) { a = Identity (x)  y = Relu (a) }", 17)
    kept, report = run_once(model, Step("eliminate-identity"), {}, refuse)
    assert kept is model
    assert (report.status, report.sites) == ("rolled-back", 0)
    assert report.reason == "ONNX Runtime cannot load the model: no kernel"
