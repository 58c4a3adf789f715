"""Transpose that moves nothing."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxcomp.edits import bypass
from onnxcomp.graph import is_op, rank, static_shape
from onnxcomp.registry import Effect, leave, register


@register(Effect.EXACT, ops=["Transpose"])
def eliminate_noop_transpose(graph: ir.Graph) -> int:
    """Drop Transpose nodes that leave every element where it is.

    That is when `perm` is 0, 1, 2, ..., and also when only axes of size 1 trade places without
    changing the shape. Without `perm` the axes are reversed, which is nothing up to rank 1.

    Left alone when the rank is not known and there is no `perm`, and when the result is a graph
    output and the source cannot take that place.
    """
    dropped = 0
    for node in graph:
        if not is_op(node, "Transpose"):
            continue
        if not _moves_nothing(node):
            continue
        if not bypass(node):
            leave(node, "its result is a graph output, which its source cannot be")
            continue
        dropped += 1
    return dropped


def _moves_nothing(node: ir.Node) -> bool:
    dims = rank(node.inputs[0])
    reverse = None if dims is None else list(range(dims))[::-1]
    perm: Sequence[int] | None = node.attributes.get_ints("perm", reverse)
    if perm is None:
        return False
    shape = static_shape(node.inputs[0])
    if shape is None or len(shape) != len(perm):
        return list(perm) == sorted(perm)
    moved = [axis for axis in perm if shape[axis] != 1]
    return moved == sorted(moved) and shape == tuple(shape[axis] for axis in perm)
