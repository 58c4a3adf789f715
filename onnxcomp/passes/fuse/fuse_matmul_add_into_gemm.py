"""MatMul followed by Add of a bias."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import replace
from onnxcomp.graph import is_op, rank, sole_consumer, static_shape, tensor
from onnxcomp.passes.fuse._channels import constant_operand
from onnxcomp.passes.fuse._gemm import BROADCASTS_FROM, FLOATS, is_row
from onnxcomp.registry import Effect, leave, register


@register(Effect.CLOSE, ops=["MatMul"])
def fuse_matmul_add_into_gemm(graph: ir.Graph, opset: int) -> int:
    """Replace a product of two matrices and the constant added to it by one Gemm.

    [M, K] x [K, N] + [N]: the bias is added while the product is still in registers.

    Left alone when an operand is not surely a matrix, when the numbers are integers (ONNX Runtime
    has no such Gemm), when the constant is not one row (a scalar, [N] or [1, N]), and when the
    product is read elsewhere.
    """
    fused = 0
    for matmul in graph:
        if not is_op(matmul, "MatMul") or opset < BROADCASTS_FROM:
            continue
        add = sole_consumer(matmul.outputs[0])
        if add is None or not is_op(add, "Add"):
            continue
        bias = constant_operand(add, matmul.outputs[0])
        if bias is None:
            continue
        shape = static_shape(matmul.inputs[1])
        if rank(matmul.inputs[0]) != 2 or shape is None or len(shape) != 2:
            leave(add, "the product is not surely one of two matrices")
            continue
        value = add.inputs[1] if add.inputs[0] is matmul.outputs[0] else add.inputs[0]
        found = tensor(value)
        if found is None or found.dtype not in FLOATS:
            leave(add, "the numbers are not floats")
            continue
        if not is_row(bias, shape[1]):
            leave(add, "the constant is not one row")
            continue
        gemm = ir.Node("", "Gemm", [*matmul.inputs, value], name=matmul.name)
        replace([matmul, add], gemm)
        fused += 1
    return fused
