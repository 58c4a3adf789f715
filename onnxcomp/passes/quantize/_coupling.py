"""Sets of values whose channels can be scaled together: who makes them, and who reads them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxcomp.graph import array, inner_graphs, is_op, label, rank, saturation, tensor

# f(s x) = s f(x) for s > 0, channel by channel.
UNARY = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
SAME = ("Identity", "Dropout")
NORMALIZATIONS = ("LayerNormalization", "RMSNormalization")
MAKERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", *NORMALIZATIONS)
IMAGE_OPS = ("Conv", "ConvTranspose")
READERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Port:
    """A node that makes or reads a value, by the axis of its weight that runs along the channels.

    A depthwise convolution has its channels along axis 0 on both sides.
    """

    node: ir.Node
    weight: int
    axis: int
    grouped: bool = False

    @property
    def value(self) -> ir.Value:
        """The weight."""
        found = self.node.inputs[self.weight]
        assert found is not None
        return found


@dataclass
class Coupled:
    """Values that share one scale per channel; `pinned` says why they must stay as they are.

    `biases` are the constants that an Add puts on top of them.
    """

    values: dict[ir.Value, None] = field(default_factory=dict)
    makers: list[Port] = field(default_factory=list)
    readers: list[Port] = field(default_factory=list)
    biases: list[Port] = field(default_factory=list)
    pinned: str = ""
    pooled: bool = False

    @property
    def of_images(self) -> bool | None:
        """Whether channels are axis 1, else the last one; None where the nodes do not agree."""
        ports = [*self.makers, *self.readers]
        kinds = {is_op(port.node, *IMAGE_OPS) for port in ports}
        if kinds == {True}:
            ranks = {rank(port.value) for port in ports}
            return True if len(ranks) == 1 else None
        return None if len(kinds) != 1 or self.pooled else False

    @property
    def channels(self) -> int | None:
        """The number of channels, as the makers have it; None where they differ."""
        counts = {size_of(port) for port in self.makers}
        return counts.pop() if len(counts) == 1 else None


def size_of(port: Port) -> int | None:
    """Return the size of the axis of a port's weight."""
    data = array(port.value)
    return None if data is None else data.shape[port.axis]


def find_coupled(graph: ir.Graph) -> list[Coupled]:
    """Return the sets of values of a graph that a maker's channels reach, in graph order."""
    sets: dict[ir.Value, Coupled] = {}
    for node in graph:
        port = _maker(node)
        if port is not None:
            _of(sets, node.outputs[0]).makers.append(port)
        elif _passes_on(node):
            _join(sets, [node.inputs[0], node.outputs[0]])
            _of(sets, node.outputs[0]).pooled |= "Pool" in node.op_type
        elif is_op(node, "Add") and _addends(node):
            _join(sets, [*_addends(node), node.outputs[0]])
            if len(_addends(node)) == 1:
                _of(sets, node.outputs[0]).biases += filter(None, [_bias(node)])
        else:
            _pin(sets, node.outputs, f"{label(node)} makes it")
        _read(sets, node)
    for output in graph.outputs:
        _pin(sets, [output], "it is an output")
    for value in graph.inputs:
        _pin(sets, [value], "it is an input")
    return list({id(found): found for found in sets.values() if found.makers}.values())


def _of(sets: dict[ir.Value, Coupled], value: ir.Value) -> Coupled:
    if value not in sets:
        sets[value] = Coupled({value: None})
    return sets[value]


def _join(sets: dict[ir.Value, Coupled], values: Iterable[ir.Value | None]) -> None:
    first, *others = [_of(sets, value) for value in values if value is not None]
    for other in others:
        if other is first:
            continue
        first.values |= other.values
        first.makers += other.makers
        first.readers += other.readers
        first.biases += other.biases
        first.pooled |= other.pooled
        first.pinned = first.pinned or other.pinned
        sets.update(dict.fromkeys(other.values, first))


def _pin(sets: dict[ir.Value, Coupled], values: Iterable[ir.Value], reason: str) -> None:
    for value in values:
        found = _of(sets, value)
        found.pinned = found.pinned or reason


def _read(sets: dict[ir.Value, Coupled], node: ir.Node) -> None:
    """Note who reads a value: a weight that can be scaled, what passes it on, or something else."""
    captured = (value for inner in inner_graphs(node) for each in inner for value in each.inputs)
    _pin(sets, filter(None, captured), f"{label(node)} captures it")
    for index, value in enumerate(node.inputs):
        if value is None or tensor(value) is not None:
            continue
        port = _reader(node) if index == 0 else None
        if port is not None:
            _of(sets, value).readers.append(port)
        elif is_op(node, "Clip") and not _passes_on(node):
            _pin(sets, [value], f"{label(node)} reads it, whose bounds do not scale")
        elif not (_passes_on(node) and index == 0) and not (is_op(node, "Add") and _addends(node)):
            _pin(sets, [value], f"{label(node)} reads it")


def _passes_on(node: ir.Node) -> bool:
    """Say whether f(s x) = s f(x) for each channel of a node's first input."""
    if is_op(node, "PRelu"):
        return tensor(node.inputs[1]) is not None
    if is_op(node, "Clip"):
        bounds = saturation(node)
        return bounds is not None and set(map(abs, bounds)) <= {0.0, math.inf}
    return is_op(node, *UNARY, *SAME) and all(not out.uses() for out in node.outputs[1:])


def _addends(node: ir.Node) -> list[ir.Value]:
    """Return what an Add adds up, without its bias; nothing where it adds another constant."""
    values = [value for value in node.inputs if value is not None and tensor(value) is None]
    return values if len(values) == 2 or _bias(node) is not None else []


def _bias(node: ir.Node) -> Port | None:
    """Return the constant of an Add that is one number for each index of one axis."""
    for index, value in enumerate(node.inputs):
        found = tensor(value)
        if found is None or found.size < 2:
            continue
        axes = [axis for axis, size in enumerate(found.shape.numpy()) if size > 1]
        if len(axes) == 1:
            return Port(node, index, axes[0])
    return None


def _maker(node: ir.Node) -> Port | None:
    """Return the port by which a node makes channels, where these are one axis of its weight."""
    if not is_op(node, *MAKERS) or len(node.inputs) < 2 or _constant(node.inputs[1]) is None:
        return None
    if len(node.inputs) > 2 and node.inputs[2] and _constant(node.inputs[2]) is None:
        return None
    group = node.attributes.get_int("group", 1)
    if is_op(node, *NORMALIZATIONS):
        return Port(node, 1, 0) if rank(node.inputs[1]) == 1 else None
    if is_op(node, "Conv"):
        return Port(node, 1, 0, group > 1)
    if is_op(node, "ConvTranspose"):
        return Port(node, 1, 1) if group == 1 else None
    return _product(node, 1)


def _reader(node: ir.Node) -> Port | None:
    """Return the port by which a node reads channels, where these are one axis of its weight."""
    if not is_op(node, *READERS) or len(node.inputs) < 2 or _constant(node.inputs[1]) is None:
        return None
    group = node.attributes.get_int("group", 1)
    if is_op(node, "Conv"):
        if group == 1:
            return Port(node, 1, 1)
        return Port(node, 1, 0, grouped=True) if _is_depthwise(node, group) else None
    if is_op(node, "ConvTranspose"):
        return Port(node, 1, 0) if group == 1 else None
    return _product(node, 0)


def _is_depthwise(node: ir.Node, group: int) -> bool:
    found = tensor(node.inputs[1])
    return found is not None and tuple(found.shape.numpy()[:2]) == (group, 1)


def _constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return a float32 constant."""
    found = tensor(value)
    return found if found is not None and found.dtype == ir.DataType.FLOAT else None


def _product(node: ir.Node, axis: int) -> Port | None:
    """Return the port of a Gemm or MatMul by a matrix; `axis` as for one that is not transposed."""
    if rank(node.inputs[1]) != 2:
        return None
    if is_op(node, "Gemm") and node.attributes.get_int("transB", 0) != 0:
        axis = 1 - axis
    if is_op(node, "Gemm") and node.attributes.get_int("transA", 0) != 0:
        return None
    return Port(node, 1, axis)
