"""Conv or ConvTranspose followed by Add of a constant."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.graph import is_op, sole_consumer
from onnxcomp.passes.fuse._channels import constant_operand, per_channel
from onnxcomp.passes.fuse._weights import kernel_of, replace_conv
from onnxcomp.registry import Effect, leave, register


@register(Effect.CLOSE, ops=["Conv", "ConvTranspose"])
def fuse_add_into_conv(graph: ir.Graph) -> int:
    """Fold a constant that is added to (or subtracted from) a convolution into its bias.

    bias' = bias + constant [out]. The constant must be one number, or one per channel: [C, 1, 1],
    [1, C, 1, 1] for images.

    Left alone when the constant varies along another axis ([C] alone lies on the last one), when
    it would enlarge the result, when the convolution is read elsewhere, and when a weight is not
    constant. The weight itself stays, so it may be shared.
    """
    fused = 0
    for conv in graph:
        if not is_op(conv, "Conv", "ConvTranspose"):
            continue
        add = sole_consumer(conv.outputs[0])
        if add is None or not is_op(add, "Add", "Sub"):
            continue
        constant = constant_operand(add, conv.outputs[0], ordered=add.op_type == "Sub")
        if constant is None:
            continue
        kernel = kernel_of(conv, add, copied=False)
        if kernel is None:
            continue
        shift = per_channel(constant, kernel.weight.ndim, kernel.channels_out)
        if shift is None:
            leave(add, "the constant is not one number per channel")
            continue
        bias = kernel.bias + (shift if add.op_type == "Add" else -shift)
        fused += replace_conv(graph, [conv, add], conv, conv.inputs[0], bias)
    return fused
