"""Squeeze after Squeeze."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import node_like, replace
from onnxcomp.graph import is_op, rank, sole_producer
from onnxcomp.passes._axes import axes_of, from_zero, place, with_axes
from onnxcomp.registry import Effect, leave, register


@register(Effect.EXACT, ops=["Squeeze"])
def fuse_consecutive_squeezes(graph: ir.Graph) -> int:
    """Replace two Squeeze nodes in a row by one.

    The axes of the second count the dims that the first leaves: axes = a + [place of b among those
    that a leaves]. A second without axes drops every dim of 1, those of the first too, so then the
    one node has no axes.

    Left alone when the intermediate is read elsewhere, when an axis is not constant or counts from
    the end of a rank that is not known, and when only the first has no axes.
    """
    fused = 0
    for second in graph:
        if not is_op(second, "Squeeze"):
            continue
        first = sole_producer(second.inputs[0], second)
        if first is None or not is_op(first, "Squeeze"):
            continue
        a, b = axes_of(first), axes_of(second)
        if b == ():
            replace([first, second], node_like(second, [first.inputs[0]], []))
            fused += 1
            continue
        axes = _axes(a, b, rank(first.inputs[0])) if a and b else None
        if axes is None:
            leave(second, "its axes, or those of the Squeeze before it, are not known")
            continue
        replace([first, second], with_axes(second, first.inputs[0], axes))
        fused += 1
    return fused


def _axes(a: tuple[int, ...], b: tuple[int, ...], dims: int | None) -> list[int] | None:
    inner = from_zero(a, dims)
    outer = from_zero(b, None if dims is None else dims - len(a))
    if inner is None or outer is None:
        return None
    return [*inner, *(place(axis, inner) for axis in outer)]
