"""Conv or ConvTranspose followed by Mul or Div by a constant."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.graph import is_op, sole_consumer
from onnxcomp.passes.fuse._channels import constant_operand, per_channel
from onnxcomp.passes.fuse._weights import kernel_of, replace_conv
from onnxcomp.registry import Effect, leave, register


@register(Effect.CLOSE, ops=["Conv", "ConvTranspose"])
def fuse_mul_into_conv(graph: ir.Graph) -> int:
    """Fold a constant factor (or divisor) of a convolution's result into its weights.

    weight' = scale * weight over the output channels, bias' = scale * bias, with scale = constant
    or 1 / constant. The constant must be one number, or one per channel.

    Left alone when the constant varies along another axis, would enlarge the result, or is a
    divisor of 0; when the convolution is read elsewhere; and when a weight is not constant or is
    shared and large.
    """
    fused = 0
    for conv in graph:
        if not is_op(conv, "Conv", "ConvTranspose"):
            continue
        mul = sole_consumer(conv.outputs[0])
        if mul is None or not is_op(mul, "Mul", "Div"):
            continue
        constant = constant_operand(mul, conv.outputs[0], ordered=mul.op_type == "Div")
        if constant is None:
            continue
        kernel = kernel_of(conv, mul)
        if kernel is None:
            continue
        scale = per_channel(constant, kernel.weight.ndim, kernel.channels_out)
        if scale is None:
            leave(mul, "the constant is not one number per channel")
            continue
        if not np.isfinite(scale).all() or (mul.op_type == "Div" and not scale.all()):
            leave(mul, "the constant is infinite, or a divisor of zero")
            continue
        scale = 1 / scale if mul.op_type == "Div" else scale
        bias, weight = kernel.bias * scale, kernel.scale_outputs(scale)
        fused += replace_conv(graph, [conv, mul], conv, conv.inputs[0], bias, weight)
    return fused
