"""Local functions of a model."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir
import onnx_ir.passes.common as common

from onnxcomp.graph import all_nodes
from onnxcomp.registry import Effect, leave, register


@register(Effect.EXACT)
def inline_functions(model: ir.Model) -> int:
    """Put the body of a local function in the place of its call, where that makes no more nodes.

    So of functions that are called once, and of those of one node. ONNX Runtime inlines them all
    when it loads; here it lets the nodes inside fold and fuse with those around the call, while a
    body that many calls share stays one.

    Left alone when the bodies would be more nodes than the function and its calls; when the
    function imports another version of an operator set than the model, calls itself, or takes a
    graph as argument.
    """
    if not model.functions:
        return 0
    inline = common.InlinePass(lambda function: function.identifier() in chosen)
    if _has_cycle(model):
        return 0
    calls = Counter(node.op_identifier() for node in all_nodes(model))
    chosen = {
        key
        for key, function in model.functions.items()
        if calls[key] and _is_worth_it(model, function, calls[key])
    }
    sites = sum(calls[key] for key in chosen)
    if chosen:
        inline(model)
    return sites


def _has_cycle(model: ir.Model) -> bool:
    """Say whether a function calls itself, over others too."""
    called = {
        key: {node.op_identifier() for node in function.all_nodes()} & model.functions.keys()
        for key, function in model.functions.items()
    }
    free = {key for key, others in called.items() if not others}
    while True:
        more = {key for key, others in called.items() if others <= free} - free
        if not more:
            return len(free) < len(called)
        free |= more


def _is_worth_it(model: ir.Model, function: ir.Function, calls: int) -> bool:
    body = len(function)
    if body * calls > body + calls:
        _leave_calls(model, function, f"its body, inlined {calls} times, would be more nodes")
        return False
    versions = function.opset_imports.items()
    if any(model.opset_imports.get(domain, version) != version for domain, version in versions):
        _leave_calls(model, function, "the function imports another version of an operator set")
        return False
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    if any(attr.type in kinds for attr in function.attributes.values()):
        _leave_calls(model, function, "the function takes a graph as argument")
        return False
    return True


def _leave_calls(model: ir.Model, function: ir.Function, reason: str) -> None:
    for node in all_nodes(model):
        if node.op_identifier() == function.identifier():
            leave(node, reason)
