"""Reshape after a node that only reshapes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant
from onnxcomp.graph import integers, is_op, same_dim
from onnxcomp.registry import Effect, leave, register


@register(Effect.EXACT, ops=["Reshape"])
def fuse_consecutive_reshapes(graph: ir.Graph) -> int:
    """Let a Reshape read what the Reshape, Flatten, Squeeze or Unsqueeze nodes before it read.

    The order of the elements is that of the first input, so only the last shape counts. A 0 in it
    copies a dim of the intermediate: it stays where the first input has the same dim in that
    place, and becomes a number where that dim is a known, positive one.

    Left alone when a 0 copies a dim that is not known, and when the last shape is not constant and
    so may hold such a 0.
    """
    fused = 0
    for second in graph:
        if not is_op(second, "Reshape") or len(second.inputs) < 2:
            continue
        source = _before_reshapes(second.inputs[0])
        if source is None or source is second.inputs[0]:
            continue
        zero_copies = second.attributes.get_int("allowzero", 0) == 0
        target = integers(second.inputs[1])
        if target is None and zero_copies:
            leave(second, "its shape is not constant and may copy a dim")
            continue
        if target is not None and zero_copies and 0 in target:
            resolved = _resolved(target, second.inputs[0], source)
            if resolved is None:
                leave(second, "its shape copies a dim that is not known")
                continue
            if resolved != target:
                shape = np.array(resolved, dtype=np.int64)
                name = f"{second.outputs[0].name}.shape"
                second.replace_input_with(1, add_constant(graph, shape, name))
        second.replace_input_with(0, source)
        fused += 1
    return fused


def _before_reshapes(value: ir.Value | None) -> ir.Value | None:
    """Return the value that a chain of reshaping nodes starts from."""
    node = value.producer() if value is not None else None
    while node is not None and is_op(node, "Reshape", "Flatten", "Squeeze", "Unsqueeze"):
        value = node.inputs[0]
        node = value.producer() if value is not None else None
    return value


def _resolved(
    target: tuple[int, ...], middle: ir.Value | None, source: ir.Value
) -> tuple[int, ...] | None:
    """Return the shape with its zeros right for `source` in the place of `middle`, or None."""
    dims = list(middle.shape or ()) if middle is not None else []
    originals = list(source.shape or ())
    resolved = list(target)
    for index, number in enumerate(target):
        if number != 0:
            continue
        dim = dims[index] if index < len(dims) else None
        if dim is None:
            return None
        if isinstance(dim, int) and dim > 0:
            resolved[index] = dim
        elif index >= len(originals) or not same_dim(dim, originals[index]):
            return None
    return tuple(resolved)
