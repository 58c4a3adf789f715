"""How the patterns are read that stand for one operator: operands, numbers, quotients, borders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxcomp.graph import is_op, scalar
from onnxcomp.passes._broadcast import broadcasts_into

# The spacing of the numbers of a type around 1.
SPACING = {ir.DataType.FLOAT: 2.0**-23, ir.DataType.FLOAT16: 2.0**-10}


@dataclass(frozen=True)
class Quotient:
    """What a node divides by what, and the node that inverts the divisor where there is one."""

    numerator: ir.Value
    denominator: ir.Value
    nodes: tuple[ir.Node, ...] = ()


def maker(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Return the node that makes a value if it is one of these operators."""
    node = None if value is None else value.producer()
    return node if is_op(node, *op_types) else None


def operand_pairs(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Yield the two operands of a node in both orders."""
    if len(node.inputs) != 2:  # Min and Max take any number
        return
    first, second = node.inputs
    if first is not None and second is not None:
        yield first, second
        yield second, first


def other_operand(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """Return what a node of two operands combines a value with."""
    return next((other for each, other in operand_pairs(node) if each is value), None)


def number(value: ir.Value | None, target: ir.Value | None) -> float | None:
    """Return a constant of one element that surely does not enlarge the value it acts on."""
    return scalar(value) if broadcasts_into(value, target) else None


def scaled(node: ir.Node | None) -> tuple[ir.Value, float] | None:
    """Return the value and the number other than 0 that a node multiplies, or None."""
    if node is None or not is_op(node, "Mul", "Div"):
        return None
    pairs = list(operand_pairs(node))
    for value, constant in pairs if is_op(node, "Mul") else pairs[:1]:
        factor = number(constant, value)
        if factor:
            return value, factor if is_op(node, "Mul") else 1 / factor
    return None


def quotients(node: ir.Node) -> Iterator[Quotient]:
    """Yield the ways in which a node is a quotient: Div, and Mul by 1 / b."""
    if is_op(node, "Div"):
        yield from (Quotient(*pair) for pair in list(operand_pairs(node))[:1])
    for numerator, inverted in operand_pairs(node) if is_op(node, "Mul") else []:
        inverse = maker(inverted, "Reciprocal", "Div")
        divisor = None if inverse is None else inverse.inputs[-1]
        if inverse is None or divisor is None:
            continue
        if is_op(inverse, "Reciprocal") or number(inverse.inputs[0], divisor) == 1:
            yield Quotient(numerator, divisor, (inverse,))


def is_near(found: float, wanted: float, dtype: ir.DataType | None = ir.DataType.FLOAT) -> bool:
    """Say whether a number is another one, rounded to its type: half precision, or single."""
    spacing = SPACING[dtype if dtype == ir.DataType.FLOAT16 else ir.DataType.FLOAT]
    return abs(found - wanted) <= 2 * spacing * abs(wanted)


def is_sealed(nodes: Sequence[ir.Node]) -> bool:
    """Say whether only these nodes, all of one graph, read what any but the last makes."""
    inside = set(nodes)
    for node in nodes[:-1]:
        if node.graph is not nodes[-1].graph:
            return False
        for output in node.outputs:
            if output.is_graph_output() or any(use.node not in inside for use in output.uses()):
                return False
    return True


def float_type(nodes: Sequence[ir.Node]) -> ir.DataType | None:
    """Return the one type that elementwise nodes work in, or None when it is not known."""
    values = [value for node in nodes for value in (node.inputs[0], *node.outputs)]
    found = {value.dtype for value in values if value is not None} - {None}
    return found.pop() if len(found) == 1 else None
