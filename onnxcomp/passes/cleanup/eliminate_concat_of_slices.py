"""Concat that puts slices back together."""

from __future__ import annotations

from itertools import pairwise

import onnx_ir as ir

from onnxcomp.edits import bypass, replace
from onnxcomp.graph import is_op, rank
from onnxcomp.passes._slices import TO_THE_END, Cut, cuts_of, size_of, slice_like
from onnxcomp.registry import Effect, leave, register


@register(Effect.EXACT, ops=["Slice"])
def eliminate_concat_of_slices(graph: ir.Graph) -> int:
    """Drop a Concat of neighbouring slices of one value, along the axis that they cut.

    Concat(x[a:b], x[b:c], .., x[y:z]) = x[a:z], which is x where that is all of it, and one Slice
    else. At an open size this needs a <= b <= c: two ends that count from the same side tell, and
    0 comes before, and the end after, every other.

    Left alone when the slices are of several values, cut other axes too, have a step, are not in
    order or leave a gap, and when a bound is not constant.
    """
    changed = 0
    for concat in graph:
        if not is_op(concat, "Concat") or len(concat.inputs) < 2:
            continue
        first = concat.inputs[0].producer() if concat.inputs[0] is not None else None
        if first is None or not is_op(first, "Slice"):
            continue
        source = first.inputs[0]
        dims = rank(source)
        axis = concat.attributes.get_int("axis", 1)  # 1 before opset 4
        axis = axis if dims is None else axis % dims
        whole = _range(concat, source, axis)
        if source is None or whole is None:
            continue
        if not whole.keeps_all(size_of(source, axis)):
            new = slice_like(first, source, {axis: whole})
            new.name = concat.name
            replace([concat], new)
        elif not bypass(concat, source):
            leave(concat, "its result is a graph output, which its source cannot be")
            continue
        changed += 1
    return changed


def _range(concat: ir.Node, source: ir.Value | None, axis: int) -> Cut | None:
    """Return what the slices of `source` in a Concat take together, or None."""
    cuts: list[Cut] = []
    for value in concat.inputs:
        node = value.producer() if value is not None else None
        if node is None or not is_op(node, "Slice") or node.inputs[0] is not source:
            return None
        found = cuts_of(node)
        if found is None or found.keys() != {axis} or found[axis].step != 1:
            return None
        cuts.append(found[axis])
    if any(before.end != after.start for before, after in pairwise(cuts)):
        return None
    edges = [cuts[0].start, *(cut.end for cut in cuts)]
    if not all(_in_order(*pair) for pair in pairwise(edges)):
        return None
    return Cut(edges[0], edges[-1])


def _in_order(first: int, second: int) -> bool:
    """Say whether one bound is surely not after another, at any size of the axis."""
    if (first < 0) == (second < 0):
        return first <= second
    return first == 0 or second >= TO_THE_END
