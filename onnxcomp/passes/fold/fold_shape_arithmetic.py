"""Arithmetic on shapes: known although the inputs' sizes are not."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, can_take_over, remove, take_over
from onnxcomp.graph import Array, is_op, subgraphs_of
from onnxcomp.registry import Effect, register
from onnxcomp.symbolic.dims import Dim
from onnxcomp.symbolic.facts import Facts
from onnxcomp.symbolic.propagate import propagate

# Operators that compute on shapes. Nodes of others have their reasons, such as Constant's.
ARITHMETIC = frozenset(
    {"Abs", "Add", "And", "Cast", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Gather"}
    | {"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul", "Neg", "Not", "Or"}
    | {"Range", "ReduceProd", "ReduceSum", "Reshape", "Shape", "Size", "Slice", "Split", "Squeeze"}
    | {"Sub", "Unsqueeze", "Where"}
)


@register(Effect.EXACT, ops=["Shape", "Size", "Reshape"])
def fold_shape_arithmetic(model: ir.Model) -> int:
    """Compute what follows from the shapes, though the sizes of the inputs are open.

    Dims are polynomials over the names that the inputs declare, so `Shape -> Gather -> Mul -> ...`
    has a known result. Where that is only numbers, a constant takes its place. Where an earlier
    node computes the same, that one is read. Where it is some dims of one Shape, a Gather of it is
    enough. And a Reshape gets a constant shape where each open dim is copied (0) or the only one
    (-1).

    Left alone where a result is a graph output; where a -1 would stand beside a dim that may be
    0, which has no single answer.
    """
    return _Folder(propagate(model)).fold(model.graph, ChainMap())


@dataclass(frozen=True)
class _Dims:
    """The output of a Shape node, and the dims that it holds."""

    value: ir.Value
    dims: tuple[int | Dim, ...]


@dataclass
class _Scope:
    """What is computed before a node: a value by content, Shapes by the open dims they hold."""

    values: ChainMap[Hashable, ir.Value]
    shapes: ChainMap[Dim, _Dims]


@dataclass
class _Folder:
    facts: Facts
    sites: int = 0
    shapes: ChainMap[Dim, _Dims] = field(default_factory=ChainMap)

    def fold(self, graph: ir.Graph, known: ChainMap[Hashable, ir.Value]) -> int:
        """Fold a graph in order; `known` are the values of the graphs around it, by content."""
        for node in graph:
            for inner in subgraphs_of(node):
                outer = self.shapes
                self.shapes = outer.new_child()
                self.fold(inner, known.new_child())
                self.shapes = outer
            if is_op(node, "Reshape"):
                self.sites += _settle_reshape(node, self.facts)
            if is_op(node, *ARITHMETIC):
                self.sites += self._fold_node(node, known)
        return self.sites

    def _fold_node(self, node: ir.Node, known: ChainMap[Hashable, ir.Value]) -> int:
        value = node.outputs[0]
        content, kind = self.facts.contents.get(value), self.facts.kind(value)
        if content is None or kind is None or len(node.outputs) > 1:
            return 0
        items = tuple(content.reshape(-1))
        if not any(isinstance(item, Dim) for item in items):
            return _make_constant(node, content, kind)
        key = (kind, content.shape, items)
        first = known.setdefault(key, value)
        if first is not value:
            return _read_instead(node, first)
        if is_op(node, "Shape"):
            for dim in items:
                self.shapes.setdefault(dim, _Dims(value, items))
            return 0
        return self._gather_dims(node, items, known, key)

    def _gather_dims(
        self,
        node: ir.Node,
        items: Sequence[int | Dim],
        known: ChainMap[Hashable, ir.Value],
        key: Hashable,
    ) -> int:
        """Replace a node that puts dims together by a Gather of the Shape that holds them all."""
        first = next(item for item in items if isinstance(item, Dim))
        source = self.shapes.get(first)
        value = node.outputs[0]
        if source is None or not all(item in source.dims for item in items):
            return 0
        if is_op(node, "Gather") and node.inputs[0] is source.value:
            return 0
        if value.is_graph_output() or self.facts.kind(value) != ir.DataType.INT64:
            return 0
        assert node.graph is not None
        places = np.array([source.dims.index(item) for item in items], dtype=np.int64)
        places = places.reshape(self.facts.contents[value].shape)
        indices = add_constant(
            node.graph, places.reshape(self.facts.contents[value].shape), f"{value.name}.indices"
        )
        gather = ir.Node(
            "", "Gather", [source.value, indices], [ir.AttrInt64("axis", 0)], name=node.name
        )
        node.graph.insert_before(node, gather)
        made = gather.outputs[0]
        made.type, made.shape = ir.TensorType(ir.DataType.INT64), ir.Shape(places.shape)
        self.facts.contents[made] = self.facts.contents[value]
        known[key] = made
        take_over(made, value)
        _remove_unused(node)
        return 1


def _make_constant(node: ir.Node, content: Array, kind: ir.DataType) -> int:
    value = node.outputs[0]
    if value.is_graph_output() or not value.uses():
        return 0
    assert node.graph is not None
    data = np.array(content.tolist(), dtype=kind.numpy()).reshape(content.shape)
    value.replace_all_uses_with(add_constant(node.graph, data, value.name or "constant"))
    _remove_unused(node)
    return 1


def _read_instead(node: ir.Node, first: ir.Value) -> int:
    if not node.outputs[0].uses() or not can_take_over(first, node.outputs[0]):
        return 0
    take_over(first, node.outputs[0])
    _remove_unused(node)
    return 1


def _remove_unused(node: ir.Node) -> None:
    """Remove a node that nothing reads, and the nodes that it alone kept."""
    if any(output.uses() or output.is_graph_output() for output in node.outputs):
        return
    remove(node)


def _settle_reshape(node: ir.Node, facts: Facts) -> int:
    """Give a Reshape a constant shape, where its content has one; return whether it was given."""
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return 0
    target, source = facts.content(node.inputs[1]), facts.shape(node.inputs[0])
    if target is None or not any(isinstance(item, Dim) for item in target):
        return 0
    copied = source if node.attributes.get_int("allowzero", 0) == 0 else None
    settled = _settled(target, facts.shape(node.outputs[0]), copied or ())
    if settled is None:
        return 0
    assert node.graph is not None
    shape = np.array(settled, dtype=np.int64)
    node.replace_input_with(1, add_constant(node.graph, shape, f"{node.outputs[0].name}.shape"))
    return 1


def _settled(
    target: Array, made: Sequence[int | Dim] | None, copied: Sequence[int | Dim]
) -> list[int] | None:
    """Return the numbers that reshape to `made`: a dim, 0 where it is copied, -1 for one other."""
    if made is None or len(made) != len(target) or 0 in made:
        return None
    numbers: list[int] = []
    for axis, dim in enumerate(made):
        if isinstance(dim, Dim):
            numbers.append(0 if axis < len(copied) and copied[axis] == dim else -1)
        else:
            numbers.append(dim)
    if numbers.count(-1) > 1:
        return None
    given = any(not isinstance(item, Dim) and item == -1 for item in target)
    return None if -1 in numbers and 0 in numbers and not given else numbers
