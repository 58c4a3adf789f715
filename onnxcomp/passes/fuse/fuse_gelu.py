"""Gelu that is spelled out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import pi, sqrt

import onnx_ir as ir
from numpy.polynomial import Polynomial

from onnxcomp.edits import replace
from onnxcomp.graph import is_op, sole_consumer
from onnxcomp.passes.fuse._patterns import (
    SPACING,
    float_type,
    is_near,
    is_sealed,
    maker,
    number,
    other_operand,
    scaled,
)
from onnxcomp.registry import Effect, leave, register

GELU_FROM = 20
# What Erf and Tanh are applied to, by the powers of x.
INNER = {
    "Erf": (0, 1 / sqrt(2)),
    "Tanh": (0, sqrt(2 / pi), 0, sqrt(2 / pi) * 0.044715),
}
DEEPEST = 5  # nodes in a row that make that, in the longest form that exporters write


@register(Effect.CLOSE, ops=["Erf", "Tanh"])
def fuse_gelu(graph: ir.Graph, opset: int) -> int:
    """Replace the nodes that spell out a Gelu by one.

    x / 2 * (1 + erf(x / sqrt(2))) = Gelu(x), and x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 *
    x^3))) = Gelu(x) with approximate = tanh, in any order of the factors.

    Left alone when an inner value is read elsewhere, when a constant may enlarge the result or is
    another number, when the numbers are not surely floats of single or half precision (ONNX
    Runtime has no other Gelu), and before opset 20.
    """
    fused = 0
    for curve in graph:
        if not is_op(curve, "Erf", "Tanh") or opset < GELU_FROM:
            continue
        found = next((each for each in _readings(curve) if each.is_gelu), None)
        if found is None:
            continue
        last = found.nodes[-1]
        if float_type(found.nodes) not in SPACING:
            leave(last, "the numbers are not surely floats of single or half precision")
            continue
        if not is_sealed(found.nodes):
            leave(last, "an inner value is read elsewhere")
            continue
        kind = [ir.AttrString("approximate", "tanh")] if curve.op_type == "Tanh" else []
        replace(found.nodes, ir.Node("", "Gelu", [found.source], kind, name=last.name))
        fused += 1
    return fused


@dataclass(frozen=True)
class _Reading:
    """What `nodes` may be: source / 2 * (1 + curve(inner(source)))."""

    source: ir.Value
    curve: str
    inner: Polynomial
    nodes: tuple[ir.Node, ...]

    @property
    def is_gelu(self) -> bool:
        found, wanted, dtype = self.inner.coef.tolist(), INNER[self.curve], float_type(self.nodes)
        near = (is_near(*pair, dtype) for pair in zip(found, wanted, strict=False))
        return len(found) == len(wanted) and all(near)


def _readings(curve: ir.Node) -> Iterator[_Reading]:
    """Yield what the nodes around an Erf or Tanh may be, one reading per value that may be x."""
    shifted = sole_consumer(curve.outputs[0])
    if shifted is None or not is_op(shifted, "Add"):
        return
    one = other_operand(shifted, curve.outputs[0])
    for source, product in _halved(shifted.outputs[0]):
        inner = _polynomial(curve.inputs[0], source)
        if inner is not None and number(one, source) == 1:
            nodes = dict.fromkeys((*inner[1], curve, shifted, *product))
            yield _Reading(source, curve.op_type, inner[0], tuple(nodes))


def _halved(factor: ir.Value) -> Iterator[tuple[ir.Value, tuple[ir.Node, ...]]]:
    """Yield what a value and 1/2 are multiplied with, in whatever order, and the nodes that do."""
    first = sole_consumer(factor)
    if first is None:
        return
    second = sole_consumer(first.outputs[0])
    if is_op(first, "Mul"):
        other = other_operand(first, factor)
        half = maker(other, "Mul", "Div")
        scale = scaled(half)
        if half is not None and scale is not None and scale[1] == 0.5:
            yield scale[0], (half, first)
        if other is not None and second is not None and scaled(second) == (first.outputs[0], 0.5):
            yield other, (first, second)
    if second is not None and is_op(second, "Mul") and scaled(first) == (factor, 0.5):
        other = other_operand(second, first.outputs[0])
        if other is not None:
            yield other, (first, second)


def _polynomial(
    value: ir.Value | None, source: ir.Value, depth: int = DEEPEST
) -> tuple[Polynomial, tuple[ir.Node, ...]] | None:
    """Return a value as a polynomial of another, with the nodes that compute it, or None."""
    if value is source:
        return Polynomial([0, 1]), ()
    constant = number(value, source)
    if constant is not None:
        return Polynomial([constant]), ()
    node = maker(value, "Add", "Mul", "Div", "Pow")
    if node is None or depth == 0:
        return None
    first = _polynomial(node.inputs[0], source, depth - 1)
    second = _polynomial(node.inputs[1], source, depth - 1)
    if first is None or second is None:
        return None
    result = _combine(node.op_type, first[0], second[0])
    return None if result is None else (result, (*first[1], *second[1], node))


def _combine(op_type: str, first: Polynomial, second: Polynomial) -> Polynomial | None:
    if op_type == "Add":
        return first + second
    if op_type == "Mul":
        return first * second
    constant = second.coef.tolist()[0]
    if second.degree() > 0 or constant == 0 or (op_type == "Pow" and constant not in (2, 3)):
        return None
    return first / constant if op_type == "Div" else first ** int(constant)
