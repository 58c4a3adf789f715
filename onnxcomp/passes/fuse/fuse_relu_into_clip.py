"""Relu before or after Clip."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import replace
from onnxcomp.graph import is_op, sole_producer
from onnxcomp.passes.fuse._clip import Bounds, bounds_of, clip_like
from onnxcomp.registry import Effect, leave, register


@register(Effect.EXACT, ops=["Clip"])
def fuse_relu_into_clip(graph: ir.Graph, opset: int) -> int:
    """Replace Relu and Clip in a row, in either order, by one Clip.

    Relu is max(x, 0). Before: min(max(max(x, 0), a), b) = clip(x, max(0, a), b). After:
    max(min(max(x, a), b), 0) = clip(x, max(a, 0), max(b, 0)). NaN and the sign of zero pass through
    both forms alike: the runtime's max and min keep x unless the bound is strictly beyond it.

    Left alone when the intermediate is read elsewhere, when a bound is not constant or is NaN, and
    when the type of a bound to add is not known.
    """
    fused = 0
    for second in graph:
        if not is_op(second, "Clip", "Relu"):
            continue
        first = sole_producer(second.inputs[0], second)
        wanted = "Clip" if second.op_type == "Relu" else "Relu"
        if first is None or not is_op(first, wanted) or first.inputs[0] is None:
            continue
        clip = first if wanted == "Clip" else second
        bounds = bounds_of(clip, opset)
        if bounds is None:
            continue
        dtype = _type(bounds, [first.inputs[0], second.inputs[0], second.outputs[0]])
        if dtype is None:
            leave(clip, "the type of its bounds is not known")
            continue
        zero = dtype.type(0)
        relu = Bounds(zero, None, bounds.as_inputs)
        if clip is second:
            low, high = bounds.apply(zero), bounds.high
        else:
            low = zero if bounds.low is None else relu.apply(bounds.low)
            high = relu.apply(bounds.high)
        merged = Bounds(low, high, bounds.as_inputs)
        name = second.outputs[0].name or "clip"
        replace([first, second], clip_like(clip, first.inputs[0], merged, name))
        fused += 1
    return fused


def _type(bounds: Bounds, values: list[ir.Value | None]) -> np.dtype[np.generic] | None:
    """Return the type of the bounds: theirs if they have one, else that of the values clipped."""
    if not bounds.as_inputs:
        return np.dtype(np.float32)
    for bound in (bounds.low, bounds.high):
        if bound is not None:
            return bound.dtype
    for value in values:
        if value is not None and isinstance(value.type, ir.TensorType):
            return value.type.dtype.numpy()
    return None
