"""Gemm followed by BatchNormalization."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.graph import array, is_op, sole_producer
from onnxcomp.passes.fuse._batch_norm import affine_of
from onnxcomp.passes.fuse._gemm import BROADCASTS_FROM, bias_of, is_row, replace_gemm
from onnxcomp.passes.fuse._weights import is_shared
from onnxcomp.registry import Effect, leave, register


@register(Effect.CLOSE, ops=["BatchNormalization"])
def fuse_bn_into_gemm(graph: ir.Graph, opset: int) -> int:
    """Fold a BatchNormalization into the Gemm that feeds it.

    With y = scale * x + shift per column: B' = scale * B over its columns (rows with transB), C' =
    scale * beta * C + shift as [N], beta' = 1; alpha stays.

    Left alone when B or C is not constant, when C is not one row, when B is shared and large, when
    the Gemm is read elsewhere, and when the normalization trains.
    """
    fused = 0
    for bn in graph:
        if not is_op(bn, "BatchNormalization") or opset < BROADCASTS_FROM:
            continue
        gemm = sole_producer(bn.inputs[0], bn)
        if gemm is None or not is_op(gemm, "Gemm"):
            continue
        affine = affine_of(bn, opset)
        if affine is None:
            continue
        weight, bias = array(gemm.inputs[1]), bias_of(gemm)
        if weight is None or bias is None or not is_row(bias.data, len(affine.scale)):
            leave(bn, "B or C of the Gemm is not constant, or C is not one row")
            continue
        if is_shared(gemm.inputs[1]):
            leave(bn, "the weight is shared, a fused copy would make the model larger")
            continue
        transposed = gemm.attributes.get_int("transB", 0)
        scaled = weight * (affine.scale[:, None] if transposed else affine.scale)
        row = np.broadcast_to(bias.data.reshape(-1), affine.scale.shape)
        shifted = row * affine.scale + affine.shift
        dtype = ir.DataType.from_numpy(weight.dtype)
        fused += replace_gemm(graph, gemm, bn, dtype, shifted, scaled)
    return fused
