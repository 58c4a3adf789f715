"""ConvTranspose followed by BatchNormalization."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.graph import is_op, sole_producer
from onnxcomp.passes.fuse._batch_norm import affine_of
from onnxcomp.passes.fuse._weights import kernel_of, with_kernel
from onnxcomp.registry import Effect, register


@register(Effect.CLOSE)
def fuse_bn_into_conv_transpose(graph: ir.Graph, opset: int) -> int:
    """Fold a BatchNormalization into the ConvTranspose that feeds it.

    The weight is [in, out / group, ...]: output channel g * out/group + j is column j of the g-th
    block of rows, so scale applies to [group, in / group, out / group, ...] as [group, 1, out /
    group, 1]. bias' = scale * bias + shift.

    Left alone when the convolution is read elsewhere, when a weight is not constant or is shared
    and large, and when the normalization trains.
    """
    fused = 0
    for bn in graph:
        if not is_op(bn, "BatchNormalization"):
            continue
        conv = sole_producer(bn.inputs[0], bn)
        if conv is None or not is_op(conv, "ConvTranspose"):
            continue
        affine = affine_of(bn, opset)
        kernel = kernel_of(conv, bn) if affine is not None else None
        if affine is None or kernel is None:
            continue
        bias = kernel.bias * affine.scale + affine.shift  # [out]
        with_kernel(graph, [conv, bn], conv, kernel.scale_outputs(affine.scale), bias)
        fused += 1
    return fused
