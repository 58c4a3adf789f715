"""Slice that keeps everything."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxcomp.edits import bypass
from onnxcomp.graph import integers, is_op
from onnxcomp.registry import Effect, leave, register

TO_THE_END = 2**31 - 1  # what exporters write where no end is meant, or more


@register(Effect.EXACT, ops=["Slice"])
def eliminate_noop_slice(graph: ir.Graph) -> int:
    """Drop Slice nodes that keep every element.

    On each sliced axis the step is 1, the start is 0 (or at or before -dim), and the end is at or
    after the dim. An end of 2^31 - 1 or more is after any dim, so the dim need not be known.

    Left alone when a bound is not constant, when a dim that matters is not known, and when the
    result is a graph output and the source cannot take that place.
    """
    dropped = 0
    for node in graph:
        if not is_op(node, "Slice") or not _keeps_everything(node):
            continue
        if not bypass(node):
            leave(node, "its result is a graph output, which its source cannot be")
            continue
        dropped += 1
    return dropped


def _keeps_everything(node: ir.Node) -> bool:
    starts, ends = _numbers(node, 1, "starts"), _numbers(node, 2, "ends")
    if starts is None or ends is None or len(starts) != len(ends):
        return False
    axes = _numbers(node, 3, "axes", range(len(starts)))
    steps = _numbers(node, 4, "steps", [1] * len(starts))
    if axes is None or steps is None or len(axes) != len(starts) or set(steps) - {1}:
        return False
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    for start, end, axis in zip(starts, ends, axes, strict=True):
        known = shape is not None and -len(shape) <= axis < len(shape)
        dim = shape[axis] if shape is not None and known else None
        size = dim if isinstance(dim, int) and dim >= 0 else None
        if start != 0 and (size is None or start > -size):
            return False
        if end < TO_THE_END and (size is None or end < size):
            return False
    return True


def _numbers(
    node: ir.Node, index: int, name: str, default: Sequence[int] | None = None
) -> Sequence[int] | None:
    """Return an operand, an input from opset 10 and an attribute before, or None if not known."""
    if len(node.inputs) > index and node.inputs[index] is not None:
        return integers(node.inputs[index])
    return node.attributes.get_ints(name, default)
