"""Mul by a constant followed by Conv."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.graph import array, is_op, rank, sole_consumer
from onnxcomp.passes.fuse._channels import constant_operand, per_channel
from onnxcomp.passes.fuse._weights import kernel_of, replace_conv
from onnxcomp.registry import Effect, leave, register


@register(Effect.CLOSE, ops=["Conv"])
def fuse_mul_before_conv(graph: ir.Graph) -> int:
    """Fold a constant factor of a Conv's input into its weights.

    weight' = weight * scale over the input channels [out, in / group, ...]. Padding does not
    matter, since 0 stays 0. The constant must be one number, or one per channel.

    Left alone when the constant varies along another axis or may enlarge the input, when the
    product is read elsewhere, and when a weight is not constant or is shared and large.
    """
    fused = 0
    for mul in graph:
        if not is_op(mul, "Mul"):
            continue
        conv = sole_consumer(mul.outputs[0])
        if conv is None or not is_op(conv, "Conv") or conv.inputs[0] is not mul.outputs[0]:
            continue
        source = next((value for value in mul.inputs if array(value) is None), None)
        constant = None if source is None else constant_operand(mul, source)
        if source is None or constant is None:
            continue
        kernel = kernel_of(conv, mul)
        if kernel is None:
            continue
        scale = per_channel(constant, kernel.weight.ndim, kernel.channels_in)
        if scale is None or not np.isfinite(scale).all():
            leave(mul, "the constant is not one finite number per channel")
            continue
        if not _keeps_shape(source, constant.ndim, constant.size, kernel.weight.ndim):
            leave(mul, "the constant may enlarge the input")
            continue
        weight = kernel.scale_inputs(scale)
        fused += replace_conv(graph, [mul, conv], conv, source, kernel.bias, weight)
    return fused


def _keeps_shape(source: ir.Value, dims: int, size: int, wanted: int) -> bool:
    """Say whether the product surely has the shape of the source."""
    if dims == wanted and rank(source) != wanted:
        return False
    if size == 1:
        return True
    shape = source.shape
    return shape is not None and len(shape) == wanted and shape[1] == size
