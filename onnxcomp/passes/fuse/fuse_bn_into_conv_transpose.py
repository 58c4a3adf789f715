"""ConvTranspose followed by BatchNormalization."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.passes.fuse._conv_batch_norm import fold_into
from onnxcomp.registry import Effect, register


@register(Effect.CLOSE, ops=["BatchNormalization"])
def fuse_bn_into_conv_transpose(graph: ir.Graph, opset: int) -> int:
    """Fold a BatchNormalization into the ConvTranspose that feeds it.

    The weight is [in, out / group, ...]: output channel g * out/group + j is column j of the g-th
    block of rows, so scale applies to [group, in / group, out / group, ...] as [group, 1, out /
    group, 1]. bias' = scale * bias + shift.

    Left alone when the convolution is read elsewhere, when a weight is not constant or is shared
    and large, and when the normalization trains.
    """
    return fold_into(graph, opset, "ConvTranspose")
