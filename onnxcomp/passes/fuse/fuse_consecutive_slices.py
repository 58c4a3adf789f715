"""Slice after Slice."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from onnxcomp.edits import replace
from onnxcomp.graph import is_op, sole_producer
from onnxcomp.passes._slices import TO_THE_END, Cut, cuts_of, size_of, slice_like
from onnxcomp.registry import Effect, leave, register


@register(Effect.EXACT, ops=["Slice"])
def fuse_consecutive_slices(graph: ir.Graph) -> int:
    """Replace two Slice nodes in a row by one.

    On different axes they do not touch each other. On one axis x[a:b:p][c:d:q] with a, b, c, d >= 0
    is x[a + c p : min(b, a + d p) : p q] at any size; an open end lets the other end count, also
    one that is counted from the end.

    Left alone when the intermediate is read elsewhere; when a bound is not constant; and on one
    axis when a step goes backwards, or the bounds count from an end that is not known.
    """
    fused = 0
    for second in graph:
        if not is_op(second, "Slice"):
            continue
        first = sole_producer(second.inputs[0], second)
        if first is None or not is_op(first, "Slice"):
            continue
        inner, outer = cuts_of(first), cuts_of(second)
        if inner is None or outer is None:
            leave(second, "a bound of it or of the Slice before it is not known")
            continue
        cuts = _composed(inner, outer, first.inputs[0])
        if cuts is None:
            leave(second, "what the two take together depends on a size that is not known")
            continue
        if not cuts:
            continue  # neither takes anything away
        replace([first, second], slice_like(second, first.inputs[0], cuts))
        fused += 1
    return fused


def _composed(
    inner: Mapping[int, Cut], outer: Mapping[int, Cut], source: ir.Value | None
) -> dict[int, Cut] | None:
    """Return the cuts of both, or None when they are not known."""
    cuts = {**inner, **outer}
    for axis in inner.keys() & outer.keys():
        both = _compose(inner[axis], outer[axis], size_of(source, axis))
        if both is None:
            return None
        cuts[axis] = both
    return cuts


def _compose(first: Cut, second: Cut, dim: int | None) -> Cut | None:
    if first.step < 1 or second.step < 1:
        return None
    if dim is not None:
        second = second.within(-(-(first.end - first.start) // first.step))
    if first.start < 0 or second.start < 0:
        return None
    start = first.start + second.start * first.step
    step = first.step * second.step
    if second.end >= TO_THE_END:
        return Cut(start, first.end, step)
    if second.end >= 0 and first.end >= 0:
        return Cut(start, min(first.end, first.start + second.end * first.step), step)
    if first.end >= TO_THE_END and first.step == 1:
        return Cut(start, second.end, step)
    return None
