"""If with a constant condition."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import can_take_over, move_initializers, remove, take_over
from onnxcomp.graph import is_op, scalar
from onnxcomp.registry import Effect, register


@register(Effect.EXACT, ops=["If"])
def inline_constant_if(graph: ir.Graph) -> int:
    """Put the branch that is taken in the place of an If whose condition is constant.

    The nodes and initializers of the branch move into the graph around it; the other branch goes.
    Exporters leave such conditions behind where they asked for a rank or a static dim. An If inside
    the branch is inlined too.

    Left alone when the condition depends on the inputs.
    """
    inlined = 0
    names = {node.name for node in graph}
    for node in graph:  # what is inserted after the If is visited next
        condition = scalar(node.inputs[0]) if is_op(node, "If") else None
        if condition is None:
            continue
        taken = "then_branch" if condition else "else_branch"
        _inline(graph, node, node.attributes[taken].as_graph(), names)
        inlined += 1
    return inlined


def _inline(graph: ir.Graph, node: ir.Node, branch: ir.Graph, names: set[str | None]) -> None:
    results = list(branch.outputs)
    branch.outputs.clear()
    move_initializers(branch, graph)
    nodes = list(branch)
    branch.remove(nodes)
    for each in nodes:  # ONNX Runtime refuses two nodes of one name
        _rename(each, names)
    graph.insert_after(node, nodes)
    last = nodes[-1] if nodes else node
    for result, output in zip(results, node.outputs, strict=True):
        if can_take_over(result, output):
            take_over(result, output)
            continue
        copy = ir.Node("", "Identity", [result])  # an outer value, or one that is returned twice
        copy.outputs[0].type, copy.outputs[0].shape = output.type, output.shape
        graph.insert_after(last, copy)
        take_over(copy.outputs[0], output)
    remove(node)


def _rename(node: ir.Node, names: set[str | None]) -> None:
    stem, count = node.name, 1
    while stem and node.name in names:
        node.name, count = f"{stem}_{count}", count + 1
    names.add(node.name)
