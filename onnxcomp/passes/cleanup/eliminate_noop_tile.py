"""Tile that repeats nothing."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import bypass
from onnxcomp.graph import integers, is_op, scalar
from onnxcomp.passes._broadcast import same_dims
from onnxcomp.registry import Effect, leave, register


@register(Effect.EXACT, ops=["Tile"])
def eliminate_noop_tile(graph: ir.Graph, opset: int) -> int:
    """Drop Tile nodes that repeat every axis once.

    The repeats are a constant of ones, or the result surely has the shape of the input: then each
    repeat is 1, or there is no element.

    Left alone when that cannot be proved, and when the result is a graph output and the source
    cannot take that place.
    """
    dropped = 0
    for node in graph:
        if not is_op(node, "Tile") or not _repeats_nothing(node, opset):
            continue
        if not bypass(node):
            leave(node, "its result is a graph output, which its source cannot be")
            continue
        dropped += 1
    return dropped


def _repeats_nothing(node: ir.Node, opset: int) -> bool:
    if opset < 6:  # the inputs are the number of tiles and the one axis
        return scalar(node.inputs[1]) == 1
    repeats = integers(node.inputs[1])
    if repeats is not None and set(repeats) <= {1}:
        return True
    return same_dims(node.inputs[0], node.outputs[0])
