"""Conv followed by BatchNormalization."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.graph import add_constant, array, is_op, node_like, replace, sole_producer
from onnxcomp.passes.fuse._batch_norm import affine_of
from onnxcomp.registry import Effect, leave, register


@register(Effect.CLOSE)
def fuse_bn_into_conv(graph: ir.Graph, opset: int) -> int:
    """Fold a BatchNormalization into the Conv that feeds it.

    With y = scale * x + shift per channel: weight' = scale * weight over the first axis [out, in /
    group, ...], bias' = scale * bias + shift. One node and its read and write of the activations
    less; later passes see plain convolutions.

    Left alone when the convolution is read elsewhere, when a weight is not constant, and when the
    normalization trains.
    """
    fused = 0
    for bn in graph:
        if not is_op(bn, "BatchNormalization"):
            continue
        conv = sole_producer(bn.inputs[0], bn)
        if conv is None or not is_op(conv, "Conv"):
            continue
        affine = affine_of(bn, opset)
        if affine is None:
            continue
        weight = array(conv.inputs[1])
        bias = array(conv.inputs[2]) if len(conv.inputs) > 2 and conv.inputs[2] else np.float64(0)
        if weight is None or bias is None:
            leave(bn, "a weight of the convolution is not constant")
            continue
        new_weight = weight * affine.scale.reshape(-1, *[1] * (weight.ndim - 1))  # [out, in/g, ...]
        new_bias = bias * affine.scale + affine.shift  # [out]
        name = bn.outputs[0].name
        inputs = [
            conv.inputs[0],
            add_constant(graph, new_weight.astype(weight.dtype), f"{name}.weight"),
            add_constant(graph, new_bias.astype(weight.dtype), f"{name}.bias"),
        ]
        replace([conv, bn], node_like(conv, inputs))
        fused += 1
    return fused
