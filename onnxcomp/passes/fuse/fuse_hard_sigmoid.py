"""HardSigmoid that is spelled out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import node_like, replace
from onnxcomp.graph import is_op, sole_consumer
from onnxcomp.passes.fuse._clip import bounds_of
from onnxcomp.passes.fuse._patterns import (
    SPACING,
    float_type,
    is_near,
    is_sealed,
    maker,
    number,
    operand_pairs,
    scaled,
)
from onnxcomp.registry import Effect, leave, register

BROADCASTS_FROM = 7
SIXTH = float(np.float32(1 / 6))  # as the attribute holds it


@register(Effect.CLOSE, ops=["Clip", "Relu", "Min", "Max"])
def fuse_hard_sigmoid(graph: ir.Graph, opset: int) -> int:
    """Replace the nodes that spell out a hard sigmoid by HardSigmoid.

    clip(x + 3, 0, 6) / 6 = HardSigmoid(x) with alpha = 1/6 and beta = 1/2, and so y * clip(x + 3,
    0, 6) / 6 = y * HardSigmoid(x). The clip may also be Min with Max or Relu, in either order, and
    the quotient a product with 1/6.

    Left alone when an inner value is read elsewhere, when a constant may enlarge the result, when
    the numbers are not surely floats of single or half precision (ONNX Runtime has no other
    HardSigmoid), and before opset 7.
    """
    fused = 0
    for limit in graph:
        if not is_op(limit, "Clip", "Relu", "Min", "Max") or opset < BROADCASTS_FROM:
            continue
        found = _match(limit, opset)
        if found is None:
            continue
        dtype = float_type([*found.inner, found.last])
        if not is_near(found.scale, 1 / 6, dtype):
            continue
        if dtype not in SPACING:
            leave(found.last, "the numbers are not surely floats of single or half precision")
            continue
        if not is_sealed([*found.inner, *found.gated, found.last]):
            leave(found.last, "an inner value is read elsewhere")
            continue
        numbers = [ir.AttrFloat32("alpha", SIXTH), ir.AttrFloat32("beta", 0.5)]
        gate = ir.Node("", "HardSigmoid", [found.source], numbers, name=limit.name)
        if found.gated:
            replace(found.inner, gate)
            replace([*found.gated, found.last], node_like(found.gated[0], found.gated[0].inputs))
        else:
            replace([*found.inner, found.last], gate)
        fused += 1
    return fused


@dataclass(frozen=True)
class _HardSigmoid:
    """`inner` makes clip(source + 3, 0, 6), `gated` its product if any, `last` scales that."""

    source: ir.Value
    inner: tuple[ir.Node, ...]
    gated: tuple[ir.Node, ...]
    last: ir.Node
    scale: float


def _match(limit: ir.Node, opset: int) -> _HardSigmoid | None:
    limited = _limited_to_six(limit, opset)
    add = None if limited is None else maker(limited[0], "Add")
    last = sole_consumer(limit.outputs[0])
    if limited is None or add is None or last is None:
        return None
    gated: tuple[ir.Node, ...] = ()
    if is_op(last, "Mul") and scaled(last) is None:
        gated, last = (last,), sole_consumer(last.outputs[0])
    factor = scaled(last)
    for source, three in operand_pairs(add):
        if last is not None and factor is not None and number(three, source) == 3:
            return _HardSigmoid(source, (add, *limited[1]), gated, last, factor[1])
    return None


def _limited_to_six(
    outer: ir.Node, opset: int
) -> tuple[ir.Value | None, tuple[ir.Node, ...]] | None:
    """Return the value that a node, maybe with the one before, clips to 0 and 6, and the nodes."""
    if is_op(outer, "Clip"):
        bounds = bounds_of(outer, opset) if maker(outer.inputs[0], "Add") else None
        if bounds is None or bounds.low != 0 or bounds.high != 6:
            return None
        return outer.inputs[0], (outer,)
    for value, limit in _limits(outer):
        inner = maker(value, "Relu", "Min", "Max")
        for source, other in [] if inner is None else _limits(inner):
            if inner is not None and {limit, other} == {("Max", 0), ("Min", 6)}:
                return source, (inner, outer)
    return None


def _limits(node: ir.Node) -> Iterator[tuple[ir.Value | None, tuple[str, float | None]]]:
    """Yield what Relu, Min or Max limits, with the operator and the number that do."""
    if is_op(node, "Relu"):
        yield node.inputs[0], ("Max", 0)
        return
    for value, bound in operand_pairs(node):
        yield value, (node.op_type, number(bound, value))
