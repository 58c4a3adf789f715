"""Weights as int8 and biases as int32, each with a DequantizeLinear."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.graph import Array, array, is_op, label
from onnxcomp.passes.quantize._editor import (
    Editor,
    add_dequantize,
    grid_constants,
    new_constant,
    new_node,
    replace_input,
    shared,
)
from onnxcomp.passes.quantize._eligibility import activations, gemm_bias, is_weight
from onnxcomp.passes.quantize._numbers import (
    WEIGHT_MAX,
    IntWeight,
    least_scales,
    quantize_bias,
    quantize_to,
    quantize_weight,
)
from onnxcomp.passes.quantize._saturation import safe_scales
from onnxcomp.passes.quantize._tails import Tail


def quantize_parameters(editor: Editor, node: ir.Node) -> None:
    for value in activations(node):
        if array(value) is not None:
            _quantize_operand(editor, node, value)
    if is_op(node, "Conv", "Gemm") or (is_op(node, "MatMul") and is_weight(node.inputs[1])):
        quantize = _pair_weight if editor.target.explicit else _quantize_weight
        quantize(editor, node)


def _quantize_operand(editor: Editor, node: ir.Node, value: ir.Value) -> None:
    """Store a constant operand of Add, Mul, Concat or MatMul as bytes."""
    data, grid = array(value), editor.plan.grids[value]
    assert data is not None
    steps = editor.as_bytes(quantize_to(grid, data))
    stored = shared(editor, ("operand", value), steps, f"{value.name}.q")
    scale, zero = grid_constants(editor, grid, value.name or "value")
    replace_input(editor, node, value, [stored, scale, zero], None)


def _quantize_weight(editor: Editor, node: ir.Node) -> None:
    """Store a weight as int8 and the bias, if any, as int32 on the grid of the products."""
    source, holder = node.inputs[0], node.inputs[1]
    assert source is not None
    assert holder is not None
    data, bias, axis = _parameters(node, editor.plan.tails.get(node))
    grid = editor.plan.grids[source]
    channels = axis if editor.per_channel else None
    least = least_scales(bias, grid.scale)
    if editor.target.saturates:
        least = np.maximum(least, safe_scales(node, data, channels))
    weight = quantize_weight(data, channels, WEIGHT_MAX, least)
    stem = holder.name or f"{label(node)}.weight"
    replace_input(editor, node, holder, _weight_constants(editor, weight, stem), weight.axis)
    if bias is not None:
        _store_bias(editor, node, bias, grid.scale, weight)


def _pair_weight(editor: Editor, node: ir.Node) -> None:
    """Put QuantizeLinear and DequantizeLinear behind a weight that stays float."""
    holder = node.inputs[1]
    assert holder is not None
    axis = _channel_axis(node)
    data = array(holder)
    assert data is not None
    weight = quantize_weight(data, axis if editor.per_channel else None, WEIGHT_MAX)
    stem = holder.name or f"{label(node)}.weight"
    grid = _weight_constants(editor, weight, stem)[1:]
    key = ("pair", holder, weight.axis)
    if key not in editor.weights:
        made = new_node(
            editor, "QuantizeLinear", [holder, *grid], f"{stem}.q", ir.DataType.INT8, weight.axis
        )
        made.outputs[0].shape = holder.shape
        editor.graph.insert_before(node, made)
        editor.weights[key] = made.outputs[0]
    replace_input(editor, node, holder, [editor.weights[key], *grid], weight.axis)


def _channel_axis(node: ir.Node) -> int:
    """Return the axis of a weight along which the channels of the output run."""
    if is_op(node, "Conv"):
        return 0
    return 0 if node.attributes.get_int("transB", 0) else 1


def _store_bias(
    editor: Editor, node: ir.Node, bias: Array, input_scale: float, weight: IntWeight
) -> None:
    given = node.inputs[2] if len(node.inputs) > 2 else None
    stem = (given.name if given is not None else None) or f"{label(node)}.bias"
    steps, scale = quantize_bias(bias, input_scale, weight.scale)
    if weight.axis is None:
        scale = np.asarray(scale.reshape(-1)[0])
    zero = np.zeros(scale.shape, dtype=np.int32)
    inputs = [
        new_constant(editor, steps, f"{stem}.q"),
        shared(editor, ("scale", scale.shape, scale.tobytes()), scale, f"{stem}.scale"),
        shared(editor, ("zero32", scale.shape), zero, f"{stem}.zero"),
    ]
    dequantize = add_dequantize(editor, node, inputs, stem, None if weight.axis is None else 0)
    node.resize_inputs(3)
    node.replace_input_with(2, dequantize.outputs[0])


def _parameters(node: ir.Node, tail: Tail | None) -> tuple[Array, Array | None, int]:
    """Return weight, bias and channel axis of a node, whose alpha and beta become 1.

    What a tail multiplies and adds goes into them.
    """
    data = array(node.inputs[1])
    assert data is not None
    given = len(node.inputs) > 2 and node.inputs[2] is not None
    axis = _channel_axis(node)
    bias = array(node.inputs[2]) if given else None
    if is_op(node, "Gemm"):
        bias = gemm_bias(node) if given else None
        data = data * np.float32(node.attributes.get_float("alpha", 1.0))
        for name in ("alpha", "beta"):
            node.attributes.pop(name, None)
    if tail is None or not tail.linear:
        return data, bias, axis
    bias = np.zeros(data.shape[axis]) if bias is None else bias
    return (
        data * np.float32(tail.factor),
        (bias * tail.factor + tail.shift).astype(np.float32),
        axis,
    )


def _weight_constants(editor: Editor, weight: IntWeight, stem: str) -> list[ir.Value]:
    scales = weight.scale.tobytes()
    zero = np.zeros(weight.scale.shape, dtype=np.int8)
    key = ("weight", stem, weight.data.shape, weight.data.tobytes())
    return [
        shared(editor, key, weight.data, f"{stem}.q"),
        shared(editor, ("scale", weight.scale.shape, scales), weight.scale, f"{stem}.scale"),
        shared(editor, ("zero8", weight.scale.shape), zero, f"{stem}.zero"),
    ]
