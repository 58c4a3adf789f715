"""Transpose after Transpose."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import bypass, node_like, remove, replace
from onnxcomp.graph import is_op, rank, sole_consumer
from onnxcomp.registry import Effect, register


@register(Effect.EXACT, ops=["Transpose"])
def fuse_consecutive_transposes(graph: ir.Graph) -> int:
    """Replace two Transpose nodes in a row by one, or by none where the second undoes the first.

    Axis i of the result is axis q[i] of the intermediate, which is axis p[q[i]] of the input: perm
    = p[q]. Without `perm` the axes are reversed, so two such nodes are nothing at any rank.

    Left alone when the intermediate is read elsewhere, unless the pair is nothing, and when a perm
    is not written and the rank is not known. A pair that is nothing between an input and an output
    of the graph becomes an Identity.
    """
    fused = 0
    for second in graph:
        if not is_op(second, "Transpose") or second.inputs[0] is None:
            continue
        first = second.inputs[0].producer()
        if first is None or not is_op(first, "Transpose") or first.inputs[0] is None:
            continue
        perm = _composed(first, second)
        if perm is None:
            continue
        alone = sole_consumer(second.inputs[0]) is second
        if perm != sorted(perm) and not alone:
            continue
        if perm == sorted(perm) and bypass(second, first.inputs[0]):
            if not any(out.uses() or out.is_graph_output() for out in first.outputs):
                remove(first)
        elif perm == sorted(perm):
            replace([first, second], ir.Node("", "Identity", [first.inputs[0]], name=second.name))
        else:
            attribute = ir.AttrInt64s("perm", perm)
            replace([first, second], node_like(second, [first.inputs[0]], [attribute]))
        fused += 1
    return fused


def _composed(first: ir.Node, second: ir.Node) -> list[int] | None:
    dims = rank(first.inputs[0])
    p, q = first.attributes.get_ints("perm"), second.attributes.get_ints("perm")
    if p is None and q is None:
        return []  # reversed twice
    known = len(p) if p is not None else len(q) if q is not None else dims
    if known is None:
        return None
    p = p if p is not None else range(known)[::-1]
    q = q if q is not None else range(known)[::-1]
    return [p[axis] for axis in q]
