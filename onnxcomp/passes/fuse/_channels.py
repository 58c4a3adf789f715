"""Constant operands that are one number per channel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.graph import Array, array


def constant_operand(node: ir.Node, source: ir.Value, *, ordered: bool = False) -> Array | None:
    """Return the constant that a two-input node combines with `source`, or None.

    `ordered` wants the constant second, as Sub and Div do. Before opset 7 an attribute `axis` says
    where the constant lies; then None.
    """
    if "axis" in node.attributes:
        return None
    first, second = node.inputs[0], node.inputs[1]
    if first is source:
        return array(second)
    if second is source and not ordered:
        return array(first)
    return None


def per_channel(constant: Array, rank: int, channels: int) -> Array | None:
    """Return a constant as float64 [channels] if it varies along axis 1 of a result at most.

    A constant of one element counts for every channel. None when it varies along another axis, or
    when it would enlarge the result: more dims than it, or another number of channels.
    """
    if constant.ndim > rank:
        return None
    dims = (1,) * (rank - constant.ndim) + constant.shape
    if any(size != 1 for axis, size in enumerate(dims) if axis != 1):
        return None
    if rank < 2 or dims[1] not in (1, channels):
        return None
    return np.broadcast_to(constant.reshape(-1).astype(np.float64), (channels,))
