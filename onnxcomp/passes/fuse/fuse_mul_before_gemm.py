"""Mul or Div by a constant followed by Gemm or MatMul."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import add_constant, node_like, replace
from onnxcomp.graph import is_op, sole_consumer, tensor
from onnxcomp.passes._broadcast import dims_of
from onnxcomp.passes.fuse._factors import factor_of, is_turned, matrix_of, times
from onnxcomp.passes.fuse._gemm import BROADCASTS_FROM
from onnxcomp.registry import Effect, leave, register


@register(Effect.CLOSE, ops=["Mul", "Div"])
def fuse_mul_before_gemm(graph: ir.Graph, opset: int) -> int:
    """Fold a constant factor of the first operand of a Gemm or MatMul into its weight.

    (A s) B = A (s B), with s one number or one per row of B [K, N].

    Left alone when B is not constant, or is shared and large; when the factor may enlarge A, or is
    a row of an A that is read transposed; when the scaled A is read elsewhere; when a weight does
    not fit its type any more; and when A is itself a product or quotient: the factor may then end a
    GELU or a normalization, which runtimes know by its nodes.
    """
    fused = 0
    for mul in graph:
        if opset < BROADCASTS_FROM or not is_op(mul, "Mul", "Div"):
            continue
        product = sole_consumer(mul.outputs[0])
        if product is None or not is_op(product, "Gemm", "MatMul"):
            continue
        source = next((value for value in mul.inputs if tensor(value) is None), None)
        if source is None or product.inputs[0] is not mul.outputs[0]:
            continue
        scale = factor_of(mul, source, dims_of(source))
        if scale is None:
            continue
        matrix = matrix_of(product, mul)
        if matrix is None:
            continue
        if scale.ndim and is_turned(product, "transA"):
            leave(mul, "the factor is not one number per row of the weight")
            continue
        if _is_product(source.producer()):
            leave(mul, "it may end an activation or a normalization that runtimes know")
            continue
        by_row = scale.ndim and not is_turned(product, "transB")
        weight = times(mul, matrix, scale[:, None] if by_row else scale, matrix.dtype)
        if weight is None:
            continue
        constant = add_constant(graph, weight, f"{product.outputs[0].name}.weight")
        replace([mul, product], node_like(product, [source, constant, *product.inputs[2:]]))
        fused += 1
    return fused


def _is_product(node: ir.Node | None) -> bool:
    """Say whether a node multiplies or divides two values that are both computed."""
    if node is None or not is_op(node, "Mul", "Div"):
        return False
    return all(tensor(value) is None for value in node.inputs)
