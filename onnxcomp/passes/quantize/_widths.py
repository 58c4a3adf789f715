"""Sets of values that must have the same number of channels, and what makes and reads them."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from onnxcomp.graph import array, is_op

# These work on every channel alike, whatever it holds.
SINGLE = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish")
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
PAIRS = ("Add", "Mul")


@dataclass
class Width:
    """Values of `channels` channels each, all of which convolutions make and read.

    `makers` have them along axis 0 of their weight, `readers` along axis 1, `depthwise` ones are
    inside the set. `fixed` says that something else makes or reads a value.
    """

    values: dict[ir.Value, None] = field(default_factory=dict)
    makers: list[ir.Node] = field(default_factory=list)
    readers: list[ir.Node] = field(default_factory=list)
    depthwise: list[ir.Node] = field(default_factory=list)
    fixed: bool = False

    @property
    def channels(self) -> int | None:
        """The number of channels, or None where it is not one number."""
        counts = {_shape(node)[0] for node in (*self.makers, *self.depthwise)}
        counts |= {_shape(node)[1] for node in self.readers}
        return counts.pop() if len(counts) == 1 else None


def find_widths(graph: ir.Graph) -> list[Width]:
    """Return the sets of values of a graph, in graph order."""
    sets: dict[ir.Value, Width] = {}
    for node in graph:
        values = [value for value in (*node.inputs, *node.outputs) if value is not None]
        if is_op(node, "Conv") and _has_constants(node):
            _add_convolution(sets, node)
        elif is_op(node, *SINGLE, *POOLS) and len(node.outputs) == 1:
            _join(sets, [value for value in values if array(value) is None])
        elif is_op(node, *PAIRS) and all(array(value) is None for value in values):
            _join(sets, values)
        else:
            _fix(sets, values)
    for inner in graph.subgraphs():
        for node in inner:
            _fix(sets, [value for value in node.inputs if value is not None])
    _fix(sets, [*graph.inputs, *graph.outputs])
    return list({id(found): found for found in sets.values()}.values())


def _shape(node: ir.Node) -> tuple[int, ...]:
    data = array(node.inputs[1])
    assert data is not None
    return data.shape


def _has_constants(node: ir.Node) -> bool:
    return all(array(value) is not None for value in node.inputs[1:] if value is not None)


def _add_convolution(sets: dict[ir.Value, Width], node: ir.Node) -> None:
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    group = node.attributes.get_int("group", 1)
    if group == 1:
        _of(sets, source).readers.append(node)
        _of(sets, result).makers.append(node)
    elif _shape(node)[:2] == (group, 1):
        _join(sets, [source, result])
        _of(sets, source).depthwise.append(node)
    else:
        _fix(sets, [source, result])


def _of(sets: dict[ir.Value, Width], value: ir.Value) -> Width:
    if value not in sets:
        sets[value] = Width({value: None})
    return sets[value]


def _join(sets: dict[ir.Value, Width], values: list[ir.Value]) -> None:
    first, *others = [_of(sets, value) for value in values]
    for other in others:
        if other is first:
            continue
        first.values |= other.values
        first.makers += other.makers
        first.readers += other.readers
        first.depthwise += other.depthwise
        first.fixed |= other.fixed
        sets.update(dict.fromkeys(other.values, first))


def _fix(sets: dict[ir.Value, Width], values: list[ir.Value]) -> None:
    for value in values:
        _of(sets, value).fixed = True
