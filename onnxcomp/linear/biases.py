"""The biases of layers: an input of Conv and Gemm, the constant of an Add behind a MatMul."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant
from onnxcomp.graph import Array, array, is_op, sole_consumer


@dataclass(frozen=True)
class Bias:
    """Where a bias is: an input of a node, which may be missing as yet; `value` is its constant."""

    node: ir.Node
    index: int
    value: ir.Value | None

    def vector(self, channels: int) -> Array | None:
        """Return the bias as one number per channel, or None where it is of another kind."""
        if self.value is None:
            return np.zeros(channels, dtype=np.float32)
        data = array(self.value)
        if data is None or data.dtype != np.float32:
            return None
        if data.size == 1:
            return np.full(channels, data.reshape(()))
        return data.reshape(-1) if data.size == data.shape[-1] == channels else None


def find_bias(node: ir.Node) -> Bias | None:
    """Return the bias of a layer, or where it can get one; None for a MatMul without an Add."""
    if not is_op(node, "MatMul"):
        return Bias(node, 2, node.inputs[2] if len(node.inputs) > 2 else None)
    add = sole_consumer(node.outputs[0])
    if add is None or not is_op(add, "Add"):
        return None
    index = 1 - list(add.inputs).index(node.outputs[0])
    data = array(add.inputs[index])
    is_vector = data is not None and data.ndim > 0 and data.size == data.shape[-1]
    return Bias(add, index, add.inputs[index]) if is_vector else None


def replace_bias(graph: ir.Graph, bias: Bias, data: Array, suffix: str) -> None:
    """Give a layer another bias, of one number per channel."""
    old, given = bias.value, array(bias.value)
    name = bias.node.outputs[0].name if old is None else old.name
    shape = given.shape if given is not None and given.size == data.size else (data.size,)
    made = np.ascontiguousarray(data, dtype=np.float32).reshape(shape)
    bias.node.resize_inputs(max(bias.index + 1, len(bias.node.inputs)))
    bias.node.replace_input_with(bias.index, add_constant(graph, made, f"{name}.{suffix}"))
