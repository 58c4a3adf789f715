"""One walk over a model that finds which channels must go together."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.channels.grouping import group_channels
from onnxcomp.channels.groups import Channels
from onnxcomp.channels.ids import Axes, Axis, Ids, UnruledError
from onnxcomp.channels.rules import RULES
from onnxcomp.channels.sizes import pin_sizes
from onnxcomp.channels.splits import decide
from onnxcomp.channels.twins import learn_shapes
from onnxcomp.graph import inner_graphs, is_op, label, tensor
from onnxcomp.symbolic.dims import Dim
from onnxcomp.symbolic.propagate import NOT_VALID


def find_channels(model: ir.Model) -> Channels:
    """Return the groups of channels of a model's main graph that can be removed.

    An operator ties the indices of its operands' and results' axes, or keeps them all ("pins"
    them): one without a rule, what a subgraph reads, and the model's inputs and outputs.
    """
    ids = walk(model)
    return group_channels(ids)


def walk(model: ir.Model) -> Ids:
    """Return the ids of a model's channels, resolved."""
    ids = Ids(learn_shapes(model))
    for value in model.graph.inputs:
        shape = ids.facts.shape(value)
        if shape is not None:
            ids.axes[value] = ids.fixed(shape, None, f"'{value.name}' is an input of the model")
    for node in model.graph:
        if tensor(node.outputs[0] if node.outputs else None) is None:
            _visit(node, ids)
    for value in model.graph.outputs:
        _pin_value(value, ids, None, f"'{value.name}' is an output of the model")
    decide(ids)
    return ids


def _visit(node: ir.Node, ids: Ids) -> None:
    rule = RULES.get(node.op_type)
    reason = "no rule for this operator"
    if rule is not None and is_op(node, node.op_type):
        try:
            results = rule(node, ids)
            for output, axes in zip(node.outputs, results, strict=True):
                if output.uses() or output.is_graph_output():
                    _give(output, axes, ids)
        except UnruledError as error:
            reason = str(error)
        except NOT_VALID:
            reason = "its operands are not what the operator takes"
        else:
            return
    _pin_node(node, ids, f"{node.op_type} '{label(node)}': {reason}")


def _give(output: ir.Value, axes: Axes, ids: Ids) -> None:
    """Note the ids of a result, which must have the sizes that are known of it."""
    shape = ids.facts.shape(output)
    if shape is None or len(shape) != len(axes) or not all(map(_fits, axes, shape)):
        for axis in axes:
            ids.pin(axis, output.producer(), "its shape is not known")
        raise UnruledError("the shape of a result is not known")
    ids.axes[output] = axes


def _fits(axis: Axis, dim: int | Dim) -> bool:
    return len(axis) == dim if axis is not None else dim == 1 or isinstance(dim, Dim)


def _pin_node(node: ir.Node, ids: Ids, reason: str) -> None:
    captured = [
        value
        for graph in inner_graphs(node)
        for inner in graph
        for value in inner.inputs
        if value is not None
    ] + [value for graph in inner_graphs(node) for value in graph.outputs]
    for value in [*node.inputs, *captured]:
        _pin_value(value, ids, node, reason)
    pin_sizes(node, ids)
    for output in node.outputs:
        shape = ids.facts.shape(output)
        if shape is not None:
            ids.axes[output] = ids.fixed(shape, node, reason)


def _pin_value(value: ir.Value | None, ids: Ids, node: ir.Node | None, reason: str) -> None:
    if value is not None and ids.facts.shape(value) is not None:
        ids.pin(ids.of(value), node, reason)
