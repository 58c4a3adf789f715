"""Pad by nothing."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import bypass
from onnxcomp.graph import integers, is_op
from onnxcomp.registry import Effect, leave, register


@register(Effect.EXACT, ops=["Pad"])
def eliminate_noop_pad(graph: ir.Graph) -> int:
    """Drop Pad nodes whose pads are all zero.

    The mode, the fill value and the axes then do not matter. Pads are an attribute before opset
    11, a constant input after; a negative pad crops, so it is not nothing.

    Left alone when the pads are not constant, and when the result is a graph output and the source
    cannot take that place.
    """
    dropped = 0
    for node in graph:
        if not is_op(node, "Pad"):
            continue
        if len(node.inputs) > 1:
            pads = integers(node.inputs[1])
        else:
            found = node.attributes.get_ints("pads") or node.attributes.get_ints("paddings")
            pads = None if found is None else tuple(found)
        if pads is None:
            leave(node, "its pads are not constant")
            continue
        if any(pads):
            continue
        if not bypass(node):
            leave(node, "its result is a graph output, which its source cannot be")
            continue
        dropped += 1
    return dropped
