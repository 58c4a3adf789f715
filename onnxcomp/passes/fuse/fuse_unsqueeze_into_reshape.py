"""Unsqueeze or Squeeze after a Reshape."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, replace
from onnxcomp.graph import integers, is_op, sole_producer
from onnxcomp.passes._axes import axes_of, from_zero
from onnxcomp.registry import Effect, leave, register


@register(Effect.EXACT, ops=["Reshape"])
def fuse_unsqueeze_into_reshape(graph: ir.Graph) -> int:
    """Let a Reshape give the dims of 1 that an Unsqueeze adds after it, or a Squeeze takes away.

    Reshape to [-1, 6] and Unsqueeze at axis 1 are a Reshape to [-1, 1, 6]. A 0 in the shape copies
    the dim of the input in its own place: it stays where no dim before it comes or goes, and
    becomes -1 where it is the only open dim.

    Left alone when the reshaped value is read elsewhere, when the shape or the axes are not
    constant, when a dim that a Squeeze takes is not 1 in the shape, and when a 0 would move.
    """
    fused = 0
    for node in graph:
        if not is_op(node, "Unsqueeze", "Squeeze"):
            continue
        reshape = sole_producer(node.inputs[0], node)
        if reshape is None or not is_op(reshape, "Reshape") or len(reshape.inputs) < 2:
            continue
        target = integers(reshape.inputs[1])
        if target is None:
            leave(node, "the shape before it is not constant")
            continue
        literal = reshape.attributes.get_int("allowzero", 0) != 0
        dims = _with_axes(node, target)
        shape = _settled(dims, literal=literal) if dims is not None else None
        if shape is None:
            leave(node, "the dims of the Reshape are not known well enough")
            continue
        name = f"{node.outputs[0].name}.shape"
        constant = add_constant(graph, np.array(shape, dtype=np.int64), name)
        attributes = list(reshape.attributes.values())
        replace(
            [reshape, node],
            ir.Node("", "Reshape", [reshape.inputs[0], constant], attributes, name=node.name),
        )
        fused += 1
    return fused


# A dim of the shape, and its place in the Reshape's input where it is a 0.
Dim = tuple[int, int]


def _with_axes(node: ir.Node, target: tuple[int, ...]) -> list[Dim] | None:
    """Return the dims of the shape after the node, each with its place before it."""
    removes = is_op(node, "Squeeze")
    named = axes_of(node)
    axes = from_zero(named, len(target) + (0 if removes else len(named))) if named else None
    if axes is None:
        return None
    places = list(enumerate(target))
    if removes:
        if any(target[axis] != 1 for axis in axes):
            return None
        return [(dim, place) for place, dim in places if place not in axes]
    rest = iter(places)
    dims: list[Dim] = []
    for axis in range(len(target) + len(axes)):
        place, dim = (-1, 1) if axis in axes else next(rest)
        dims.append((dim, place))
    return dims


def _settled(dims: list[Dim], *, literal: bool) -> list[int] | None:
    """Return the shape with zeros where they still copy, or -1 for the only one that does not."""
    shape = [dim for dim, _ in dims]
    if literal:
        return shape
    moved = [axis for axis, (dim, place) in enumerate(dims) if dim == 0 and place != axis]
    if len(moved) + shape.count(-1) > 1 or (moved and shape.count(0) > 1):
        return None
    for axis in moved:
        shape[axis] = -1
    return shape
