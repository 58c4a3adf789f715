"""Which values of a model calibration looks at, and which it knows without looking."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxcomp.calibration.ranges import Range
from onnxcomp.graph import dropout_is_inference, is_op, saturation

# What ONNX Runtime returns as NumPy floats; its CPU provider has next to no bfloat16 kernels.
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})

# Ranges known from the mathematics: no sample needs to reach them, and none can leave them.
KNOWN = {
    "Softmax": Range(0.0, 1.0),
    "Sigmoid": Range(0.0, 1.0),
    "HardSigmoid": Range(0.0, 1.0),
    "Tanh": Range(-1.0, 1.0),
}
# Operators whose result holds the numbers of their first input, all of them and no others.
SAME_NUMBERS = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Dropout")


@dataclass(frozen=True)
class Values:
    """The float values of the main graph in order, inputs first.

    `same` names, for a value that only reshapes another, that other, and for one that nothing reads
    but a MaxPool, what that leaves of it. `known` has the ranges that values have by definition.
    `inner` are the values that nothing reads but a Relu, Clip or batch normalization: the op before
    computes these too, in integers as in float, so none has a grid.
    """

    names: tuple[str, ...]
    same: Mapping[str, str]
    known: Mapping[str, Range]
    inner: frozenset[str]


def values_of(model: ir.Model) -> Values:
    """Return what there is to calibrate in a model whose shapes have been inferred."""
    names = [value.name or "" for value in model.graph.inputs if _may_be_float(value, typed=False)]
    names += float_values(model)
    same: dict[str, str] = {}
    for node in model.graph:
        if is_op(node, *SAME_NUMBERS) and node.inputs[0] is not None:
            source = node.inputs[0].name or ""
            if source in names and (node.op_type != "Dropout" or dropout_is_inference(node)):
                same[node.outputs[0].name or ""] = same.get(source, source)
        elif is_op(node, "MaxPool") and (name := _pooled_away(node)) is not None:
            same[name] = node.outputs[0].name or ""
    nodes = [node for node in model.graph if is_op(node, *KNOWN)]
    known = {node.outputs[0].name or "": KNOWN[node.op_type] for node in nodes}
    return Values(tuple(names), same, known, frozenset(_inner_values(model)))


def _pooled_away(node: ir.Node) -> str | None:
    """Return the name of what a MaxPool reads, where nothing else does."""
    value = node.inputs[0]
    maker = value.producer() if value is not None else None
    if value is None or maker is None or len(value.uses()) > 1 or value.is_graph_output():
        return None
    return None if is_op(maker, *KNOWN, *SAME_NUMBERS) else value.name


def _inner_values(model: ir.Model) -> Iterator[str]:
    for node in model.graph:
        value = node.inputs[0] if node.inputs else None
        if value is None or value.producer() is None or len(value.uses()) > 1:
            continue
        absorbed = is_op(node, "BatchNormalization") or saturation(node) is not None
        if absorbed and not value.is_graph_output():
            yield value.name or ""


def float_values(model: ir.Model, *, typed: bool = False) -> list[str]:
    """Name what the main graph's nodes make, in order: floats and, unless `typed`, the unknown."""
    return [
        output.name
        for node in model.graph
        for output in node.outputs
        if output.name and not is_op(node, "Constant") and _may_be_float(output, typed=typed)
    ]


def _may_be_float(value: ir.Value, *, typed: bool) -> bool:
    if value.type is None or value.type.dtype == ir.DataType.UNDEFINED:
        return not typed
    return isinstance(value.type, ir.TensorType) and value.type.dtype in FLOATS


def in_groups(
    names: Sequence[str], shapes: Mapping[str, Sequence[int]], limit: int | None
) -> list[list[str]]:
    """Split values into groups that take at most `limit` bytes of activations in float32.

    Two samples are held at a time: one is counted while the next one runs. A value of unknown shape
    is taken for the largest known one. None is no limit.
    """
    if limit is None:
        return [list(names)]
    sizes = {name: 8 * math.prod(shapes[name]) for name in names if name in shapes}
    largest = max(sizes.values(), default=limit)
    groups: list[list[str]] = []
    room = 0
    for name in names:
        size = sizes.get(name, largest)
        if size > room or not groups:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= size
    return groups
