"""The types of results, by operator."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxcomp.symbolic.facts import Facts
from onnxcomp.symbolic.shape_rules import SAME_SHAPE, SHAPE_RULES

BOOLS = frozenset(
    {"And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Not"}
    | {"Or", "Xor"}
)
INTEGERS = frozenset({"ArgMax", "ArgMin", "NonZero", "Shape", "Size"})
# Operators whose results have the type of their first input (of Where: the second).
LIKE_FIRST = (SHAPE_RULES.keys() | SAME_SHAPE) - (
    {"ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QuantizeLinear"}
    | {"CastLike"}
)


def types_of_results(node: ir.Node, facts: Facts) -> Sequence[ir.DataType | None]:
    """Return the types of a node's outputs, as far as they are known."""
    op = node.op_type
    if op in BOOLS:
        return [ir.DataType.BOOL]
    if op in INTEGERS:
        return [ir.DataType.INT64]
    if op == "Cast":
        return [ir.DataType(node.attributes.get_int("to", 0))]
    if op == "Constant":
        return [facts.kind(node.outputs[0])]
    if op == "ConstantOfShape":
        given = node.attributes.get("value")
        return [ir.DataType.FLOAT if given is None else given.as_tensor().dtype]
    if op not in LIKE_FIRST:
        return []
    first = facts.kind(node.inputs[1 if op == "Where" else 0])
    if op == "MaxPool":
        return [first, ir.DataType.INT64]
    if op == "Dropout":
        return [first, ir.DataType.BOOL]
    return [first] * len(node.outputs)
