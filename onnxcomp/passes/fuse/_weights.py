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


def kernel_of(conv: ir.Node, at: ir.Node, *, copied: bool = True) -> Kernel | None:
    """Return the kernel of a Conv or ConvTranspose; None, with the reason left at `at`.

    A weight that is shared and large has no kernel, unless only the bias is to change (`copied`).
    """
    weight = array(conv.inputs[1])
    given = conv.inputs[2] if len(conv.inputs) > 2 else None
    bias = array(given)
    if weight is None or (given is not None and bias is None):
        leave(at, "a weight of the convolution is not constant")
        return None
    if weight.ndim < 3 or weight.size == 0:
        leave(at, "the weight of the convolution has no spatial dims or no elements")
        return None
    if copied and is_shared(conv.inputs[1]):
        leave(at, "the weight is shared, a fused copy would make the model larger")
        return None
    kernel = Kernel(
        weight, np.zeros(0), conv.attributes.get_int("group", 1), is_op(conv, "ConvTranspose")
    )
    found = np.zeros(kernel.channels_out) if bias is None else bias
    return Kernel(weight, found, kernel.group, kernel.transposed)


def is_shared(value: ir.Value | None) -> bool:
    """Say whether a weight that is too large to copy is read more than once, or returned."""
    found = tensor(value)
    if value is None or found is None or found.nbytes <= SHARED_LIMIT:
        return False
    return len(list(value.uses())) > 1 or value.is_graph_output()


def fitted(at: ir.Node, dtype: ir.DataType, *data: Array) -> list[Array] | None:
    """Return arrays in the type of the old weights.

    None, with the reason left at `at`, when a number does not fit it.
    """
    with np.errstate(over="ignore"):
        found = [item.astype(dtype.numpy()) for item in data]
    if not all(np.isfinite(item).all() for item in found):
        leave(at, "a fused weight does not fit its type")
        return None
    return found


def replace_conv(
    graph: ir.Graph,
    old: list[ir.Node],
    conv: ir.Node,
    source: ir.Value | None,
    bias: Array,
    weight: Array | None = None,
) -> bool:
    """Replace nodes, the last of which makes the result, by `conv` over `source` with a new bias.

    The weight is new too if one is given. New constants have the type of the old weight and names
    made from the result's; a bias of zeros is not added. Returns False, with the reason left, when
    a number does not fit the type.
    """
    kind = tensor(conv.inputs[1])
    assert kind is not None
    gone = old[0] if old[0] is not conv else old[-1]
    parts = fitted(gone, kind.dtype, bias, *([] if weight is None else [weight]))
    if parts is None:
        return False
    name = old[-1].outputs[0].name
    inputs = [source, conv.inputs[1]]
    if weight is not None:
        inputs[1] = add_constant(graph, parts[1], f"{name}.weight")
    if parts[0].any():
        inputs.append(add_constant(graph, parts[0], f"{name}.bias"))
    replace(old, node_like(conv, inputs))
    return True


def has_padding(conv: ir.Node) -> bool:
    """Say whether a Conv may read beyond its input's edges."""
    if conv.attributes.get_string("auto_pad", "NOTSET") == "VALID":
        return False
    if conv.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return True
    return any(conv.attributes.get_ints("pads", ()))
