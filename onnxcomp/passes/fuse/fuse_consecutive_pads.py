"""Pad after Pad."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, attributes_except, node_like, replace
from onnxcomp.graph import is_op, sole_producer
from onnxcomp.passes.fuse._pads import added_pads, fill_of
from onnxcomp.registry import Effect, leave, register


@register(Effect.EXACT, ops=["Pad"])
def fuse_consecutive_pads(graph: ir.Graph) -> int:
    """Replace two Pad nodes in a row, by the same constant, by one of the sum of their pads.

    Left alone when the intermediate is read elsewhere, when the constants are not the same to the
    bit, and when a mode is not `constant` or the pads are not constant, crop, or are of named axes.
    """
    fused = 0
    for second in graph:
        if not is_op(second, "Pad"):
            continue
        first = sole_producer(second.inputs[0], second)
        if first is None or not is_op(first, "Pad") or first.inputs[0] is None:
            continue
        inner, outer = added_pads(first), added_pads(second)
        if inner is None or outer is None:
            leave(second, "it or the Pad before it does more than to add a constant around")
            continue
        kind = first.inputs[0].dtype
        fills = fill_of(first, kind), fill_of(second, kind)
        if fills[0] is None or fills[1] is None or fills[0].tobytes() != fills[1].tobytes():
            leave(second, "it may not pad with what the Pad before it pads with")
            continue
        pads = [a + b for a, b in zip(inner, outer, strict=True)]
        replace([first, second], _pad_like(graph, second, first.inputs[0], pads))
        fused += 1
    return fused


def _pad_like(graph: ir.Graph, pad: ir.Node, source: ir.Value, pads: list[int]) -> ir.Node:
    if len(pad.inputs) == 1:
        attributes = attributes_except(pad, "pads")
        return node_like(pad, [source], [*attributes, ir.AttrInt64s("pads", pads)])
    name = f"{pad.outputs[0].name}.pads"
    constant = add_constant(graph, np.array(pads, dtype=np.int64), name)
    return node_like(pad, [source, constant, *pad.inputs[2:]])
