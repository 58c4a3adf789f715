"""Gemm followed by Add of a constant."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.graph import is_op, sole_consumer
from onnxcomp.passes.fuse._channels import constant_operand
from onnxcomp.passes.fuse._gemm import (
    BROADCASTS_FROM,
    FLOATS,
    bias_of,
    columns_of,
    is_row,
    replace_gemm,
)
from onnxcomp.registry import Effect, leave, register


@register(Effect.CLOSE, ops=["Gemm"])
def fuse_add_into_gemm(graph: ir.Graph, opset: int) -> int:
    """Fold a constant that is added to (or subtracted from) a Gemm into its C.

    C' = beta * C + constant, beta' = 1.

    Left alone when C is not constant, when C or the constant is not one row (a scalar, [N] or [1,
    N]), and when the Gemm is read elsewhere.
    """
    fused = 0
    for gemm in graph:
        if not is_op(gemm, "Gemm") or opset < BROADCASTS_FROM:
            continue
        add = sole_consumer(gemm.outputs[0])
        if add is None or not is_op(add, "Add", "Sub"):
            continue
        constant = constant_operand(add, gemm.outputs[0], ordered=add.op_type == "Sub")
        if constant is None:
            continue
        bias, columns = bias_of(gemm), columns_of(gemm)
        if bias is None or columns is None:
            leave(add, "C or the shape of B is not constant")
            continue
        if not is_row(constant, columns) or not is_row(bias.data, columns):
            leave(add, "C or the constant is not one row")
            continue
        dtype = ir.DataType.from_numpy(constant.dtype)
        if dtype not in FLOATS:
            leave(add, "the numbers are not floats")
            continue
        signed = constant.astype("float64") * (1 if add.op_type == "Add" else -1)
        fused += replace_gemm(graph, gemm, add, dtype, bias.data + signed)
    return fused
