"""Transpose followed by a reduction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, attributes_except, node_like, replace
from onnxcomp.graph import is_op, rank, sole_producer
from onnxcomp.passes._axes import axes_of, from_zero
from onnxcomp.registry import Effect, leave, register

ARGUMENTS = ("ArgMax", "ArgMin")
REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)


@register(Effect.CLOSE, ops=["Transpose"])
def push_transpose_into_reduce(graph: ir.Graph) -> int:
    """Reduce the axes of a value as it is stored, instead of those of its Transpose.

    Axis a of the transposed value is axis p[a] of the stored one, so [N, C, H, W] -> [N, H, W, C]
    reduced along H and W is [N, C, H, W] reduced along H and W. ArgMax and ArgMin reduce one axis.

    Left alone when the axes are not known, or not the last ones of the stored value: runtimes
    reduce memory in a row, and others take longer than the Transpose and the reduction; when the
    axes that stay change places; and when the transposed value is read elsewhere.
    """
    pushed = 0
    for reduce in graph:
        if not is_op(reduce, *ARGUMENTS, *REDUCTIONS):
            continue
        transpose = sole_producer(reduce.inputs[0], reduce)
        if transpose is None or not is_op(transpose, "Transpose"):
            continue
        perm = _perm_of(transpose)
        axes = None if perm is None else _reduced(reduce, len(perm))
        if perm is None or axes is None:
            leave(reduce, "its axes are not known")
            continue
        stored = sorted(perm[axis] for axis in axes)
        staying = [axis for place, axis in enumerate(perm) if place not in axes]
        keeps = reduce.attributes.get_int("keepdims", 1) != 0
        if staying != list(range(len(staying))) or (keeps and stored != list(axes)):
            leave(reduce, "it does not reduce the last axes of what is stored, or others move")
            continue
        replace([transpose, reduce], _along(reduce, transpose.inputs[0], stored))
        pushed += 1
    return pushed


def _perm_of(transpose: ir.Node) -> list[int] | None:
    perm, dims = transpose.attributes.get_ints("perm"), rank(transpose.inputs[0])
    if perm is not None:
        return list(perm)
    return None if dims is None else list(range(dims))[::-1]


def _reduced(reduce: ir.Node, dims: int) -> tuple[int, ...] | None:
    """Return the axes that a node reduces, counted from 0, or None when they are not known."""
    if is_op(reduce, *ARGUMENTS):
        return from_zero([reduce.attributes.get_int("axis", 0)], dims)
    axes = axes_of(reduce)
    if axes == () and reduce.attributes.get_int("noop_with_empty_axes", 0) == 0:
        return tuple(range(dims))
    return from_zero(axes, dims) if axes else None


def _along(reduce: ir.Node, source: ir.Value | None, axes: Sequence[int]) -> ir.Node:
    """Return a reduction of `source` along axes, in the form that a node has."""
    if is_op(reduce, *ARGUMENTS):
        attributes = [*attributes_except(reduce, "axis"), ir.AttrInt64("axis", axes[0])]
        return node_like(reduce, [source], attributes)
    if "axes" in reduce.attributes:
        attributes = [*attributes_except(reduce, "axes"), ir.AttrInt64s("axes", axes)]
        return node_like(reduce, [source], attributes)
    if axes_of(reduce) == ():
        return node_like(reduce, [source])
    assert reduce.graph is not None
    name = f"{reduce.outputs[0].name}.axes"
    return node_like(reduce, [source, add_constant(reduce.graph, np.array(axes), name)])
