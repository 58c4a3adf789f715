"""Which nodes could run in int8: their types, weights, ranges, and what they pass on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.ranges import Range
from onnxcomp.graph import Array, array, is_op, rank, scalar, tensor
from onnxcomp.passes.quantize._facts import Facts
from onnxcomp.passes.quantize._numbers import GATE, range_of_array, written_grid
from onnxcomp.passes.quantize._tails import hard_sigmoid, range_behind, tail_of

# Each of these has an integer kernel in ONNX Runtime's CPU provider, with the scales of its own
# output. MAC ops start an integer region, the others only carry it on.
MAC_OPS = frozenset({"Conv", "Gemm", "MatMul"})
BINARY_OPS = frozenset({"Add", "Mul"})
UNARY_OPS = frozenset(
    {"Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "AveragePool", "GlobalAveragePool"}
)
# These move bytes, so what comes out lies on the grid of what went in.
MOVER_OPS = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split"}
    | {"Gather", "Expand", "Tile", "MaxPool", "Resize", "Pad"}
)
FOLLOWER_OPS = BINARY_OPS | UNARY_OPS | MOVER_OPS | {"Concat"}
# What these make lies between 0 and 1.
UNIT_OPS = frozenset({"Sigmoid", "HardSigmoid", "Softmax"})
FLOAT_MAC_OPS = frozenset({"ConvTranspose", "LSTM", "GRU", "RNN"})


def activations(node: ir.Node) -> list[ir.Value]:
    """Return the inputs of an op of ours that are quantized as activations, constants too."""
    values = [value for value in node.inputs if value is not None]
    if node.op_type == "MatMul":
        return values[:1] if is_weight(values[1]) else values[:2]
    return values if node.op_type in BINARY_OPS | {"Concat"} else values[:1]


def is_weight(value: ir.Value | None) -> bool:
    """Say whether a constant is a matrix of weights, rather than an operand like any other."""
    found = tensor(value)
    return found is not None and len(found.shape) == 2


def mac_problem(node: ir.Node, facts: Facts) -> str | None:
    """Return why a MAC op must stay float, or None when it need not."""
    if node in facts.excluded:
        return "excluded"
    problem = None if node.op_type == "MatMul" else _weight_problem(node)
    return problem or _constant_problem(node.inputs) or _values_problem(node, facts)


def _weight_problem(node: ir.Node) -> str | None:
    if array(node.inputs[1]) is None:
        return "its weight is not constant"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and array(bias) is None:
        return "its bias is not constant"
    if node.op_type == "Gemm" and node.attributes.get_int("transA", 0) != 0:
        return "its input is transposed (transA)"
    if node.op_type == "Gemm" and bias is not None and gemm_bias(node) is None:
        return "its bias differs between rows"
    return None


def _constant_problem(values: Sequence[ir.Value | None]) -> str | None:
    for value in values:
        found = tensor(value)
        if found is None:
            continue
        if found.dtype != ir.DataType.FLOAT:
            return f"its weights are {found.dtype.name.lower()}, not float32"
        if range_of_array(found.numpy()) is None:
            return "its weights are empty or not finite"
    return None


def gemm_bias(node: ir.Node) -> Array | None:
    """Return the bias of a Gemm as one number per column, beta included, or None."""
    weight, bias = array(node.inputs[1]), array(node.inputs[2])
    if weight is None or bias is None or weight.ndim != 2:
        return None
    columns = weight.shape[0 if node.attributes.get_int("transB", 0) else 1]
    if bias.size not in (1, columns) or (bias.ndim == 2 and bias.shape[0] != 1):
        return None
    scaled = bias.reshape(-1).astype(np.float64) * node.attributes.get_float("beta", 1.0)
    return np.broadcast_to(scaled, (columns,)).astype(np.float32)


def _values_problem(node: ir.Node, facts: Facts) -> str | None:
    for value in activations(node):
        if not is_float32(value, facts):
            return f"{value.name} is not float32"
        if not _has_range(value, facts):
            return f"no range for its input {value.name}"
    if tensor(node.inputs[0]) is not None and node.op_type != "MatMul":
        return "its input is constant"
    if all(tensor(value) is not None for value in activations(node)):
        return "its inputs are constant"
    if not output_range_known(node, facts):
        return f"no range for its output {node.outputs[0].name}"
    return None


def is_float32(value: ir.Value, facts: Facts) -> bool:
    """Say whether a value is float32, or of no known type, as values with a range may be."""
    found = tensor(value)
    typed = facts.typed.get(value.name or "")
    dtype = found.dtype if found is not None else typed.dtype if typed is not None else None
    return dtype in (None, ir.DataType.FLOAT)


def _has_range(value: ir.Value, facts: Facts) -> bool:
    found = tensor(value)
    if found is not None:
        return range_of_array(found.numpy()) is not None
    return nearest_range(value, facts) is not None


def nearest_range(value: ir.Value, facts: Facts) -> Range | None:
    """Return the range of a value, that of what it is moved from or what its maker can reach."""
    found = facts.ranges.values.get(value.name or "")
    source = value.producer()
    if found is not None or source is None:
        return found
    if is_op(source, *UNIT_OPS):
        return Range(0.0, 1.0)
    if not is_op(source, *MOVER_OPS) or source.inputs[0] is None:
        return None
    return nearest_range(source.inputs[0], facts)


def output_range_known(node: ir.Node, facts: Facts) -> bool:
    """Say whether the grid of what a node makes can be told; that of a gate always can."""
    if node.op_type == "HardSigmoid":
        return True
    tail = tail_of(node, facts)
    return range_behind(tail, node, facts.ranges) is not None


def follows(node: ir.Node, facts: Facts) -> bool:
    """Say whether a node that is no MAC op could run in int8."""
    floats = all(is_float32(v, facts) and _has_range(v, facts) for v in activations(node))
    if not floats or not is_float32(node.outputs[0], facts):
        return False
    if node.op_type in MOVER_OPS:
        return _moves_bytes(node, facts)
    if node.op_type == "AveragePool" and not _plain_pool(node):
        return False
    if node.op_type == "HardSigmoid" and not _is_gate(node):
        return False
    return output_range_known(node, facts)


def _moves_bytes(node: ir.Node, facts: Facts) -> bool:
    if node.op_type == "MaxPool":
        unread = len(node.outputs) < 2 or not node.outputs[1].uses()
        return facts.opset >= 12 and unread and rank(node.inputs[0]) != 2
    if node.op_type == "Split":
        return all(output.uses() for output in node.outputs)
    if node.op_type == "Pad":
        return facts.opset >= 11 and _pads_with_zeros(node)
    if node.op_type == "Resize":
        return facts.opset >= 11 and node.attributes.get_string("mode", "nearest") == "nearest"
    return True


def _pads_with_zeros(node: ir.Node) -> bool:
    """Say whether a Pad makes no number that is not on its input's grid."""
    mode = node.attributes.get_string("mode", "constant")
    given = node.inputs[2] if len(node.inputs) > 2 else None
    return mode in ("reflect", "edge") or given is None or scalar(given) == 0.0


def _is_gate(node: ir.Node) -> bool:
    """Say whether what a HardSigmoid reads can be written so that its bytes are the gate."""
    alpha, beta = hard_sigmoid(node)
    return alpha > 0 and written_grid(GATE, alpha, beta) is not None


def _plain_pool(node: ir.Node) -> bool:
    dilations = node.attributes.get_ints("dilations", ())
    return not node.attributes.get_int("ceil_mode", 0) and all(step == 1 for step in dilations)
