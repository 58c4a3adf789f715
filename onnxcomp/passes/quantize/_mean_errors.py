"""The mean errors of int8 layers that follow from their weights, without data."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.moments import Moments
from onnxcomp.graph import Array, array, is_op

# How far, in steps, a stored weight may be from the float one: farther, it is another weight.
ROUNDED = 0.51


def mean_error(node: ir.Node, twin: ir.Node, known: dict[str, Moments]) -> Array | None:
    """Return E[y_float - y_int8] = (W - Wq) E[x] of each output channel of an int8 layer.

    `twin` is the node with float weights, `known` has the mean of each channel of its input. None
    where that or the weights are not known, and where the weights stand for more than the twin's.
    """
    source = twin.inputs[0]
    moments = known.get(source.name or "") if source is not None else None
    weight, lost = array(twin.inputs[1]), _lost(node, twin)
    if moments is None or weight is None or lost is None:
        return None
    summed = _summed_over_positions(twin, lost)
    if moments.mean.size not in (1, summed.shape[1]) or not np.isfinite(moments.mean).all():
        return None
    return np.asarray((summed * moments.mean[None, :]).sum(axis=1))


def _lost(node: ir.Node, twin: ir.Node) -> Array | None:
    """Return what rounding took from a weight: W - scale * q."""
    dequantize = node.inputs[1].producer() if node.inputs[1] is not None else None
    weight = array(twin.inputs[1])
    if weight is None or not is_op(dequantize, "DequantizeLinear") or dequantize is None:
        return None
    steps, scale = array(dequantize.inputs[0]), array(dequantize.inputs[1])
    if steps is None or scale is None or steps.shape != weight.shape:
        return None
    axis = dequantize.attributes.get_int("axis", 1) if scale.ndim else 0
    shape = [-1 if i == axis % weight.ndim else 1 for i in range(weight.ndim)]
    scale = scale.astype(np.float64).reshape(shape if scale.ndim else ())
    lost = weight.astype(np.float64) - scale * steps
    return lost if np.all(np.abs(lost) <= ROUNDED * scale) else None


def _summed_over_positions(node: ir.Node, weight: Array) -> Array:
    """Return a weight as [outputs, inputs], where each input is one channel.

    Of a depthwise convolution, whose channels are their own inputs, as a diagonal matrix.
    """
    if is_op(node, "Conv"):
        flat = weight.reshape(*weight.shape[:2], -1).sum(axis=-1)
        group = node.attributes.get_int("group", 1)
        rows, columns = flat.shape
        full = np.zeros((rows, columns * group))
        for index in range(group):
            part = slice(index * rows // group, (index + 1) * rows // group)
            full[part, index * columns : (index + 1) * columns] = flat[part]
        return full
    transposed = is_op(node, "Gemm") and node.attributes.get_int("transB", 0) != 0
    return weight if transposed else weight.T
