"""Concat after Concat."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import node_like, replace
from onnxcomp.graph import is_op, rank
from onnxcomp.registry import Effect, register


@register(Effect.EXACT, ops=["Concat"])
def fuse_consecutive_concats(graph: ir.Graph) -> int:
    """Let a Concat take the inputs of the Concat nodes before it, along the same axis.

    Concat(a, Concat(b, c), d) = Concat(a, b, c, d): the intermediate copies are never made.

    Left alone when an intermediate is read elsewhere, since its inputs would then be copied twice,
    and when the axes are not surely the same.
    """
    fused = 0
    for last in reversed(graph):  # from the end, so that a chain is taken apart in one go
        if not is_op(last, "Concat"):
            continue
        inputs, inner = _flattened(last)
        if inner:
            replace([*inner, last], node_like(last, inputs))
            fused += len(inner)
    return fused


def _flattened(last: ir.Node) -> tuple[list[ir.Value | None], list[ir.Node]]:
    """Return the inputs of a Concat and of those that only it reads, and these, in order."""
    inputs: list[ir.Value | None] = []
    inner: dict[ir.Node, None] = {}
    pending = list(reversed(last.inputs))
    owners = [last] * len(pending)
    while pending:
        value, owner = pending.pop(), owners.pop()
        node = value.producer() if value is not None else None
        if value is None or node is None or not _merges(node, value, owner):
            inputs.append(value)
            continue
        inner[node] = None
        pending += reversed(node.inputs)
        owners += [node] * len(node.inputs)
    return inputs, list(reversed(inner))


def _merges(node: ir.Node, value: ir.Value, reader: ir.Node) -> bool:
    if not is_op(node, "Concat") or value.is_graph_output() or node.graph is not reader.graph:
        return False
    if any(use.node is not reader for use in value.uses()):
        return False
    axes = [item.attributes.get_int("axis", 1) for item in (node, reader)]  # 1 before opset 4
    dims = rank(value)
    return axes[0] == axes[1] or (dims is not None and axes[0] % dims == axes[1] % dims)
