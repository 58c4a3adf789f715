"""Relu of what is never negative."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import bypass
from onnxcomp.graph import dropout_is_inference, is_op, scalar
from onnxcomp.registry import Effect, leave, register

NONNEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Exp", "Sqrt", "Softplus")
# Operators whose first output holds only elements of their first input.
MOVES = frozenset(
    {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile"}
    | {"Slice", "Gather", "GatherND", "GatherElements", "DepthToSpace", "SpaceToDepth", "Split"}
    | {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"}  # and means of them
)
FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@register(Effect.EXACT, ops=["Relu"])
def eliminate_redundant_relu(graph: ir.Graph) -> int:
    """Drop a Relu whose input is never negative.

    max(x, 0) = x for x >= 0, and NaN passes through Relu. Never negative are the results of Relu,
    Sigmoid, HardSigmoid, Softmax, Exp, Sqrt, Softplus, Abs and Clip from 0 up, and whatever
    pooling, reshaping, slicing or joining makes of these.

    Left alone when that is not known, as for Abs of integers, whose least one has no positive, and
    when the result is a graph output and the source cannot take that place.
    """
    dropped = 0
    positive: set[ir.Value] = set()
    for node in graph:
        if not _is_nonnegative(node, positive):
            continue
        if is_op(node, "Relu") and node.inputs[0] in positive:
            source = node.inputs[0]
            if bypass(node):
                dropped += 1
                continue
            leave(node, f"{source.name} cannot be a graph output in its place")
        positive.update(node.outputs if node.op_type == "Split" else node.outputs[:1])
    return dropped


def _is_nonnegative(node: ir.Node, positive: set[ir.Value]) -> bool:
    if is_op(node, *NONNEGATIVE):
        return True
    if is_op(node, "Abs"):
        kind = node.inputs[0].type if node.inputs[0] is not None else None
        return isinstance(kind, ir.TensorType) and kind.dtype in FLOATS
    if is_op(node, "Clip"):
        return _clips_from_zero(node)
    if is_op(node, "Concat"):
        return all(value in positive for value in node.inputs)
    if not node.inputs or node.inputs[0] not in positive:
        return False
    if is_op(node, "MaxPool"):  # a window that lies in the padding alone has no element
        plain = set(node.attributes.get_ints("dilations", ())) <= {1}
        return plain and node.attributes.get_int("ceil_mode", 0) == 0
    if is_op(node, "Dropout"):
        return dropout_is_inference(node)
    return is_op(node, *MOVES)


def _clips_from_zero(clip: ir.Node) -> bool:
    if len(clip.inputs) > 1:
        low = scalar(clip.inputs[1])
        high = scalar(clip.inputs[2]) if len(clip.inputs) > 2 and clip.inputs[2] else low
    else:
        low = clip.attributes.get_float("min", None)
        high = clip.attributes.get_float("max", low)
    return low is not None and high is not None and low >= 0 and high >= 0
