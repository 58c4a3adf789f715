"""Slice nodes that part one value."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, remove, take_over
from onnxcomp.graph import is_op
from onnxcomp.passes._slices import cuts_of, size_of
from onnxcomp.registry import Effect, leave, register

Part = tuple[int, int, ir.Node]  # start, end, and the Slice that takes it
ANY_TYPE_FROM, INPUT_FROM = 2, 13


@register(Effect.EXACT, ops=["Slice"])
def fuse_slices_into_split(graph: ir.Graph, opset: int) -> int:
    """Replace the Slice nodes that part a value along one axis by one Split.

    x[0:a], x[a:b], .., x[z:dim] = Split(x, [a, b - a, .., dim - z]).

    Left alone when the slices of that value along that axis do not cover it, overlap, are empty,
    or have a step; when a Slice cuts along two axes; and when the size of the axis is not known.
    """
    if opset < ANY_TYPE_FROM:
        return 0
    groups: dict[tuple[ir.Value, int], list[Part]] = {}
    for node in graph:
        cuts = cuts_of(node) if is_op(node, "Slice") else None
        if cuts is None or len(cuts) != 1 or node.inputs[0] is None:
            continue
        ((axis, cut),) = cuts.items()
        if size_of(node.inputs[0], axis) is not None and cut.step == 1:
            groups.setdefault((node.inputs[0], axis), []).append((cut.start, cut.end, node))
    fused = 0
    for (source, axis), parts in groups.items():
        if len(parts) < 2:
            continue
        first = parts[0][2]
        parts.sort(key=lambda part: part[:2])
        if not _cover(parts, size_of(source, axis)):
            leave(first, "the slices of its input along its axis are not exactly all of it")
            continue
        _split(graph, source, axis, parts, first, opset)
        fused += 1
    return fused


def _cover(parts: list[Part], dim: int | None) -> bool:
    if parts[0][0] != 0 or parts[-1][1] != dim:
        return False
    if any(start == end for start, end, _ in parts):
        return False
    return all(before[1] == after[0] for before, after in pairwise(parts))


def _split(
    graph: ir.Graph, source: ir.Value, axis: int, parts: list[Part], first: ir.Node, opset: int
) -> None:
    sizes = [end - start for start, end, _ in parts]
    inputs, attributes = [source], [ir.AttrInt64("axis", axis)]
    if opset >= INPUT_FROM:
        stem = first.outputs[0].name or "split"
        inputs.append(add_constant(graph, np.array(sizes, dtype=np.int64), f"{stem}.split"))
    else:
        attributes.append(ir.AttrInt64s("split", sizes))
    split = ir.Node("", "Split", inputs, attributes, num_outputs=len(parts), name=first.name)
    graph.insert_before(first, split)
    for new, (_, _, node) in zip(split.outputs, parts, strict=True):
        old = node.outputs[0]
        name = old.name
        take_over(new, old)
        old.name, new.name = None, name
        remove(node)
