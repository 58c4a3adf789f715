"""Unsqueeze after Unsqueeze."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import replace
from onnxcomp.graph import is_op, rank, sole_producer
from onnxcomp.passes._axes import axes_of, from_zero, place, with_axes
from onnxcomp.registry import Effect, leave, register


@register(Effect.EXACT, ops=["Unsqueeze"])
def fuse_consecutive_unsqueezes(graph: ir.Graph) -> int:
    """Replace two Unsqueeze nodes in a row by one.

    The axes of an Unsqueeze are places in its result. Those of the first move up by the places
    that the second takes before them: axes = b + [place of a among those that b leaves free].

    Left alone when the intermediate is read elsewhere, and when an axis is not constant or counts
    from the end of a rank that is not known.
    """
    fused = 0
    for second in graph:
        if not is_op(second, "Unsqueeze"):
            continue
        first = sole_producer(second.inputs[0], second)
        if first is None or not is_op(first, "Unsqueeze"):
            continue
        axes = _axes(first, second)
        if axes is None:
            leave(second, "its axes, or those of the Unsqueeze before it, are not known")
            continue
        replace([first, second], with_axes(second, first.inputs[0], axes))
        fused += 1
    return fused


def _axes(first: ir.Node, second: ir.Node) -> list[int] | None:
    a, b = axes_of(first), axes_of(second)
    if not a or not b:
        return None
    dims = rank(first.outputs[0])
    inner, outer = from_zero(a, dims), from_zero(b, None if dims is None else dims + len(b))
    if inner is None or outer is None:
        return None
    return [*outer, *(place(axis, outer) for axis in inner)]
