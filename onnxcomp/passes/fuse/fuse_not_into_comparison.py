"""Not of a comparison of integers."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import replace
from onnxcomp.graph import is_op, sole_producer, tensor
from onnxcomp.registry import Effect, leave, register

OPPOSITES = {
    "Less": "GreaterOrEqual",
    "Greater": "LessOrEqual",
    "LessOrEqual": "Greater",
    "GreaterOrEqual": "Less",
}
OR_EQUAL_FROM = 12  # the operators GreaterOrEqual and LessOrEqual


@register(Effect.EXACT, ops=["Not"])
def fuse_not_into_comparison(graph: ir.Graph, opset: int) -> int:
    """Replace Not of a comparison of integers by the opposite comparison.

    Not(a < b) = a >= b, and so for the other three.

    Left alone when the comparison is read elsewhere, when its operands are not surely integers (no
    comparison holds for NaN, so neither does its opposite), and before opset 12.
    """
    fused = 0
    for node in graph:
        if not is_op(node, "Not") or opset < OR_EQUAL_FROM:
            continue
        comparison = sole_producer(node.inputs[0], node)
        if comparison is None or not is_op(comparison, *OPPOSITES):
            continue
        if not any(_is_integer(value) for value in comparison.inputs):
            leave(node, "the numbers compared are not surely integers")
            continue
        opposite = OPPOSITES[comparison.op_type]
        replace([comparison, node], ir.Node("", opposite, comparison.inputs, name=node.name))
        fused += 1
    return fused


def _is_integer(value: ir.Value | None) -> bool:
    if value is None:
        return False
    constant = tensor(value)
    dtype = value.dtype if constant is None else constant.dtype
    return dtype is not None and dtype.is_integer()
