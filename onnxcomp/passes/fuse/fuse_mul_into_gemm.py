"""Gemm or MatMul followed by Mul or Div of a constant."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, attributes_except, node_like, replace
from onnxcomp.graph import Array, array, is_op, rank, sole_consumer
from onnxcomp.passes.fuse._factors import factor_of, is_turned, matrix_of, times
from onnxcomp.passes.fuse._gemm import BROADCASTS_FROM, bias_of, columns_of, is_row
from onnxcomp.passes.fuse._patterns import other_operand
from onnxcomp.passes.fuse._weights import is_shared
from onnxcomp.registry import Effect, leave, register


@register(Effect.CLOSE, ops=["Mul", "Div"])
def fuse_mul_into_gemm(graph: ir.Graph, opset: int) -> int:
    """Fold a constant factor of a Gemm or MatMul, which may have a bias, into its weight.

    (A B + c) s = A (B s) + c s, with s one number or one per column of B [K, N]. The bias c may be
    added to a MatMul by a node of its own, which stays.

    Left alone when B is not constant, or is shared and large; when c is not constant, or not one
    row in a Gemm; when the factor may enlarge the result; when the product is read elsewhere; and
    when a weight does not fit its type any more.
    """
    fused = 0
    for product in graph:
        if opset < BROADCASTS_FROM or not is_op(product, "Gemm", "MatMul"):
            continue
        add = sole_consumer(product.outputs[0])
        if not is_op(product, "MatMul") or not is_op(add, "Add"):
            add = None
        last = add or product
        mul = sole_consumer(last.outputs[0])
        if mul is None or not is_op(mul, "Mul", "Div"):
            continue
        before, columns = (rank(product.inputs[0]) or 1) - 1, columns_of(product)
        if columns is None:
            continue
        scale = factor_of(mul, last.outputs[0], [*[None] * before, columns])
        if scale is None:
            continue
        matrix = matrix_of(product, mul)
        if matrix is None:
            continue
        bias = _bias(product, add, columns)
        if bias is None:
            leave(mul, "what is added before it is not constant, or not one row")
            continue
        if np.broadcast(bias, scale).size > max(bias.size, scale.size):
            leave(mul, "the factor would enlarge the bias")
            continue
        turned = scale.ndim and is_turned(product, "transB")
        weight = times(mul, matrix, scale[:, None] if turned else scale, matrix.dtype)
        bias = times(mul, bias, scale, matrix.dtype)
        if weight is None or bias is None:
            continue
        name = mul.outputs[0].name
        inputs = [product.inputs[0], add_constant(graph, weight, f"{name}.weight")]
        if add is not None:
            product = replace([product], node_like(product, inputs))
            inputs = [product.outputs[0], add_constant(graph, bias, f"{name}.bias")]
            replace([add, mul], node_like(add, inputs))
        elif len(product.inputs) > 2 and product.inputs[2] is not None:
            inputs.append(add_constant(graph, bias, f"{name}.bias"))
            replace([product, mul], node_like(product, inputs, attributes_except(product, "beta")))
        else:
            replace([product, mul], node_like(product, inputs))
        fused += 1
    return fused


def _bias(product: ir.Node, add: ir.Node | None, columns: int) -> Array | None:
    """Return what is added to A B, zero where nothing is; None when it is no constant to scale."""
    if is_op(product, "Gemm"):
        found = bias_of(product)
        return found.data if found is not None and is_row(found.data, columns) else None
    if add is None:
        return np.zeros(())
    value = other_operand(add, product.outputs[0])
    return None if is_shared(value) else array(value)
