"""What only Shape and Size read, and does not change the shape."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import remove
from onnxcomp.graph import QUANTIZATION_OPS, is_op, only_first_output
from onnxcomp.registry import Effect, register
from onnxcomp.symbolic.shape_rules import SAME_SHAPE

KEEPS_SHAPE = SAME_SHAPE - QUANTIZATION_OPS


@register(Effect.EXACT, ops=["Shape", "Size"])
def eliminate_elementwise_before_shape(graph: ir.Graph) -> int:
    """Drop nodes that keep the shape and that only Shape and Size read.

    Shape(f(x)) = Shape(x) for a Cast, an activation, a normalization: any f of which the shape of
    the result is that of the first input.

    Left alone when f is read by anything else. To read x there would not save f, and would keep f
    from being fused into what makes x.
    """
    dropped = 0
    for node in reversed(graph):  # from the end, so that a chain goes at once
        if not is_op(node, *KEEPS_SHAPE) or not only_first_output(node):
            continue
        value, source = node.outputs[0], node.inputs[0]
        readers = value.consumers()
        if source is None or not readers or value.is_graph_output():
            continue
        if not all(is_op(reader, "Shape", "Size") for reader in readers):
            continue
        value.replace_all_uses_with(source)
        remove(node)
        dropped += 1
    return dropped
