"""Constants that are multiplied, or added, one after the other."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, replace
from onnxcomp.graph import Array, array, is_op, sole_producer, tensor
from onnxcomp.passes.fuse._weights import fitted
from onnxcomp.registry import Effect, leave, register

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16})
# Constants are combined up to this size; those of more elements are weights, not settings.
LARGEST = 65536


@register(Effect.CLOSE, ops=["Mul", "Add", "Div", "Sub"])
def fuse_consecutive_scalings(graph: ir.Graph) -> int:
    """Combine two constants that are applied one after the other.

    (x * a) * b = x * (a * b), also for a division by either: (x * a) / b = x * (a / b). And
    (x + a) + b = x + (a + b), also for a subtraction. The constant is computed in float64.

    Left alone when the numbers are not floats, when the value in between is read elsewhere, when
    the combined constant is larger than both, and when it is not finite in its type.
    """
    fused = 0
    for node in graph:
        second = _constant(node)
        if second is None:
            continue
        inner = sole_producer(node.inputs[1 - second], node)
        first = _constant(inner) if inner is not None else None
        if inner is None or first is None or _is_sum(inner) != _is_sum(node):
            continue
        kind = tensor(inner.inputs[first])
        assert kind is not None
        parts = [array(each.inputs[place]) for each, place in ((inner, first), (node, second))]
        combined = _combined(node, inner, *parts)
        data = fitted(node, kind.dtype, combined) if combined is not None else None
        if data is None:
            continue
        name = f"{node.outputs[0].name}.constant"
        source = inner.inputs[1 - first]
        constant = add_constant(graph, data[0], name)
        op = "Add" if _is_sum(node) else "Mul"
        replace([inner, node], ir.Node("", op, [source, constant], name=node.name))
        fused += 1
    return fused


def _is_sum(node: ir.Node) -> bool:
    return is_op(node, "Add", "Sub")


def _constant(node: ir.Node) -> int | None:
    """Return which operand of Mul, Div, Add or Sub is a constant float, not a dividend, or None."""
    if not is_op(node, "Mul", "Div", "Add", "Sub") or "axis" in node.attributes:
        return None
    for place in (1, 0) if is_op(node, "Mul", "Add") else (1,):
        found = tensor(node.inputs[place])
        if found is not None and found.dtype in FLOATS and found.size <= LARGEST:
            return place if tensor(node.inputs[1 - place]) is None else None
    return None


def _combined(
    node: ir.Node, inner: ir.Node, first: Array | None, second: Array | None
) -> Array | None:
    """Return the constant in float64, or None where it is larger than both, or divides by 0."""
    assert first is not None
    assert second is not None
    try:
        shape = np.broadcast_shapes(first.shape, second.shape)
    except ValueError:
        return None
    if np.prod(shape, dtype=int) > max(first.size, second.size):
        leave(node, "the two constants together are larger than each")
        return None
    signs = [is_op(each, "Div", "Sub") for each in (inner, node)]
    left, right = (each.astype(np.float64) for each in (first, second))
    if _is_sum(node):
        return (-left if signs[0] else left) + (-right if signs[1] else right)
    if (signs[0] and not left.all()) or (signs[1] and not right.all()):
        leave(node, "it divides by 0")
        return None
    return (1 / left if signs[0] else left) * (1 / right if signs[1] else right)
