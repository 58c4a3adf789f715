"""Reshape, Flatten, Squeeze, Unsqueeze and Expand to the shape that a value has."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxcomp.edits import bypass
from onnxcomp.graph import integers, is_op, rank, same_dim, same_shape, static_shape
from onnxcomp.registry import Effect, leave, register

Dim = int | ir.SymbolicDim | None


@register(Effect.EXACT, ops=["Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand"])
def eliminate_noop_reshape(graph: ir.Graph) -> int:
    """Drop Reshape, Flatten, Squeeze, Unsqueeze and Expand nodes that keep the shape.

    Every dim of the result must surely equal the input's: equal numbers, one name, a 0 of Reshape
    that copies it, or a shape operand that is Shape of the very input. One dim may stay unknown
    where the element count settles it: d * k = d' * k with k > 0 gives d = d'.

    Left alone when that cannot be proved, and when the result is a graph output and the source
    cannot take that place.
    """
    dropped = 0
    for node in graph:
        if not is_op(node, *_KEEPS_SHAPE):
            continue
        if node.inputs[0] is None or not _KEEPS_SHAPE[node.op_type](node, node.inputs[0]):
            continue
        if not bypass(node):
            leave(node, "its result is a graph output, which its source cannot be")
            continue
        dropped += 1
    return dropped


def _reshape(node: ir.Node, source: ir.Value) -> bool:
    operand = node.inputs[1] if len(node.inputs) > 1 else None
    if _is_shape_of(operand, source):
        return True
    target = integers(operand) if operand is not None else node.attributes.get_ints("shape")
    if target is None or source.shape is None or len(source.shape) != len(target):
        return _same_elements(_dims(source), _dims(node.outputs[0]))
    zero_copies = node.attributes.get_int("allowzero", 0) == 0
    dims: list[Dim] = list(source.shape)
    wanted: list[Dim] = []
    for dim, number in zip(dims, target, strict=True):
        wanted.append(dim if number == 0 and zero_copies else None if number == -1 else number)
    unsure = [
        index
        for index, (dim, number) in enumerate(zip(dims, target, strict=True))
        if not (number == 0 and zero_copies) and not _equal(dim, wanted[index])
    ]
    if len(unsure) <= 1 and all(target[index] == -1 for index in unsure):
        return True  # the rest is equal, and -1 takes what the rest leaves
    return _same_elements(dims, wanted) or _same_elements(dims, _dims(node.outputs[0]))


def _flatten(node: ir.Node, source: ir.Value) -> bool:
    if rank(source) == 2 and node.attributes.get_int("axis", 1) in (1, -1):
        return True
    return _same_elements(_dims(source), _dims(node.outputs[0]))


def _squeeze(node: ir.Node, source: ir.Value) -> bool:
    if _axes(node) or (len(node.inputs) > 1 and node.inputs[1] is not None and _axes(node) is None):
        return False
    shape = static_shape(source)  # every dim of 1 goes, so a dim that may be 1 is in the way
    return shape is not None and 1 not in shape


def _unsqueeze(node: ir.Node, source: ir.Value) -> bool:  # noqa: ARG001
    return _axes(node) == ()


def _expand(node: ir.Node, source: ir.Value) -> bool:
    if _is_shape_of(node.inputs[1], source) or same_shape(source, node.outputs[0]):
        return True
    target = integers(node.inputs[1])
    if target is None or source.shape is None or len(target) > len(source.shape):
        return False
    dims = list(source.shape)[len(source.shape) - len(target) :]
    return all(number == 1 or _equal(dim, number) for dim, number in zip(dims, target, strict=True))


_KEEPS_SHAPE = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
}


def _axes(node: ir.Node) -> tuple[int, ...] | None:
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        return integers(node.inputs[1])
    axes = node.attributes.get_ints("axes")
    return None if axes is None else tuple(axes)


def _is_shape_of(operand: ir.Value | None, source: ir.Value) -> bool:
    shape = operand.producer() if operand is not None else None
    if shape is None or not is_op(shape, "Shape") or shape.inputs[0] is not source:
        return False
    return not shape.attributes  # `start` and `end` cut the shape


def _dims(value: ir.Value) -> list[Dim] | None:
    return None if value.shape is None else list(value.shape)


def _same_elements(old: Sequence[Dim] | None, new: Sequence[Dim] | None) -> bool:
    """Say whether two shapes of one element count are surely equal."""
    if old is None or new is None or len(old) != len(new):
        return False
    pairs = list(zip(old, new, strict=True))
    unsure = sum(not _equal(a, b) for a, b in pairs)
    positive = [a for a, b in pairs if _equal(a, b) and isinstance(a, int) and a > 0]
    return unsure == 0 or (unsure == 1 and len(positive) == len(pairs) - 1)


def _equal(first: Dim, second: Dim) -> bool:
    return first is not None and second is not None and same_dim(first, second)
