"""Min of Max, Max of Min."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxcomp.edits import add_constant, replace
from onnxcomp.graph import Array, array, is_op, sole_producer
from onnxcomp.passes._broadcast import broadcasts_into
from onnxcomp.registry import Effect, leave, register

CLIPS_FROM = 6
BOUNDS_ARE_INPUTS_FROM = 11
ALL_TYPES_FROM = 12
# The types that ONNX Runtime's Clip has, before and since.
OLD_TYPES = frozenset({ir.DataType.FLOAT})
TYPES = OLD_TYPES | {
    *(ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.INT8, ir.DataType.UINT8),
    *(ir.DataType.INT32, ir.DataType.UINT32, ir.DataType.INT64, ir.DataType.UINT64),
}


@register(Effect.CLOSE, ops=["Min"])
def fuse_min_max_into_clip(graph: ir.Graph, opset: int) -> int:
    """Replace Min and Max with constant bounds, in either order, by one Clip.

    min(max(x, a), b) = max(min(x, b), a) = clip(x, a, b) for a <= b. NaN passes through both forms.
    Only the sign of zero may change: max(-0, 0) is 0, where Clip keeps -0.

    Left alone when the intermediate is read elsewhere; when a bound is not one constant number or
    may enlarge the result; when a > b; and when ONNX Runtime has no Clip of the type.
    """
    fused = 0
    types = TYPES if opset >= ALL_TYPES_FROM else OLD_TYPES
    for outer in graph:
        if not is_op(outer, "Min", "Max") or opset < CLIPS_FROM:
            continue
        last = _limit(outer)
        inner = None if last is None else sole_producer(last.source, outer)
        if inner is None or not is_op(inner, "Max" if outer.op_type == "Min" else "Min"):
            continue
        first = _limit(inner)
        if first is None or last is None:
            continue
        if ir.DataType.from_numpy(first.data.dtype) not in types:
            leave(outer, "there is no Clip of this type")
            continue
        if not all(broadcasts_into(limit.bound, first.source) for limit in (first, last)):
            leave(outer, "a bound may enlarge the result")
            continue
        low, high = (first, last) if outer.op_type == "Min" else (last, first)
        if low.data.flat[0] > high.data.flat[0]:
            leave(outer, "the lower bound is above the upper one")
            continue
        replace([inner, outer], _clip(outer, first.source, low, high, opset))
        fused += 1
    return fused


@dataclass(frozen=True)
class _Limit:
    """The value that Min or Max limits, and the constant of one number, maybe often, that does."""

    source: ir.Value
    bound: ir.Value
    data: Array


def _limit(node: ir.Node) -> _Limit | None:
    if len(node.inputs) != 2:
        return None
    for source, bound in (node.inputs, reversed(node.inputs)):
        data = array(bound)
        if source is None or bound is None or data is None or not data.size:
            continue
        if (data == data.flat[0]).all():  # so it is not NaN
            return _Limit(source, bound, data)
    return None


def _clip(outer: ir.Node, source: ir.Value, low: _Limit, high: _Limit, opset: int) -> ir.Node:
    limits = (("min", low), ("max", high))
    if opset < BOUNDS_ARE_INPUTS_FROM:
        numbers = [ir.AttrFloat32(key, limit.data.flat[0].item()) for key, limit in limits]
        return ir.Node("", "Clip", [source], numbers, name=outer.name)
    bounds = [_as_scalar(outer, limit, key) for key, limit in limits]
    return ir.Node("", "Clip", [source, *bounds], name=outer.name)


def _as_scalar(outer: ir.Node, limit: _Limit, key: str) -> ir.Value:
    if limit.data.ndim == 0:
        return limit.bound
    assert outer.graph is not None
    number = limit.data.reshape(-1)[0].reshape(())
    return add_constant(outer.graph, number, f"{outer.outputs[0].name}.{key}")
