"""QuantizeLinear and DequantizeLinear behind the values of a plan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import remove, take_over
from onnxcomp.graph import Array, array, integers, is_op, label, rank, sole_consumer
from onnxcomp.passes.quantize._editor import (
    Editor,
    grid_constants,
    insert_behind,
    new_constant,
    new_node,
)
from onnxcomp.passes.quantize._eligibility import MOVER_OPS
from onnxcomp.passes.quantize._naming import fresh_name

# ONNX Runtime turns these to int8 by itself when it finds them between a DequantizeLinear and a
# QuantizeLinear; of the second group it also quantizes float weights.
ABSORBED_OPS = frozenset(
    {"MatMul", "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool"}
    | {"Sigmoid", "LeakyRelu", "Softmax"}
)
ABSORBED_WITH_WEIGHTS = frozenset({"Conv", "ConvTranspose", "Gemm"})
# ... and looks through these for the QuantizeLinear.
TRANSPARENT_OPS = frozenset({"Relu", "Clip", "LeakyRelu"})


def fold_tail(node: ir.Node, tail: Sequence[ir.Node]) -> None:
    """Remove the Relu and Clip nodes after a node: its output's grid saturates where they did."""
    if not tail:
        return
    old, new = tail[-1].outputs[0], node.outputs[0]
    name = old.name
    take_over(new, old)
    for item in reversed(tail):
        remove(item)
    new.name = name


def to_table(node: ir.Node) -> None:
    """Turn a Relu or HardSigmoid to LeakyRelu, which is a table look-up.

    A gate's saturation is that of the grid which it is written on.
    """
    if is_op(node, "Relu", "HardSigmoid"):
        slope = 0.0 if is_op(node, "Relu") else 1.0
        node.op_type = "LeakyRelu"
        for name in ("alpha", "beta"):
            node.attributes.pop(name, None)
        node.attributes.add(ir.AttrFloat32("alpha", slope))


def quantize_value(editor: Editor, planned: ir.Value, value: ir.Value) -> None:
    """Put one QuantizeLinear and one DequantizeLinear behind a value of the plan.

    What an int8 node wrote, everybody reads in its quantized form, a graph output included; of
    what was made in float only the int8 nodes do. `value` is what stands for it by now.
    """
    if array(value) is not None:
        return
    grid, written = editor.plan.grids[planned], planned in editor.plan.written
    uses = [use for use in value.uses() if written or use.node in editor.plan.nodes]
    stem = value.name or "value"
    absorbed = not written and not editor.target.explicit and _is_absorbed(value)
    nodes = [_barrier(editor, value, stem)] if absorbed else []
    source = nodes[0].outputs[0] if nodes else value
    inputs = [source, *grid_constants(editor, editor.plan.written.get(planned, grid), stem)]
    quantize = new_node(editor, "QuantizeLinear", inputs, f"{stem}.q", editor.byte)
    inputs = [quantize.outputs[0], *grid_constants(editor, grid, stem)]
    dequantize = new_node(editor, "DequantizeLinear", inputs, f"{stem}.dq", ir.DataType.FLOAT)
    nodes += [quantize, dequantize]
    for node in nodes:
        node.outputs[0].shape = value.shape
    insert_behind(editor.graph, value, nodes)
    for use in uses:
        use.node.replace_input_with(use.idx, dequantize.outputs[0])
    _keep_from_captured(editor, dequantize.outputs[0], stem)
    if written and value.is_graph_output():
        _return_instead(editor, value, dequantize.outputs[0])


def _keep_from_captured(editor: Editor, value: ir.Value, stem: str) -> None:
    """Put a Sum before movers whose result a subgraph captures.

    ONNX Runtime moves a DequantizeLinear behind them, and where only a subgraph reads the result
    it aborts the whole process.
    """
    movers = [use for use in value.uses() if _moves_to_subgraph(use.node)]
    if not movers:
        return
    barrier = _barrier(editor, value, stem)
    barrier.outputs[0].shape = value.shape
    insert_behind(editor.graph, value, [barrier])
    for use in movers:
        use.node.replace_input_with(use.idx, barrier.outputs[0])


def _moves_to_subgraph(node: ir.Node) -> bool:
    if not is_op(node, *MOVER_OPS):
        return False
    readers = [reader for output in node.outputs for reader in output.consumers()]
    return any(reader.graph is not node.graph or _moves_to_subgraph(reader) for reader in readers)


def _return_instead(editor: Editor, value: ir.Value, new: ir.Value) -> None:
    """Make `new` the graph output in the place of `value`, under its name."""
    outputs = editor.graph.outputs
    for index, output in enumerate(outputs):
        if output is value:
            outputs[index] = new
    new.shape, new.type = value.shape, value.type
    name, value.name = value.name, fresh_name(editor.names, f"{value.name}.float")
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
    return new_node(editor, "Sum", [value], f"{stem}.float", ir.DataType.FLOAT)


def keep_from_gemm(editor: Editor, node: ir.Node) -> None:
    """Keep ONNX Runtime from fusing an int8 MatMul and the Add behind it to a float Gemm.

    With more than two dims it does so for a bias of one dim alone, else something has to stand
    between the two.
    """
    output = node.outputs[0]
    reader = sole_consumer(output)
    dims = rank(output)
    biases = [] if reader is None or not is_op(reader, "Add") else _constant_inputs(reader)
    if reader is None or not biases:
        return
    if dims is not None and dims > 2:
        for index, data in biases:
            if data.ndim == 1:
                stem = f"{reader.inputs[index].name}.row"  # type: ignore[union-attr]
                reader.replace_input_with(index, new_constant(editor, data[None, None], stem))
        return
    barrier = _barrier(editor, output, output.name or label(node))
    barrier.outputs[0].shape = output.shape
    insert_behind(editor.graph, output, [barrier])
    for use in list(output.uses()):
        if use.node is not barrier:
            use.node.replace_input_with(use.idx, barrier.outputs[0])


def _constant_inputs(node: ir.Node) -> list[tuple[int, Array]]:
    found = [(index, array(value)) for index, value in enumerate(node.inputs)]
    return [(index, data) for index, data in found if data is not None]


def spell_out_axes(editor: Editor, pad: ir.Node) -> None:
    """Give a Pad sizes for all axes, where they and the rank are known.

    ONNX Runtime moves the Transpose of an int8 convolution behind a Pad as if it had no axes.
    """
    if len(pad.inputs) < 4 or pad.inputs[3] is None:
        return
    sizes, axes, dims = integers(pad.inputs[1]), integers(pad.inputs[3]), rank(pad.inputs[0])
    if sizes is None or axes is None or dims is None:
        return
    spelled = np.zeros((2, dims), dtype=np.int64)
    spelled[:, list(axes)] = np.reshape(sizes, (2, -1))
    name = f"{pad.inputs[1].name}.all"  # type: ignore[union-attr]
    pad.replace_input_with(1, new_constant(editor, spelled.reshape(-1), name))
    pad.resize_inputs(3)


def pad_bytes(editor: Editor, pad: ir.Node) -> None:
    """Let a Pad work on bytes: ONNX Runtime would else dequantize, pad and quantize again."""
    before, after = pad.inputs[0], pad.outputs[0].consumers()
    dequantize = before.producer() if before is not None else None
    quantize = next(node for node in after if is_op(node, "QuantizeLinear"))
    assert dequantize is not None
    pad.replace_input_with(0, dequantize.inputs[0])
    constant = pad.attributes.get_string("mode", "constant") == "constant"
    if constant:
        pad.resize_inputs(max(3, len(pad.inputs)))
    if len(pad.inputs) > 2:
        pad.replace_input_with(2, quantize.inputs[2] if constant else None)
    old, new = quantize.outputs[0], pad.outputs[0]
    name = old.name
    take_over(new, old)
    remove(quantize)
    new.name, new.type = name, ir.TensorType(editor.byte)
    if not dequantize.outputs[0].uses() and not dequantize.outputs[0].is_graph_output():
        remove(dequantize)
