"""Where that always chooses one operand."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import bypass
from onnxcomp.graph import array, is_op
from onnxcomp.passes._broadcast import broadcasts_into
from onnxcomp.registry import Effect, leave, register


@register(Effect.CLOSE, ops=["Where"])
def eliminate_constant_where(graph: ir.Graph) -> int:
    """Drop Where nodes whose choice is known: a constant condition, or twice one operand.

    Where(true, a, b) = a, Where(false, a, b) = b and Where(c, a, a) = a, if the condition and the
    other operand do not enlarge it. Only the sign of zero may change, which ONNX Runtime's Where
    does not always keep.

    Left alone when the condition chooses both, when the chosen operand's shape is not surely the
    result's, and when the result is a graph output and the operand cannot take that place.
    """
    dropped = 0
    for node in graph:
        if not is_op(node, "Where"):
            continue
        chosen = _chosen(node)
        if chosen is None:
            continue
        others = [value for value in node.inputs if value is not chosen]
        if not all(broadcasts_into(other, chosen) for other in others):
            leave(node, "its result may be larger than the chosen operand")
            continue
        if not bypass(node, chosen):
            leave(node, "its result is a graph output, which the chosen operand cannot be")
            continue
        dropped += 1
    return dropped


def _chosen(node: ir.Node) -> ir.Value | None:
    condition, first, second = node.inputs
    if first is second:
        return first
    data = array(condition)
    if data is None:
        return None
    if data.all():
        return first
    return None if data.any() else second
