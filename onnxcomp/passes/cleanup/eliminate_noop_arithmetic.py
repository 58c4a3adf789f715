"""Arithmetic and logic with a neutral constant."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import bypass
from onnxcomp.graph import Array, array, is_op
from onnxcomp.passes._broadcast import broadcasts_into
from onnxcomp.registry import Effect, leave, register

NEUTRAL = {
    **dict.fromkeys(("Add", "Sub", "Sum", "Or", "Xor", "BitwiseOr", "BitwiseXor", "BitShift"), 0),
    **dict.fromkeys(("Mul", "Div", "Pow", "And"), 1),
    "BitwiseAnd": -1,
}
ORDERED = frozenset({"Sub", "Div", "Pow", "BitShift"})  # the constant is the second operand
PRODUCTS = frozenset({"MatMul", "Conv", "ConvTranspose"})  # their sums start from 0
BROADCASTS_FROM = 7  # before, the result has the shape of the first operand
FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@register(Effect.CLOSE, ops=NEUTRAL)
def eliminate_noop_arithmetic(graph: ir.Graph, opset: int) -> int:
    """Drop x + 0, x - 0, x * 1, x / 1, x ** 1, and logic with a constant that decides nothing.

    Also `And` with true, `Or` and `Xor` with false, `BitwiseAnd` with all bits set, `BitwiseOr`,
    `BitwiseXor` and `BitShift` with 0. The constant may have any shape that x broadcasts over, and
    be the first operand where the order does not matter.

    Left alone when the constant may give the result more elements or dims than x has; when it turns
    -0 into 0, as adding 0 does, unless x is a sum of products, which starts from 0; powers of
    integers, which runtimes take in floats; and when the result is a graph output and x cannot take
    that place.
    """
    dropped = 0
    for node in graph:
        if not is_op(node, *NEUTRAL) or len(node.inputs) != 2:
            continue
        index = _neutral_operand(node, opset)
        if index is None:
            continue
        source, constant = node.inputs[1 - index], node.inputs[index]
        if opset >= BROADCASTS_FROM and not broadcasts_into(constant, source):
            leave(node, "the constant may enlarge the result")
            continue
        if not _keeps_sign(node, source, array(constant)):
            leave(node, "it turns -0 into 0")
            continue
        if not bypass(node, source):
            leave(node, "its result is a graph output, which its source cannot be")
            continue
        dropped += 1
    return dropped


def _neutral_operand(node: ir.Node, opset: int) -> int | None:
    """Return which operand is the neutral constant, or None."""
    base = node.inputs[0]
    if node.op_type == "Pow" and (base is None or base.dtype not in FLOATS):
        return None
    if _is_neutral(node, node.inputs[1]):
        return 1
    if node.op_type in ORDERED or opset < BROADCASTS_FROM:
        return None
    return 0 if _is_neutral(node, base) else None


def _is_neutral(node: ir.Node, operand: ir.Value | None) -> bool:
    data = array(operand)
    if data is None:
        return False
    number = NEUTRAL[node.op_type]
    if number == -1:
        number, data = 0, ~data
    if data.size and data.flat[0] != number:
        return False  # so that of a large weight only one element is read
    return bool((data == number).all())


def _keeps_sign(node: ir.Node, source: ir.Value | None, zeros: Array | None) -> bool:
    """Say whether -0 stays: -0 + -0 and -0 - 0 are -0, but -0 + 0 is 0."""
    if source is None or zeros is None or node.op_type not in ("Add", "Sub", "Sum"):
        return True
    if zeros.dtype.kind in "iu" or is_op(source.producer(), *PRODUCTS):
        return True
    return bool((np.signbit(zeros) != (node.op_type == "Sub")).all())
