"""Identity."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import bypass
from onnxcomp.graph import is_op
from onnxcomp.registry import Effect, leave, register


@register(Effect.EXACT, ops=["Identity"])
def eliminate_identity(graph: ir.Graph) -> int:
    """Drop Identity nodes.

    y = x, for tensors, sequences and optionals alike: one copy of the value less, and patterns
    that other passes look for are no longer interrupted.

    Left alone when the result is a graph output and the source cannot take that place: an input, a
    weight, a value of an outer graph, or another output.
    """
    dropped = 0
    for node in graph:
        if not is_op(node, "Identity"):
            continue
        if not bypass(node):
            leave(node, "its result is a graph output, which its source cannot be")
            continue
        dropped += 1
    return dropped
