"""Slice, Split and Gather that take the inputs of a Concat apart again."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, bypass, node_like, remove, replace, take_over
from onnxcomp.graph import integers, is_op, rank, sole_consumer
from onnxcomp.passes._slices import TO_THE_END, cuts_of, size_of
from onnxcomp.registry import Effect, leave, register

AXES_INPUT_FROM = 13  # of Squeeze


@register(Effect.EXACT, ops=["Concat"])
def eliminate_slice_of_concat(graph: ir.Graph, opset: int) -> int:
    """Let the readers of a part of a Concat read the input that this part is.

    Slice(Concat(a, b, c), axis, |a|, |a| + |b|) = b, for Split into the very sizes of the inputs
    and for Gather of the place of an input of size 1 too; a Gather by a scalar becomes a Squeeze.
    A Slice that takes several inputs, and alone reads the Concat, leaves a Concat of these.

    Left alone when the sizes along the axis, up to the part, are not known; when the part is no
    whole input; when the Slice has a step or cuts another axis too; and when the result is a graph
    output that the input cannot be.
    """
    changed = 0
    for node in graph:
        if not is_op(node, "Slice", "Split", "Gather") or node.inputs[0] is None:
            continue
        concat = node.inputs[0].producer()
        if concat is None or not is_op(concat, "Concat"):
            continue
        dims = rank(concat.outputs[0])
        axis = concat.attributes.get_int("axis", 1)  # 1 before opset 4
        axis = axis if dims is None else axis % dims
        if node.op_type == "Slice":
            changed += _slice(node, concat, axis)
        elif _axis(node, dims) != axis:
            continue
        elif node.op_type == "Split":
            changed += _split(node, concat, axis)
        else:
            changed += _gather(graph, node, concat, axis, opset)
    return changed


def _slice(node: ir.Node, concat: ir.Node, axis: int) -> bool:
    cuts, edges = cuts_of(node), _edges(concat, axis)
    if cuts is None or cuts.keys() != {axis} or cuts[axis].step != 1:
        return False
    cut = cuts[axis].within(edges[-1] if len(edges) > len(concat.inputs) else None)
    last = len(concat.inputs) if cut.end >= TO_THE_END else _index(edges, cut.end)
    first = _index(edges, cut.start)
    if first is None or last is None or first >= last:
        leave(node, "what it takes is not surely whole inputs of the Concat")
        return False
    if last == first + 1:
        return _bypass(node, concat.inputs[first])
    if sole_consumer(concat.outputs[0]) is not node:
        return False
    replace([concat, node], node_like(concat, concat.inputs[first:last]))
    return True


def _split(node: ir.Node, concat: ir.Node, axis: int) -> bool:
    edges = _edges(concat, axis)
    sizes = [after - before for before, after in pairwise(edges)]
    if len(node.outputs) != len(concat.inputs) or len(sizes) != len(node.outputs):
        return False
    given = len(node.inputs) > 1 and node.inputs[1] is not None
    wanted = integers(node.inputs[1]) if given else node.attributes.get_ints("split", ())
    if wanted is None or list(wanted or [sizes[0]] * len(sizes)) != sizes:
        leave(node, "its sizes are not surely those of the inputs of the Concat")
        return False
    if any(output.is_graph_output() for output in node.outputs):
        leave(node, "a result is a graph output")
        return False
    for output, value in zip(node.outputs, concat.inputs, strict=True):
        if value is not None:
            take_over(value, output)
    remove(node)
    return True


def _gather(graph: ir.Graph, node: ir.Node, concat: ir.Node, axis: int, opset: int) -> bool:
    indices, edges, dims = integers(node.inputs[1]), _edges(concat, axis), rank(node.inputs[1])
    if indices is None or len(indices) != 1 or dims is None or dims > 1:
        return False
    index = indices[0]
    if index < 0 and len(edges) > len(concat.inputs):
        index += edges[-1]
    first = _index(edges[:-1], index)
    if first is None or size_of(concat.inputs[first], axis) != 1:
        leave(node, "what it takes is not surely a whole input of the Concat")
        return False
    if dims == 1:
        return _bypass(node, concat.inputs[first])
    inputs, attributes = [concat.inputs[first]], []
    if opset >= AXES_INPUT_FROM:
        name = f"{node.outputs[0].name}.axes"
        inputs.append(add_constant(graph, np.array([axis], dtype=np.int64), name))
    else:
        attributes.append(ir.AttrInt64s("axes", [axis]))
    replace([node], ir.Node("", "Squeeze", inputs, attributes, name=node.name))
    return True


def _bypass(node: ir.Node, source: ir.Value | None) -> bool:
    if bypass(node, source):
        return True
    leave(node, "its result is a graph output, which its source cannot be")
    return False


def _axis(node: ir.Node, dims: int | None) -> int:
    axis = node.attributes.get_int("axis", 0)
    return axis if dims is None else axis % dims


def _edges(concat: ir.Node, axis: int) -> list[int]:
    """Return where the inputs of a Concat begin and the last ends, as far as that is known."""
    edges = [0]
    for value in concat.inputs:
        size = size_of(value, axis)
        if size is None:
            break
        edges.append(edges[-1] + size)
    return edges


def _index(edges: list[int], place: int) -> int | None:
    return edges.index(place) if place in edges else None
