"""BatchNormalization behind a convolution of either kind."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.graph import is_op, sole_producer
from onnxcomp.passes.fuse._batch_norm import affine_of
from onnxcomp.passes.fuse._weights import kernel_of, replace_conv


def fold_into(graph: ir.Graph, opset: int, op_type: str) -> int:
    """Fold each BatchNormalization that alone reads an `op_type` node into it; return how many."""
    fused = 0
    for bn in graph:
        if not is_op(bn, "BatchNormalization"):
            continue
        conv = sole_producer(bn.inputs[0], bn)
        if conv is None or not is_op(conv, op_type):
            continue
        affine = affine_of(bn, opset)
        kernel = kernel_of(conv, bn) if affine is not None else None
        if affine is None or kernel is None:
            continue
        bias = kernel.bias * affine.scale + affine.shift  # [out]
        weight = kernel.scale_outputs(affine.scale)
        fused += replace_conv(graph, [conv, bn], conv, conv.inputs[0], bias, weight)
    return fused
