"""MatMul followed by BatchNormalization."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import add_constant, replace
from onnxcomp.graph import array, is_op, rank, sole_producer
from onnxcomp.passes.fuse._batch_norm import affine_of
from onnxcomp.passes.fuse._gemm import BROADCASTS_FROM
from onnxcomp.passes.fuse._weights import fitted, is_shared
from onnxcomp.registry import Effect, leave, register


@register(Effect.CLOSE, ops=["BatchNormalization"])
def fuse_bn_into_matmul(graph: ir.Graph, opset: int) -> int:
    """Replace a product of two matrices and the BatchNormalization of its columns by one Gemm.

    [M, K] x [K, N] normalized per column: B = scale * weight, C = shift.

    Left alone when the product has more dims than two, since axis 1 is then not that of the
    columns; when the weight is not constant, or is shared and large; when the product is read
    elsewhere; and when the normalization trains.
    """
    fused = 0
    for bn in graph:
        if not is_op(bn, "BatchNormalization") or opset < BROADCASTS_FROM:
            continue
        matmul = sole_producer(bn.inputs[0], bn)
        if matmul is None or not is_op(matmul, "MatMul"):
            continue
        weight = array(matmul.inputs[1])
        if rank(matmul.inputs[0]) != 2 or weight is None or weight.ndim != 2:
            leave(bn, "the product is not one of a matrix and a constant matrix")
            continue
        if is_shared(matmul.inputs[1]):
            leave(bn, "the weight is shared, a fused copy would make the model larger")
            continue
        affine = affine_of(bn, opset)
        if affine is None:
            continue
        scaled = weight * affine.scale  # [K, N]
        parts = fitted(bn, ir.DataType.from_numpy(weight.dtype), scaled, affine.shift)
        if parts is None:
            continue
        name = bn.outputs[0].name
        inputs = [
            matmul.inputs[0],
            add_constant(graph, parts[0], f"{name}.weight"),
            add_constant(graph, parts[1], f"{name}.bias"),
        ]
        replace([matmul, bn], ir.Node("", "Gemm", inputs, name=matmul.name))
        fused += 1
    return fused
