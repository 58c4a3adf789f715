"""Concat, Split, Sum, Mean, Max and Min of one part."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import bypass, node_like, remove, replace
from onnxcomp.graph import is_op, rank
from onnxcomp.passes._broadcast import dims_of
from onnxcomp.registry import Effect, leave, register


@register(Effect.EXACT, ops=["Concat", "Split", "Sum", "Mean", "Max", "Min"])
def eliminate_noop_concat(graph: ir.Graph) -> int:
    """Drop nodes that join one part, take one part apart, or join what a Split took apart.

    Concat, Sum, Mean, Max and Min of one operand are that operand, as is Split into one piece.
    Concat of all pieces of one Split, in order and on its axis, is what was split. Operands of
    Concat that have no element, by a dim of 0 on the axis, are left out.

    Left alone when pieces are missing or in another order, and when the result is a graph output
    and the source cannot take that place.
    """
    changed = 0
    for node in graph:
        if is_op(node, "Concat"):
            changed += _simplify_concat(node)
            continue
        operands = node.outputs if is_op(node, "Split") else node.inputs
        if not is_op(node, "Split", "Sum", "Mean", "Max", "Min") or len(operands) != 1:
            continue
        if not bypass(node):
            leave(node, "its result is a graph output, which its source cannot be")
            continue
        changed += 1
    return changed


def _simplify_concat(node: ir.Node) -> bool:
    axis = node.attributes.get_int("axis", 1)  # the default of opset 1
    parts = [value for value in node.inputs if not _is_empty(value, axis)] or [node.inputs[0]]
    split = _split_of(node, axis)
    source = parts[0] if len(parts) == 1 else None if split is None else split.inputs[0]
    if source is not None:
        if bypass(node, source):
            if split is not None and not any(_is_read(output) for output in split.outputs):
                remove(split)
            return True
        leave(node, "its result is a graph output, which its source cannot be")
    if len(parts) == len(node.inputs):
        return False
    replace([node], node_like(node, parts))
    return True


def _is_empty(value: ir.Value | None, axis: int) -> bool:
    dims = dims_of(value)
    return dims is not None and dims[axis] == 0


def _split_of(concat: ir.Node, axis: int) -> ir.Node | None:
    """Return the Split whose pieces a Concat joins as they were, or None."""
    split = None if concat.inputs[0] is None else concat.inputs[0].producer()
    if split is None or not is_op(split, "Split") or len(split.outputs) != len(concat.inputs):
        return None
    if any(a is not b for a, b in zip(split.outputs, concat.inputs, strict=True)):
        return None
    other = split.attributes.get_int("axis", 0)
    dims = rank(split.inputs[0]) or rank(concat.inputs[0])
    return split if axis == other or (dims and axis % dims == other % dims) else None


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()
