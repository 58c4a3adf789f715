"""The rewrite of products to integers, in the forms that ONNX Runtime fuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, attributes_except, replace
from onnxcomp.graph import Array, array, is_op, label
from onnxcomp.passes.quantize._eligibility import gemm_bias
from onnxcomp.passes.quantize._naming import fresh_name
from onnxcomp.passes.quantize._numbers import TINY, quantize_weight

FLOAT, INT32 = ir.DataType.FLOAT, ir.DataType.INT32
Weight = tuple[ir.Value, ir.Value]  # int8 numbers and their scales


@dataclass
class DynamicEditor:
    """What was added so far: equal activations and weights are quantized once."""

    largest: int
    names: set[str]
    activations: dict[tuple[ir.Graph, ir.Value], ir.Node] = field(default_factory=dict)
    weights: dict[tuple[object, ...], Weight] = field(default_factory=dict)


# ---------------------------------------------------------------- MatMul and Gemm
def to_int8_product(editor: DynamicEditor, node: ir.Node) -> None:
    """Turn x W (+ b) to Mul(Cast(MatMulInteger(x_q, W_q)), s_x * s_w) (+ b).

    ONNX Runtime looks for s_x as the first factor of the scales.
    """
    steps, scale, zero = _quantized(editor, node).outputs
    weight, factors = _matrix(editor, node)
    name = label(node)
    product = _node(editor, "MatMulInteger", [steps, weight, zero], f"{name}.int32", INT32)
    product.name = name  # kernels and reports keep it
    numbers = _node(editor, "Cast", [product.outputs[0]], f"{name}.float", FLOAT)
    numbers.attributes.add(ir.AttrInt64("to", FLOAT))
    scales = _node(editor, "Mul", [scale, factors], f"{name}.scales", FLOAT)
    result = ir.Node("", "Mul", [numbers.outputs[0], scales.outputs[0]])
    added = [product, numbers, scales]
    bias = gemm_bias(node) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    if bias is not None:
        result.outputs[0].name = fresh_name(editor.names, f"{name}.product")
        result.outputs[0].type = ir.TensorType(FLOAT)
        added.append(result)
        constant = _constant(editor, node.inputs[2], bias, f"{name}.bias")
        result = ir.Node("", "Add", [result.outputs[0], constant])
    _graph(node).insert_before(node, added)
    replace([node], result)


def _quantized(editor: DynamicEditor, node: ir.Node) -> ir.Node:
    """Return the DynamicQuantizeLinear of a node's input; nodes come in order, so it is before."""
    source, graph = node.inputs[0], _graph(node)
    assert source is not None
    if (graph, source) not in editor.activations:
        made = ir.Node("", "DynamicQuantizeLinear", [source], num_outputs=3)
        kinds = ir.DataType.UINT8, FLOAT, ir.DataType.UINT8
        for output, kind, suffix in zip(made.outputs, kinds, ("q", "scale", "zero"), strict=True):
            output.name = fresh_name(editor.names, f"{source.name}.{suffix}")
            output.type = ir.TensorType(kind)
            output.shape = source.shape if suffix == "q" else ir.Shape([])
        graph.insert_before(node, made)
        editor.activations[graph, source] = made
    return editor.activations[graph, source]


def _matrix(editor: DynamicEditor, node: ir.Node) -> Weight:
    """Return the weight of a product as int8 [in, out], and one scale per column."""
    holder = node.inputs[1]
    transposed = is_op(node, "Gemm") and node.attributes.get_int("transB", 0) != 0
    alpha = node.attributes.get_float("alpha", 1.0) if is_op(node, "Gemm") else 1.0
    key = (holder, transposed, alpha)
    if key not in editor.weights:
        data = array(holder)
        assert data is not None
        data = (data.T if transposed else data) * np.float32(alpha)
        weight = quantize_weight(data, 1, editor.largest)
        editor.weights[key] = _store(editor, holder, weight.data, weight.scale)
    return editor.weights[key]


# ---------------------------------------------------------------- LSTM
def to_int8_lstm(editor: DynamicEditor, node: ir.Node) -> None:
    """Turn an LSTM to DynamicQuantizeLSTM, which reads its weights as [dirs, in, 4 * hidden]."""
    given = [*node.inputs, *[None] * 8][:8]
    for index in (1, 2):
        holder = node.inputs[index]
        given[index], scale = _gates(editor, holder)
        given += [scale, _zeros(editor, holder, scale)]
    made = ir.Node(
        "com.microsoft",
        "DynamicQuantizeLSTM",
        given,
        attributes_except(node, "layout"),
        num_outputs=len(node.outputs),
        name=label(node),
    )
    _graph(node).insert_before(node, made)
    ir.convenience.replace_all_uses_with(node.outputs, made.outputs, replace_graph_outputs=True)
    for old, new in zip(node.outputs, made.outputs, strict=True):
        name, old.name = old.name, None
        new.name, new.shape, new.type = name, old.shape, old.type
    _graph(node).remove(node, safe=True)


def _gates(editor: DynamicEditor, holder: ir.Value | None) -> Weight:
    """Return W or R as int8 [dirs, in, 4 * hidden], and one scale per direction and row."""
    key = (holder, "gates")
    if key not in editor.weights:
        data = array(holder)
        assert data is not None
        each = [quantize_weight(part, 0, editor.largest) for part in data]
        weight = np.stack([part.data.T for part in each])
        scale = np.stack([np.maximum(part.scale, np.float32(TINY)) for part in each])
        editor.weights[key] = _store(editor, holder, weight, scale)
    return editor.weights[key]


def _zeros(editor: DynamicEditor, holder: ir.Value | None, scale: ir.Value) -> ir.Value:
    data = array(scale)
    assert data is not None
    key = ("zeros", data.shape, _home(holder))
    if key not in editor.weights:
        zero = _constant(editor, holder, np.zeros(data.shape, np.int8), f"{scale.name}.zero")
        editor.weights[key] = zero, zero
    return editor.weights[key][0]


# ---------------------------------------------------------------- nodes and constants
def _node(
    editor: DynamicEditor,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    stem: str,
    dtype: ir.DataType,
) -> ir.Node:
    node = ir.Node("", op_type, inputs)
    node.outputs[0].name = fresh_name(editor.names, stem)
    node.outputs[0].type = ir.TensorType(dtype)
    return node


def _store(editor: DynamicEditor, holder: ir.Value | None, data: Array, scale: Array) -> Weight:
    assert holder is not None
    stem = holder.name or "weight"
    return (
        _constant(editor, holder, data, f"{stem}.q"),
        _constant(editor, holder, scale, f"{stem}.scale"),
    )


def _constant(editor: DynamicEditor, near: ir.Value | None, data: Array, stem: str) -> ir.Value:
    """Add a constant to the graph of another, whose readers so see it too."""
    return add_constant(_home(near), data, fresh_name(editor.names, stem))


def _home(value: ir.Value | None) -> ir.Graph:
    assert value is not None
    producer = value.producer()
    graph = value.graph if producer is None else producer.graph
    assert isinstance(graph, ir.Graph)
    return graph


def _graph(node: ir.Node) -> ir.Graph:
    assert isinstance(node.graph, ir.Graph)
    return node.graph
