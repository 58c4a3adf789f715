"""Weights of Conv, ConvTranspose and Gemm under a scale per channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, node_like, replace
from onnxcomp.graph import Array, array, is_op, tensor
from onnxcomp.registry import leave

# A fused copy of a weight that other nodes still read makes the model larger; up to this many
# bytes, the node that goes away is worth it.
SHARED_LIMIT = 4096


@dataclass(frozen=True)
class Kernel:
    """The constant weight and bias (zeros where there is none) of a Conv or ConvTranspose.

    weight: Conv [out, in / group, ...], ConvTranspose [in, out / group, ...]; bias [out].
    """

    weight: Array
    bias: Array
    group: int
    transposed: bool

    @property
    def channels_in(self) -> int:
        """The channels that it reads."""
        return int(self.weight.shape[0 if self.transposed else 1]) * (
            1 if self.transposed else self.group
        )

    @property
    def channels_out(self) -> int:
        """The channels that it makes."""
        return int(self.weight.shape[1 if self.transposed else 0]) * (
            self.group if self.transposed else 1
        )

    def scale_outputs(self, scale: Array) -> Array:
        """Return the weight with each output channel times its scale [out]."""
        rest = [1] * (self.weight.ndim - 2)
        if not self.transposed:
            return self.weight * scale.reshape(-1, 1, *rest)
        grouped = self.weight.reshape(self.group, -1, *self.weight.shape[1:])
        scaled = grouped * scale.reshape(self.group, 1, -1, *rest)  # [group, in/g, out/g, ...]
        return scaled.reshape(self.weight.shape)

    def scale_inputs(self, scale: Array) -> Array:
        """Return the weight of a Conv with each input channel times its scale [in]."""
        rest = [1] * (self.weight.ndim - 2)
        grouped = self.weight.reshape(self.group, -1, *self.weight.shape[1:])
        scaled = grouped * scale.reshape(self.group, 1, -1, *rest)  # [group, out/g, in/g, ...]
        return scaled.reshape(self.weight.shape)


def kernel_of(node: ir.Node, at: ir.Node) -> Kernel | None:
    """Return the kernel of a Conv or ConvTranspose; None, with the reason left at `at`."""
    weight = array(node.inputs[1])
    given = node.inputs[2] if len(node.inputs) > 2 else None
    bias = array(given)
    if weight is None or (given is not None and bias is None):
        leave(at, "a weight of the convolution is not constant")
        return None
    if weight.ndim < 3 or weight.size == 0:
        leave(at, "the weight of the convolution has no spatial dims or no elements")
        return None
    if is_shared(node.inputs[1]):
        leave(at, "the weight is shared, a fused copy would make the model larger")
        return None
    kernel = Kernel(
        weight, np.zeros(0), node.attributes.get_int("group", 1), is_op(node, "ConvTranspose")
    )
    found = np.zeros(kernel.channels_out) if bias is None else bias
    return Kernel(weight, found, kernel.group, kernel.transposed)


def is_shared(value: ir.Value | None) -> bool:
    """Say whether a weight that is too large to copy is read more than once, or returned."""
    found = tensor(value)
    if value is None or found is None or found.nbytes <= SHARED_LIMIT:
        return False
    return len(list(value.uses())) > 1 or value.is_graph_output()


def with_kernel(
    graph: ir.Graph, old: list[ir.Node], node: ir.Node, weight: Array, bias: Array
) -> ir.Node:
    """Replace nodes, the last of which makes the result, by `node` with new weight and bias.

    The new constants have the dtype of the old weight and names made from the result's.
    """
    dtype = tensor(node.inputs[1])
    assert dtype is not None
    name = old[-1].outputs[0].name
    inputs = [
        old[0].inputs[0] if old[0] is not node else node.inputs[0],
        add_constant(graph, weight.astype(dtype.dtype.numpy()), f"{name}.weight"),
        add_constant(graph, bias.astype(dtype.dtype.numpy()), f"{name}.bias"),
    ]
    return replace(old, node_like(node, inputs))


def has_padding(conv: ir.Node) -> bool:
    """Say whether a Conv may read beyond its input's edges."""
    if conv.attributes.get_string("auto_pad", "NOTSET") == "VALID":
        return False
    if conv.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return True
    return any(conv.attributes.get_ints("pads", ()))
