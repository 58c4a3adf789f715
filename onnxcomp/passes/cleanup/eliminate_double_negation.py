"""Not of Not, Neg of Neg."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import bypass, remove
from onnxcomp.graph import is_op
from onnxcomp.registry import Effect, leave, register


@register(Effect.EXACT, ops=["Not", "BitwiseNot", "Neg"])
def eliminate_double_negation(graph: ir.Graph) -> int:
    """Drop Not, BitwiseNot and Neg nodes that undo one another.

    -(-x) = x in floats, where the sign is one bit, and in integers, where it holds for the least
    one too: it is its own negative.

    Left alone when the result is a graph output and x cannot take that place.
    """
    dropped = 0
    for second in graph:
        if not is_op(second, "Not", "BitwiseNot", "Neg") or second.inputs[0] is None:
            continue
        first = second.inputs[0].producer()
        if first is None or not is_op(first, second.op_type):
            continue
        if not bypass(second, first.inputs[0]):
            leave(second, "its result is a graph output, which its source cannot be")
            continue
        if not first.outputs[0].uses() and not first.outputs[0].is_graph_output():
            remove(first)
        dropped += 1
    return dropped
