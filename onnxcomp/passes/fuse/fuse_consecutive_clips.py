"""Clip after Clip."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import replace
from onnxcomp.graph import is_op, sole_producer
from onnxcomp.passes.fuse._clip import Bounds, bounds_of, clip_like
from onnxcomp.registry import Effect, register


@register(Effect.EXACT, ops=["Clip"])
def fuse_consecutive_clips(graph: ir.Graph, opset: int) -> int:
    """Replace two Clip nodes in a row by one.

    With clip(x, a, b) = min(max(x, a), b), and max and min distributive over each other,
    clip(clip(x, a, b), c, d) = clip(x, clip(a, c, d), clip(b, c, d)). That holds for disjoint
    ranges too, where the result is the bound of the second that is nearer to the first. NaN passes
    through one Clip as through two.

    Left alone when the intermediate is read elsewhere, and when a bound is not constant, is NaN or
    is an infinity that leaves no number.
    """
    fused = 0
    for second in graph:
        if not is_op(second, "Clip"):
            continue
        first = sole_producer(second.inputs[0], second)
        if first is None or not is_op(first, "Clip") or first.inputs[0] is None:
            continue
        inner, outer = bounds_of(first, opset), bounds_of(second, opset)
        if inner is None or outer is None or _is_empty(inner) or _is_empty(outer):
            continue
        bounds = Bounds(_low(inner, outer), _high(inner, outer), inner.as_inputs)
        name = second.outputs[0].name or "clip"
        replace([first, second], clip_like(second, first.inputs[0], bounds, name))
        fused += 1
    return fused


def _low(inner: Bounds, outer: Bounds) -> np.generic | None:
    """Return clip(a, c, d); an absent bound is the last finite number, so it limits infinity."""
    if inner.low is None or (outer.low is None and np.isinf(inner.low)):
        return None if outer.low is not None and np.isinf(outer.low) else outer.low
    return outer.apply(inner.low)


def _high(inner: Bounds, outer: Bounds) -> np.generic | None:
    """Return clip(b, c, d), likewise."""
    if inner.high is None or (outer.high is None and np.isinf(inner.high)):
        return None if outer.high is not None and np.isinf(outer.high) else outer.high
    return outer.apply(inner.high)


def _is_empty(bounds: Bounds) -> bool:
    """Say whether no finite number is in the range, so that infinity is the result."""
    return bool(bounds.low == np.inf or bounds.high == -np.inf)
