"""Reduction followed by Unsqueeze or Squeeze."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import attributes_except, node_like, replace
from onnxcomp.graph import is_op, rank, sole_consumer
from onnxcomp.passes._axes import axes_of, same_axes
from onnxcomp.registry import Effect, leave, register

ARGUMENTS = ("ArgMax", "ArgMin")
REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)


@register(Effect.EXACT, ops=["Squeeze", "Unsqueeze"])
def fuse_unsqueeze_into_reduce(graph: ir.Graph) -> int:
    """Let a reduction keep its dims where an Unsqueeze puts them back, or drop them for a Squeeze.

    [.., N, ..] -> [.., ..] -> [.., 1, ..] is the reduction with `keepdims`; [.., 1, ..] -> [.., ..]
    is the one without. ArgMax and ArgMin are reductions along one axis.

    Left alone when the axes are not surely those of the reduction, when the reduction has an empty
    list of axes, and when its result is read elsewhere.
    """
    fused = 0
    for reduce in graph:
        if not is_op(reduce, *ARGUMENTS, *REDUCTIONS):
            continue
        keeps = reduce.attributes.get_int("keepdims", 1)
        second = sole_consumer(reduce.outputs[0])
        if second is None or not is_op(second, "Squeeze" if keeps else "Unsqueeze"):
            continue
        dims, axes = rank(reduce.inputs[0]), axes_of(second)
        reduced = _reduced(reduce, dims)
        if not reduced or not axes or not same_axes(reduced, axes, dims):
            leave(second, "its axes are not surely those of the reduction")
            continue
        attributes = attributes_except(reduce, "keepdims")
        attributes.append(ir.AttrInt64("keepdims", 1 - keeps))
        replace([reduce, second], node_like(reduce, reduce.inputs, attributes))
        fused += 1
    return fused


def _reduced(reduce: ir.Node, dims: int | None) -> tuple[int, ...] | None:
    """Return the axes that a node reduces, or None when they are not known."""
    if reduce.op_type in ARGUMENTS:
        return (reduce.attributes.get_int("axis", 0),)
    axes = axes_of(reduce)
    if axes != ():
        return axes
    if dims is None or reduce.attributes.get_int("noop_with_empty_axes", 0) != 0:
        return None
    return tuple(range(dims))
