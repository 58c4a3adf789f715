"""Expand before an operator that broadcasts."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxcomp.edits import remove
from onnxcomp.graph import is_op
from onnxcomp.passes._broadcast import dims_of, outlasts
from onnxcomp.registry import Effect, leave, register

# Axes from the last that an operator does not broadcast.
BROADCASTS = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Mod", "Pow", "And", "Or", "Xor", "BitShift"), 0),
    **dict.fromkeys(("BitwiseAnd", "BitwiseOr", "BitwiseXor", "Equal", "Greater", "Less"), 0),
    **dict.fromkeys(("GreaterOrEqual", "LessOrEqual", "Where", "Max", "Min", "Sum", "Mean"), 0),
    "MatMul": 2,
}


@register(Effect.CLOSE, ops=["Expand"])
def eliminate_expand_before_broadcast(graph: ir.Graph) -> int:
    """Let an operator that broadcasts read a value as it was before an Expand.

    Expand writes out copies that the operator then reads. Add(Expand(x), y) = Add(x, y) where y
    surely has each dim that Expand made; MatMul likewise, in the dims before the last two. Only the
    sign of zero (Max, Min, Where) and rounding (MatMul, Pow) may change.

    Left alone when the result's shape is not sure without the Expand.
    """
    changed = 0
    for node in graph:
        if not is_op(node, *BROADCASTS):
            continue
        for index, value in enumerate(node.inputs):
            expand = None if value is None else value.producer()
            if value is None or expand is None or not is_op(expand, "Expand"):
                continue
            others = [other for other in node.inputs if other is not value]
            if not _is_implied(expand, others, BROADCASTS[node.op_type]):
                leave(expand, "the result's shape is not sure without it")
                continue
            node.replace_input_with(index, expand.inputs[0])
            if not value.uses() and not value.is_graph_output():
                remove(expand)
            changed += 1
    return changed


def _is_implied(expand: ir.Node, others: Sequence[ir.Value | None], kept: int) -> bool:
    """Say whether the source or another operand surely has every dim of the expanded value."""
    before, after = dims_of(expand.inputs[0]), dims_of(expand.outputs[0])
    if before is None or after is None:
        return False
    shapes = [dims for dims in map(dims_of, others) if dims is not None]
    for place in range(1, len(after) + 1):
        dim = after[-place]
        if place <= len(before) and dim is not None and before[-place] == dim:
            continue
        known = [dims[-place] for dims in shapes if len(dims) >= place > kept]
        if not any(outlasts(other, dim) for other in known):
            return False
    return True
