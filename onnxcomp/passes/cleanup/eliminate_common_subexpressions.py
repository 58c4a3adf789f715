"""Nodes that compute the same."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Hashable

import onnx_ir as ir

from onnxcomp.edits import can_take_over, remove, take_over
from onnxcomp.graph import (
    CONTROL_FLOW_OPS,
    KNOWN_DOMAINS,
    STANDARD_DOMAINS,
    has_subgraph,
    is_random,
    subgraphs_of,
)
from onnxcomp.passes.cleanup._content import content
from onnxcomp.registry import Effect, leave, register


@register(Effect.EXACT)
def eliminate_common_subexpressions(model: ir.Model) -> int:
    """Compute once what several nodes compute alike.

    Two nodes are alike when operator, inputs, attributes (by value, tensors by their bytes) and
    the set of outputs are. A node of a subgraph gives way to one that ran before in a graph around
    it; chains merge from the front in one go.

    Left alone when the operator is random (training Dropout included), carries a graph or is of a
    foreign domain, and when both results are graph outputs or the one cannot take the place of the
    other.
    """
    merged = _merge(model.graph, ChainMap())
    return merged + sum(_merge(each.graph, ChainMap()) for each in model.functions.values())


def _merge(graph: ir.Graph, seen: ChainMap[Hashable, ir.Node]) -> int:
    merged = 0
    for node in graph:
        for inner in subgraphs_of(node):
            merged += _merge(inner, seen.new_child())
        key = _key(node)
        if key is None:
            continue
        first = seen.setdefault(key, node)
        if first is node:
            continue
        pairs = list(zip(first.outputs, node.outputs, strict=True))
        if not all(can_take_over(new, old) for new, old in pairs):
            leave(node, "its result is a graph output that cannot be another value")
            continue
        for new, old in pairs:
            take_over(new, old)
        remove(node)
        merged += 1
    return merged


def _key(node: ir.Node) -> Hashable | None:
    """Return what makes a node what it is, or None for one that must not be merged."""
    if node.domain not in STANDARD_DOMAINS | KNOWN_DOMAINS or not node.outputs:
        return None
    if is_random(node) or has_subgraph(node) or node.op_type in CONTROL_FLOW_OPS:
        return None
    inputs = list(node.inputs)
    while inputs and inputs[-1] is None:
        inputs.pop()
    attributes = [(name, _attribute(attr)) for name, attr in sorted(node.attributes.items())]
    if any(value is None for _, value in attributes):
        return None
    present = tuple(output.name != "" for output in node.outputs)
    return node.op_identifier(), tuple(inputs), tuple(attributes), present


def _attribute(attr: ir.Attr) -> Hashable | None:
    if attr.is_ref():
        return attr.type, "reference", attr.ref_attr_name
    kinds = ir.AttributeType
    if attr.type == kinds.TENSOR:
        return attr.type, content(attr.as_tensor())
    if attr.type in (kinds.FLOAT, kinds.FLOATS, kinds.INT, kinds.INTS, kinds.STRING, kinds.STRINGS):
        return attr.type, repr(attr.value)  # 0.0 and -0.0 are equal numbers and different texts
    return None
