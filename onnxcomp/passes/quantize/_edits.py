"""The rewrite to int8: QuantizeLinear and DequantizeLinear around the nodes of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, remove, take_over
from onnxcomp.graph import Array, array, is_op, label, rank, sole_consumer
from onnxcomp.passes.quantize._eligibility import MOVER_OPS, activations, gemm_bias, is_weight
from onnxcomp.passes.quantize._numbers import (
    Grid,
    IntWeight,
    least_scales,
    quantize_bias,
    quantize_to,
    quantize_weight,
)
from onnxcomp.passes.quantize._placement import Plan

# ONNX Runtime turns these to int8 by itself when it finds them between a DequantizeLinear and a
# QuantizeLinear; of the second group it also quantizes float weights.
ABSORBED_OPS = frozenset(
    {"MatMul", "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool"}
    | {"Sigmoid", "LeakyRelu", "Softmax"}
)
ABSORBED_WITH_WEIGHTS = frozenset({"Conv", "ConvTranspose", "Gemm"})
# ... and looks through these for the QuantizeLinear.
TRANSPARENT_OPS = frozenset({"Relu", "Clip", "LeakyRelu"})


@dataclass
class Editor:
    """The constants that were added so far, so that equal ones are shared."""

    graph: ir.Graph
    plan: Plan
    largest: int
    per_channel: bool
    names: set[str]
    grids: dict[Grid, tuple[ir.Value, ir.Value]] = field(default_factory=dict)
    weights: dict[tuple[object, ...], ir.Value] = field(default_factory=dict)


def apply_plan(editor: Editor) -> None:
    """Carry out a plan: weights and biases first, then every value that is quantized."""
    for node in editor.plan.nodes:
        node.name = label(node)  # outputs get other names, and reports speak of nodes
        _quantize_parameters(editor, node)
    for node, tail in editor.plan.tails.items():
        _fold_tail(node, tail.nodes)
        _relu_to_table(node)
    ends = {tail.end: node.outputs[0] for node, tail in editor.plan.tails.items()}
    for value, grid in editor.plan.grids.items():
        written = value in editor.plan.written
        _quantize_value(editor, ends.get(value, value), grid, written=written)
    for node in editor.plan.nodes:
        if is_op(node, "Pad"):
            _pad_bytes(node)
        elif is_op(node, "MatMul") and node not in editor.plan.tails:
            _keep_from_gemm(editor, node)


# ---------------------------------------------------------------- names and nodes
def _fresh(editor: Editor, stem: str) -> str:
    name, count = stem, 1
    while name in editor.names:
        name, count = f"{stem}_{count}", count + 1
    editor.names.add(name)
    return name


def _constant(editor: Editor, data: Array, stem: str) -> ir.Value:
    return add_constant(editor.graph, data, _fresh(editor, stem))


def _node(
    editor: Editor,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    stem: str,
    dtype: ir.DataType,
    axis: int | None = None,
) -> ir.Node:
    attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
    node = ir.Node("", op_type, inputs, attributes)
    node.outputs[0].name = _fresh(editor, stem)
    node.outputs[0].type = ir.TensorType(dtype)
    return node


# ---------------------------------------------------------------- weights and biases
def _quantize_parameters(editor: Editor, node: ir.Node) -> None:
    for value in activations(node):
        if array(value) is not None:
            _quantize_operand(editor, node, value)
    if is_op(node, "Conv", "Gemm") or (is_op(node, "MatMul") and is_weight(node.inputs[1])):
        _quantize_weight(editor, node)


def _quantize_operand(editor: Editor, node: ir.Node, value: ir.Value) -> None:
    """Store a constant operand of Add, Mul, Concat or MatMul as uint8."""
    data, grid = array(value), editor.plan.grids[value]
    assert data is not None
    stored = _shared(editor, ("operand", value), quantize_to(grid, data), f"{value.name}.q")
    scale, zero = _grid_constants(editor, grid, value.name or "value")
    _replace_input(editor, node, value, [stored, scale, zero], None)


def _quantize_weight(editor: Editor, node: ir.Node) -> None:
    """Store a weight as int8 and the bias, if any, as int32 on the grid of the products."""
    source, holder = node.inputs[0], node.inputs[1]
    assert source is not None
    assert holder is not None
    data, bias, axis = _parameters(node)
    grid = editor.plan.grids[source]
    weight = quantize_weight(
        data,
        axis if editor.per_channel else None,
        editor.largest,
        least_scales(bias, grid.scale),
    )
    stem = holder.name or f"{label(node)}.weight"
    _replace_input(editor, node, holder, _weight_constants(editor, weight, stem), weight.axis)
    if bias is None:
        return
    stem = (node.inputs[2].name if node.inputs[2] is not None else None) or f"{stem}.bias"
    steps, scale = quantize_bias(bias, grid.scale, weight.scale)
    if weight.axis is None:
        scale = np.asarray(scale.reshape(-1)[0])
    zero = np.zeros(scale.shape, dtype=np.int32)
    inputs = [
        _constant(editor, steps, f"{stem}.q"),
        _shared(editor, ("scale", scale.shape, scale.tobytes()), scale, f"{stem}.scale"),
        _shared(editor, ("zero32", scale.shape), zero, f"{stem}.zero"),
    ]
    dequantize = _dequantize(editor, node, inputs, stem, None if weight.axis is None else 0)
    node.replace_input_with(2, dequantize.outputs[0])


def _parameters(node: ir.Node) -> tuple[Array, Array | None, int]:
    """Return weight, bias and channel axis of a node, whose alpha and beta become 1."""
    data = array(node.inputs[1])
    assert data is not None
    given = len(node.inputs) > 2 and node.inputs[2] is not None
    if is_op(node, "Conv"):
        return data, array(node.inputs[2]) if given else None, 0
    if is_op(node, "MatMul"):
        return data, None, 1
    bias = gemm_bias(node) if given else None
    data = data * np.float32(node.attributes.get_float("alpha", 1.0))
    axis = 0 if node.attributes.get_int("transB", 0) else 1
    for name in ("alpha", "beta"):
        node.attributes.pop(name, None)
    return data, bias, axis


def _weight_constants(editor: Editor, weight: IntWeight, stem: str) -> list[ir.Value]:
    scales = weight.scale.tobytes()
    zero = np.zeros(weight.scale.shape, dtype=np.int8)
    key = ("weight", stem, weight.data.shape, weight.data.tobytes())
    return [
        _shared(editor, key, weight.data, f"{stem}.q"),
        _shared(editor, ("scale", weight.scale.shape, scales), weight.scale, f"{stem}.scale"),
        _shared(editor, ("zero8", weight.scale.shape), zero, f"{stem}.zero"),
    ]


def _shared(editor: Editor, key: tuple[object, ...], data: Array, stem: str) -> ir.Value:
    if key not in editor.weights:
        editor.weights[key] = _constant(editor, data, stem)
    return editor.weights[key]


def _replace_input(
    editor: Editor, node: ir.Node, value: ir.Value, inputs: list[ir.Value], axis: int | None
) -> None:
    dequantize = _dequantize(editor, node, inputs, value.name or label(node), axis)
    for index, found in enumerate(node.inputs):
        if found is value:
            node.replace_input_with(index, dequantize.outputs[0])


def _dequantize(
    editor: Editor, node: ir.Node, inputs: list[ir.Value], stem: str, axis: int | None
) -> ir.Node:
    made = _node(editor, "DequantizeLinear", inputs, f"{stem}.dq", ir.DataType.FLOAT, axis)
    made.outputs[0].shape = inputs[0].shape
    editor.graph.insert_before(node, made)
    return made


# ---------------------------------------------------------------- activations
def _fold_tail(node: ir.Node, tail: Sequence[ir.Node]) -> None:
    """Remove the Relu and Clip nodes after a node: its output's grid saturates where they did."""
    if not tail:
        return
    old, new = tail[-1].outputs[0], node.outputs[0]
    name = old.name
    take_over(new, old)
    for item in reversed(tail):
        remove(item)
    new.name = name


def _relu_to_table(node: ir.Node) -> None:
    """Turn a Relu that has no producer of its own into LeakyRelu(0), which is a table look-up."""
    if is_op(node, "Relu"):
        node.op_type = "LeakyRelu"
        node.attributes.add(ir.AttrFloat32("alpha", 0.0))


def _quantize_value(editor: Editor, value: ir.Value, grid: Grid, *, written: bool) -> None:
    """Put one QuantizeLinear and one DequantizeLinear behind a value.

    What an int8 node wrote, everybody reads in its quantized form, a graph output included; of
    what was made in float only the int8 nodes do.
    """
    if array(value) is not None:
        return
    uses = [use for use in value.uses() if written or use.node in editor.plan.nodes]
    stem = value.name or "value"
    nodes = [] if written or not _is_absorbed(value) else [_barrier(editor, value, stem)]
    scale, zero = _grid_constants(editor, grid, stem)
    source = nodes[0].outputs[0] if nodes else value
    quantize = _node(
        editor, "QuantizeLinear", [source, scale, zero], f"{stem}.q", ir.DataType.UINT8
    )
    inputs = [quantize.outputs[0], scale, zero]
    dequantize = _node(editor, "DequantizeLinear", inputs, f"{stem}.dq", ir.DataType.FLOAT)
    nodes += [quantize, dequantize]
    for node in nodes:
        node.outputs[0].shape = value.shape
    _insert_behind(editor.graph, value, nodes)
    for use in uses:
        use.node.replace_input_with(use.idx, dequantize.outputs[0])
    if written and value.is_graph_output():
        _return_instead(editor, value, dequantize.outputs[0])


def _insert_behind(graph: ir.Graph, value: ir.Value, nodes: Sequence[ir.Node]) -> None:
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], nodes)
    else:
        graph.insert_after(producer, nodes)


def _return_instead(editor: Editor, value: ir.Value, new: ir.Value) -> None:
    """Make `new` the graph output in the place of `value`, under its name."""
    outputs = editor.graph.outputs
    for index, output in enumerate(outputs):
        if output is value:
            outputs[index] = new
    new.shape, new.type = value.shape, value.type
    name, value.name = value.name, _fresh(editor, f"{value.name}.float")
    new.name = name


def _is_absorbed(value: ir.Value) -> bool:
    """Say whether ONNX Runtime would turn the float node behind a value to int8 by itself.

    It does when all that the node reads comes from a DequantizeLinear and its result goes to a
    QuantizeLinear, so an op that was left float on purpose, or excluded, would not be.
    """
    node = value.producer()
    while is_op(node, *TRANSPARENT_OPS) and node is not None and not is_op(node, "LeakyRelu"):
        assert node.inputs[0] is not None
        node = node.inputs[0].producer()
    if node is None or not is_op(node, *ABSORBED_OPS, *ABSORBED_WITH_WEIGHTS):
        return False
    reads = [found for found in node.inputs if found is not None]
    if is_op(node, *ABSORBED_WITH_WEIGHTS):
        reads = reads[:1]
    return all(_comes_dequantized(found) for found in reads)


def _comes_dequantized(value: ir.Value) -> bool:
    node = value.producer()
    while is_op(node, *MOVER_OPS) and node is not None and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return is_op(node, "DequantizeLinear")


def _barrier(editor: Editor, value: ir.Value, stem: str) -> ir.Node:
    """Return a Sum of one operand: it changes nothing, and keeps a float node from int8."""
    return _node(editor, "Sum", [value], f"{stem}.float", ir.DataType.FLOAT)


def _keep_from_gemm(editor: Editor, node: ir.Node) -> None:
    """Keep ONNX Runtime from fusing an int8 MatMul and the Add behind it to a float Gemm."""
    output = node.outputs[0]
    reader = sole_consumer(output)
    if reader is None or not is_op(reader, "Add") or rank(output) not in (None, 2):
        return
    if all(array(value) is None for value in reader.inputs):
        return  # it adds no bias
    barrier = _barrier(editor, output, output.name or label(node))
    barrier.outputs[0].shape = output.shape
    _insert_behind(editor.graph, output, [barrier])
    for use in list(output.uses()):
        if use.node is not barrier:
            use.node.replace_input_with(use.idx, barrier.outputs[0])


def _pad_bytes(pad: ir.Node) -> None:
    """Let a Pad work on bytes: ONNX Runtime would else dequantize, pad and quantize again."""
    before, after = pad.inputs[0], pad.outputs[0].consumers()
    dequantize = before.producer() if before is not None else None
    quantize = next(node for node in after if is_op(node, "QuantizeLinear"))
    assert dequantize is not None
    pad.replace_input_with(0, dequantize.inputs[0])
    if pad.attributes.get_string("mode", "constant") == "constant":
        pad.resize_inputs(max(3, len(pad.inputs)))
        pad.replace_input_with(2, quantize.inputs[2])
    old, new = quantize.outputs[0], pad.outputs[0]
    name = old.name
    take_over(new, old)
    remove(quantize)
    new.name, new.type = name, ir.TensorType(ir.DataType.UINT8)
    if not dequantize.outputs[0].uses() and not dequantize.outputs[0].is_graph_output():
        remove(dequantize)


def _grid_constants(editor: Editor, grid: Grid, stem: str) -> tuple[ir.Value, ir.Value]:
    """Return scale and zero point of a grid; equal grids share them."""
    if grid not in editor.grids:
        scale = _constant(editor, np.asarray(grid.scale, dtype=np.float32), f"{stem}.scale")
        zero = _constant(editor, np.asarray(grid.zero_point, dtype=np.uint8), f"{stem}.zero")
        editor.grids[grid] = scale, zero
    return editor.grids[grid]
