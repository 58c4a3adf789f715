"""Layers of a student, each with the value of its teacher that it should make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxcomp.errors import ModelError
from onnxcomp.graph import is_op, label, sole_consumer, tensor
from onnxcomp.linear.biases import Bias, find_bias
from onnxcomp.linear.layers import Layer, find_layers, is_shared
from onnxcomp.registry import leave


@dataclass(frozen=True, eq=False)
class Fit:
    """A layer of the student to be fitted.

    `node` is its label, `teacher` that of the node which it stands for, where it is another. `kept`
    are the channels of the teacher's output that it still has (None: all).
    """

    node: str
    kept: NDArray[np.intp] | None = None
    teacher: str | None = None


@dataclass(frozen=True, eq=False)
class Pair:
    """A layer and its bias, and the teacher's value `wanted`, before any activation.

    Where the output is only added to a value that is known by then, `operand` is that value of the
    student and `total` the teacher's sum.
    """

    layer: Layer
    bias: Bias | None
    kept: NDArray[np.intp] | None
    wanted: ir.Value
    operand: ir.Value | None = None
    total: ir.Value | None = None

    @property
    def held(self) -> list[str]:
        """The names of the teacher's values that are needed."""
        return [value.name or "" for value in (self.wanted, self.total) if value is not None]


def find_pairs(student: ir.Model, teacher: ir.Model, fits: Sequence[Fit]) -> list[Pair]:
    """Return what can be fitted, in the student's order.

    Raises `ModelError` for a label that no node of the main graph has.
    """
    places = {node: place for place, node in enumerate(student.graph)}
    layers = {layer.node: layer for layer in find_layers(student.graph)}
    found = [
        (_node(student, fit.node), _node(teacher, fit.teacher or fit.node), fit) for fit in fits
    ]
    found.sort(key=lambda each: places[each[0]])
    pairs = []
    for node, twin, fit in found:
        layer = layers.get(node)
        reason = "it is no Conv, Gemm or MatMul by a float32 constant"
        if layer is not None:
            reason = next(_obstacles(layer), "")
        if layer is None or reason:
            leave(node, reason)
            continue
        pairs.append(_pair(layer, twin, fit, places))
    return pairs


def _node(model: ir.Model, name: str) -> ir.Node:
    for node in model.graph:
        if label(node) == name:
            return node
    raise ModelError(f"no node of the main graph is called {name!r}: it cannot be fitted")


def _obstacles(layer: Layer) -> Iterator[str]:
    """Yield reasons why a layer cannot be changed."""
    node, attributes = layer.node, layer.node.attributes
    if is_shared(layer):
        yield "its weight is shared"
    if is_op(node, "Gemm"):
        factors = attributes.get_float("alpha", 1.0), attributes.get_float("beta", 1.0)
        if factors != (1.0, 1.0):
            yield "its products are scaled by alpha or beta"
    bias = find_bias(node)
    if bias is not None and bias.vector(layer.groups * layer.rows) is None:
        yield "its bias is not a float32 constant of one number per channel"
    if not np.isfinite(layer.matrices).all():
        yield "its weight is not finite"


def _pair(layer: Layer, twin: ir.Node, fit: Fit, places: dict[ir.Node, int]) -> Pair:
    bias, twin_bias = find_bias(layer.node), find_bias(twin)
    wanted = twin.outputs[0]
    if bias is not None and twin_bias is not None:
        wanted = twin_bias.node.outputs[0]
    made = layer.node.outputs[0] if bias is None else bias.node.outputs[0]
    add, twin_add = sole_consumer(made), sole_consumer(wanted)
    if not (_is_same_add(add, twin_add) and add is not None and twin_add is not None):
        return Pair(layer, bias, fit.kept, wanted)
    operand = add.inputs[1 - list(add.inputs).index(made)]
    if operand is None or tensor(operand) is not None:
        return Pair(layer, bias, fit.kept, wanted)
    maker = operand.producer()
    if maker is not None and places.get(maker, len(places)) > places[layer.node]:
        return Pair(layer, bias, fit.kept, wanted)
    return Pair(layer, bias, fit.kept, wanted, operand, twin_add.outputs[0])


def _is_same_add(add: ir.Node | None, twin: ir.Node | None) -> bool:
    return add is not None and twin is not None and is_op(add, "Add") and label(add) == label(twin)
