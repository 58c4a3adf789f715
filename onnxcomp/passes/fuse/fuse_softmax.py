"""Softmax that is spelled out."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxcomp.edits import replace
from onnxcomp.graph import rank
from onnxcomp.passes._axes import axes_of, same_axes
from onnxcomp.passes.fuse._patterns import is_sealed, maker, quotients
from onnxcomp.registry import Effect, leave, register

SINGLE_AXIS_FROM = 13


@register(Effect.CLOSE, ops=["Exp"])
def fuse_softmax(graph: ir.Graph, opset: int) -> int:
    """Replace the nodes that spell out a softmax over the last axis by one Softmax.

    e = exp(x - max(x)); e / sum(e) = Softmax(x). The quotient may also be a product with a
    reciprocal.

    Left alone when an inner value is read elsewhere; when nothing is subtracted, since the sum may
    then overflow where Softmax does not; when the axis is not surely the last, since ONNX Runtime
    takes 3 times as long for the Softmax of another; and before opset 13.
    """
    fused = 0
    for last in graph:
        found = None if opset < SINGLE_AXIS_FROM else _match(last)
        if found is None:
            continue
        if not all(_is_along_last_axis(node, found.source) for node in found.reductions):
            leave(last, "the axis is not surely the last")
            continue
        if not is_sealed(found.nodes):
            leave(last, "an inner value is read elsewhere")
            continue
        axis = ir.AttrInt64("axis", -1)
        replace(found.nodes, ir.Node("", "Softmax", [found.source], [axis], name=last.name))
        fused += 1
    return fused


@dataclass(frozen=True)
class _Softmax:
    source: ir.Value
    reductions: tuple[ir.Node, ir.Node]
    nodes: tuple[ir.Node, ...]


def _match(last: ir.Node) -> _Softmax | None:
    for quotient in quotients(last):
        exp, total = maker(quotient.numerator, "Exp"), maker(quotient.denominator, "ReduceSum")
        if exp is None or total is None or total.inputs[0] is not exp.outputs[0]:
            continue
        shifted = maker(exp.inputs[0], "Sub")
        peak = None if shifted is None else maker(shifted.inputs[1], "ReduceMax")
        if shifted is None or peak is None or peak.inputs[0] is not shifted.inputs[0]:
            continue
        source = peak.inputs[0]
        if source is not None:
            nodes = (peak, shifted, exp, total, *quotient.nodes, last)
            return _Softmax(source, (peak, total), nodes)
    return None


def _is_along_last_axis(reduction: ir.Node, source: ir.Value) -> bool:
    axes = axes_of(reduction)
    if axes is None or reduction.attributes.get_int("keepdims", 1) != 1:
        return False
    return same_axes(axes, (-1,), rank(source))
