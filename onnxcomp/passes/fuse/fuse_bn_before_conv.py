"""BatchNormalization followed by Conv."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.graph import is_op, sole_consumer
from onnxcomp.passes.fuse._batch_norm import affine_of
from onnxcomp.passes.fuse._weights import has_padding, kernel_of, replace_conv
from onnxcomp.registry import Effect, leave, register


@register(Effect.CLOSE, ops=["BatchNormalization"])
def fuse_bn_before_conv(graph: ir.Graph, opset: int) -> int:
    """Fold a BatchNormalization into the Conv that alone reads it.

    weight' = weight * scale over the input channels [out, in / group, ...]; bias' = bias + the sum
    of weight * shift over input channels and kernel. Only without padding: the border of a padded
    input is 0 after the normalization, which no bias can say.

    Left alone when the convolution pads, when the normalization is read elsewhere or trains, and
    when a weight is not constant or is shared and large.
    """
    fused = 0
    for bn in graph:
        if not is_op(bn, "BatchNormalization"):
            continue
        conv = sole_consumer(bn.outputs[0])
        if conv is None or not is_op(conv, "Conv") or conv.inputs[0] is not bn.outputs[0]:
            continue
        if has_padding(conv):
            leave(bn, "the convolution that reads it pads its input")
            continue
        affine = affine_of(bn, opset)
        kernel = kernel_of(conv, bn) if affine is not None else None
        if affine is None or kernel is None:
            continue
        shifted = kernel.scale_inputs(affine.shift)  # [out, in / group, ...]
        bias = kernel.bias + shifted.reshape(len(shifted), -1).sum(axis=1)
        weight = kernel.scale_inputs(affine.scale)
        fused += replace_conv(graph, [bn, conv], conv, bn.inputs[0], bias, weight)
    return fused
