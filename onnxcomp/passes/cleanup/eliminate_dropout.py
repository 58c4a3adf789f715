"""Dropout in inference."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import bypass
from onnxcomp.graph import dropout_is_inference, is_op, only_first_output
from onnxcomp.registry import Effect, leave, register


@register(Effect.EXACT, ops=["Dropout"])
def eliminate_dropout(graph: ir.Graph, opset: int) -> int:
    """Drop Dropout nodes that only pass their input through.

    In inference y = x whatever the ratio is. Before opset 7 the attribute `is_test` says so, from
    opset 12 an input `training_mode` that is absent or false; between them it always holds.

    Left alone when the node trains or may, when its mask is read, and when the result is a graph
    output and the source cannot take that place.
    """
    dropped = 0
    for node in graph:
        if not is_op(node, "Dropout"):
            continue
        silent = opset < 7 and "is_test" not in node.attributes  # the default was to train
        if silent or not dropout_is_inference(node):
            leave(node, "it trains, or may")
            continue
        if not only_first_output(node):
            leave(node, "its mask is read")
            continue
        if not bypass(node):
            leave(node, "its result is a graph output, which its source cannot be")
            continue
        dropped += 1
    return dropped
