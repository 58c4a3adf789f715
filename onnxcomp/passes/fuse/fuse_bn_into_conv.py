"""Conv followed by BatchNormalization."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.passes.fuse._conv_batch_norm import fold_into
from onnxcomp.registry import Effect, register


@register(Effect.CLOSE, ops=["BatchNormalization"])
def fuse_bn_into_conv(graph: ir.Graph, opset: int) -> int:
    """Fold a BatchNormalization into the Conv that feeds it.

    With y = scale * x + shift per channel: weight' = scale * weight over the first axis [out, in /
    group, ...], bias' = scale * bias + shift. One node and its read and write of the activations
    less; later passes see plain convolutions.

    Left alone when the convolution is read elsewhere, when a weight is not constant or is shared
    and large, and when the normalization trains.
    """
    return fold_into(graph, opset, "Conv")
