"""Conv followed by BatchNormalization."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.graph import is_op, sole_producer
from onnxcomp.passes.fuse._batch_norm import affine_of
from onnxcomp.passes.fuse._weights import kernel_of, with_kernel
from onnxcomp.registry import Effect, register


@register(Effect.CLOSE)
def fuse_bn_into_conv(graph: ir.Graph, opset: int) -> int:
    """Fold a BatchNormalization into the Conv that feeds it.

    With y = scale * x + shift per channel: weight' = scale * weight over the first axis [out, in /
    group, ...], bias' = scale * bias + shift. One node and its read and write of the activations
    less; later passes see plain convolutions.

    Left alone when the convolution is read elsewhere, when a weight is not constant or is shared
    and large, and when the normalization trains.
    """
    fused = 0
    for bn in graph:
        if not is_op(bn, "BatchNormalization"):
            continue
        conv = sole_producer(bn.inputs[0], bn)
        if conv is None or not is_op(conv, "Conv"):
            continue
        affine = affine_of(bn, opset)
        kernel = kernel_of(conv, bn) if affine is not None else None
        if affine is None or kernel is None:
            continue
        bias = kernel.bias * affine.scale + affine.shift  # [out]
        with_kernel(graph, [conv, bn], conv, kernel.scale_outputs(affine.scale), bias)
        fused += 1
    return fused
