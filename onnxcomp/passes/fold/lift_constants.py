"""Constant nodes."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import add_tensor, remove
from onnxcomp.graph import is_op, tensor
from onnxcomp.registry import Effect, leave, register


@register(Effect.EXACT, ops=["Constant"])
def lift_constants(model: ir.Model) -> int:
    """Turn Constant nodes into weights.

    The same data under the same name, of the type that the operator defines (`value_float` is
    float32, `value_int` int64). One node less each, and later passes see one kind of constant.

    Left alone when it lies in a function, whose body cannot hold weights, when it is sparse, and
    when it is a graph output.
    """
    lifted = 0
    for graph in (model.graph, *model.graph.subgraphs()):
        for node in graph:
            if not is_op(node, "Constant"):
                continue
            value = node.outputs[0]
            found = tensor(value)
            if found is None:
                leave(node, "it is sparse")
                continue
            if value.is_graph_output():
                leave(node, "it is a graph output")
                continue
            constant = ir.Value(
                name=value.name,
                shape=ir.Shape(found.shape),  # type: ignore[arg-type]
                type=ir.TensorType(found.dtype),
                const_value=found,
                metadata_props=dict(value.metadata_props),
            )
            value.replace_all_uses_with(constant)
            remove(node)
            add_tensor(graph, constant)
            lifted += 1
    return lifted
