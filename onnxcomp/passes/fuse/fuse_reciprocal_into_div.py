"""Mul by a reciprocal."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import replace
from onnxcomp.graph import array, is_op, sole_producer
from onnxcomp.passes._broadcast import broadcasts_into
from onnxcomp.registry import Effect, leave, register

BROADCASTS_FROM = 7
# Of half precision numbers, even usual ones have a reciprocal that overflows.
FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


@register(Effect.CLOSE, ops=["Mul"])
def fuse_reciprocal_into_div(graph: ir.Graph, opset: int) -> int:
    """Replace a product with a reciprocal by a quotient.

    a * (1 / b) = a / b: one rounding instead of two, and one tensor less. The reciprocal may be a
    Reciprocal node, or a Div of a constant of ones.

    Left alone when the reciprocal is read elsewhere, when the ones may enlarge it, when the numbers
    are not surely floats of single or double precision, and before opset 7.
    """
    fused = 0
    for node in graph:
        if not is_op(node, "Mul") or opset < BROADCASTS_FROM:
            continue
        for index in (1, 0):
            inverse = sole_producer(node.inputs[index], node)
            divisor = None if inverse is None else _divisor(inverse)
            if inverse is None or divisor is None:
                continue
            known = (*inverse.inputs, *node.outputs)
            if not any(each is not None and each.dtype in FLOATS for each in known):
                leave(node, "the numbers are not surely floats of single or double precision")
                continue
            quotient = ir.Node("", "Div", [node.inputs[1 - index], divisor], name=node.name)
            replace([inverse, node], quotient)
            fused += 1
            break
    return fused


def _divisor(inverse: ir.Node) -> ir.Value | None:
    """Return b for a node that is 1 / b, or None."""
    if is_op(inverse, "Reciprocal"):
        return inverse.inputs[0]
    if not is_op(inverse, "Div") or not broadcasts_into(*inverse.inputs):
        return None
    ones = array(inverse.inputs[0])
    return inverse.inputs[1] if ones is not None and bool((ones == 1).all()) else None
