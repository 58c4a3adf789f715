"""Where of Not."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import node_like, replace
from onnxcomp.graph import is_op
from onnxcomp.registry import Effect, register


@register(Effect.CLOSE, ops=["Where"])
def fuse_not_into_where(graph: ir.Graph) -> int:
    """Swap the operands of Where in the place of negating its condition.

    Where(Not(c), a, b) = Where(c, b, a). Only the sign of zero may change, which ONNX Runtime's
    Where keeps in its last operand alone. Not stays where others read it.

    Left alone when the condition is no Not.
    """
    fused = 0
    for node in graph:
        if not is_op(node, "Where"):
            continue
        condition, first, second = node.inputs
        negations: list[ir.Node] = []
        while condition is not None and is_op(producer := condition.producer(), "Not"):
            assert producer is not None
            negations.insert(0, producer)
            condition, first, second = producer.inputs[0], second, first
        if not negations:
            continue
        replace([*negations, node], node_like(node, [condition, first, second]))
        fused += 1
    return fused
