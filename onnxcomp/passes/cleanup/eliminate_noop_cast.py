"""Cast to the type that a value has."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import bypass
from onnxcomp.graph import is_op, tensor
from onnxcomp.registry import Effect, leave, register


@register(Effect.EXACT, ops=["Cast", "CastLike"])
def eliminate_noop_cast(graph: ir.Graph) -> int:
    """Drop Cast and CastLike nodes whose input already has the wanted type.

    Exporters cast defensively; each such node costs a copy of the value.

    Left alone when the type of the input is not known or another one, and when the result is a
    graph output and the source cannot take that place.
    """
    dropped = 0
    for node in graph:
        if not is_op(node, "Cast", "CastLike"):
            continue
        has = _type(node.inputs[0])
        wants = _type(node.inputs[1]) if node.op_type == "CastLike" else _target(node)
        if has is None or has != wants:
            continue
        if not bypass(node):
            leave(node, "its result is a graph output, which its source cannot be")
            continue
        dropped += 1
    return dropped


def _target(node: ir.Node) -> ir.DataType | None:
    to = node.attributes.get("to")
    if to is None:
        return None
    if to.type == ir.AttributeType.STRING:  # opset 1 to 5
        return ir.DataType[to.as_string()]
    return ir.DataType(to.as_int())


def _type(value: ir.Value | None) -> ir.DataType | None:
    found = tensor(value)
    if found is not None:
        return found.dtype
    if value is None or not isinstance(value.type, ir.TensorType):
        return None
    return value.type.dtype if value.type.dtype != ir.DataType.UNDEFINED else None
