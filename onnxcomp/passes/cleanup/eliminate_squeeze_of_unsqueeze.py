"""Squeeze after Unsqueeze, and Unsqueeze after Squeeze."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import bypass, remove, replace
from onnxcomp.graph import is_op, rank, sole_consumer, static_shape
from onnxcomp.passes._axes import axes_of, from_zero, same_axes, with_axes
from onnxcomp.registry import Effect, leave, register


@register(Effect.EXACT, ops=["Squeeze"])
def eliminate_squeeze_of_unsqueeze(graph: ir.Graph) -> int:
    """Drop a Squeeze and an Unsqueeze in a row, in either order, where the second undoes the first.

    Squeeze(Unsqueeze(x, a), a) = x, and Unsqueeze(Squeeze(x, a), a) = x since the dims that a
    Squeeze names are 1. A Squeeze that drops only some of the axes of an Unsqueeze, or these and
    more, leaves one of the two nodes.

    Left alone when the axes are not surely the same, when a Squeeze without axes works on a shape
    that is not known, and when the intermediate is read elsewhere, unless the pair is nothing. A
    pair that is nothing between an input and an output of the graph becomes an Identity.
    """
    changed = 0
    for second in graph:
        if not is_op(second, "Squeeze", "Unsqueeze") or second.inputs[0] is None:
            continue
        first = second.inputs[0].producer()
        if first is None or not is_op(first, "Squeeze", "Unsqueeze"):
            continue
        if first.op_type == second.op_type:
            continue
        alone = sole_consumer(second.inputs[0]) is second
        if not _cancel(first, second):
            rest = _rest(first, second) if alone else None
            if rest is not None:
                replace([first, second], rest)
                changed += 1
            continue
        if bypass(second, first.inputs[0]):
            if alone:
                remove(first)
        elif alone:
            replace([first, second], ir.Node("", "Identity", [first.inputs[0]], name=second.name))
        else:
            leave(second, "its result is a graph output, which its source cannot be")
            continue
        changed += 1
    return changed


def _cancel(first: ir.Node, second: ir.Node) -> bool:
    a, b = axes_of(first), axes_of(second)
    shape = static_shape(first.inputs[0])
    if first.op_type == "Unsqueeze":
        if b == ():
            return shape is not None and 1 not in shape
        dims = rank(first.outputs[0])
    else:
        if a == () and shape is not None:
            a = tuple(axis for axis, dim in enumerate(shape) if dim == 1)
        dims = rank(first.inputs[0])  # that of the result too, if as many dims come as went
    if not a or not b:
        return False
    return same_axes(a, b, dims)


def _rest(first: ir.Node, second: ir.Node) -> ir.Node | None:
    """Return what is left of an Unsqueeze and a Squeeze where one names more axes, or None."""
    a, b = axes_of(first), axes_of(second)
    if first.op_type != "Unsqueeze" or not a or not b:
        return None
    dims = rank(first.outputs[0])
    inner, outer = from_zero(a, dims), from_zero(b, dims)
    if inner is None or outer is None:
        return None
    more, fewer = (inner, outer) if len(inner) > len(outer) else (outer, inner)
    if not set(fewer) < set(more):
        return None
    left = [axis - sum(other < axis for other in fewer) for axis in more if axis not in fewer]
    return with_axes(first if more is inner else second, first.inputs[0], left)
