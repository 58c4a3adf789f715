"""Products with constant matrices, one after the other."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, replace
from onnxcomp.graph import Array, array, is_op, rank, sole_producer, tensor
from onnxcomp.passes.fuse._gemm import BROADCASTS_FROM, FLOATS, bias_of, is_row
from onnxcomp.passes.fuse._weights import fitted, is_shared
from onnxcomp.registry import Effect, leave, register

# From here on Gemm's C may be left out.
BIAS_UNTIL = 11


@register(Effect.CLOSE, ops=["Gemm", "MatMul"])
def fuse_consecutive_gemms(graph: ir.Graph, opset: int) -> int:
    """Multiply two constant matrices that are applied one after the other.

    (x W1 + c1) W2 + c2 = x (W1 W2) + (c1 W2 + c2), with x [M, K], W1 [K, R] and W2 [R, N]. Computed
    in float64; two MatMuls become a MatMul, also of more dims, the rest a Gemm.

    Left alone when the product is read elsewhere, when a weight or bias is not constant or shared,
    when alpha is not 1 or A is transposed, and when K N numbers are more than K R + R N: then the
    two are a low-rank factorization, which takes fewer multiplications.
    """
    fused = 0
    for second in graph:
        if opset < BROADCASTS_FROM or not is_op(second, "Gemm", "MatMul"):
            continue
        first = sole_producer(second.inputs[0], second)
        if first is None or not is_op(first, "Gemm", "MatMul"):
            continue
        both_matmul = is_op(first, "MatMul") and is_op(second, "MatMul")
        before, after = _layer(first), _layer(second)
        if before is None or after is None:
            continue
        (w1, c1), (w2, c2) = before, after
        if w1.shape[0] * w2.shape[1] > w1.size + w2.size:
            leave(second, "the merged weight would be larger than the two")
            continue
        kind = tensor(first.inputs[1])
        if kind is None or (not both_matmul and rank(first.inputs[0]) != 2):
            continue
        data = fitted(second, kind.dtype, w1 @ w2, np.broadcast_to(c1, w1.shape[1]) @ w2 + c2)
        if data is None:
            continue
        name = second.outputs[0].name
        inputs = [first.inputs[0], add_constant(graph, data[0], f"{name}.weight")]
        if not both_matmul and (data[1].any() or opset < BIAS_UNTIL):
            inputs.append(add_constant(graph, data[1], f"{name}.bias"))
        op = "MatMul" if both_matmul else "Gemm"
        replace([first, second], ir.Node("", op, inputs, name=second.name))
        fused += 1
    return fused


def _layer(node: ir.Node) -> tuple[Array, Array] | None:
    """Return W [K, N] and c [N] (or a scalar) in float64 of y = x W + c, or None."""
    found = tensor(node.inputs[1])
    if found is None or len(found.shape) != 2 or found.dtype not in FLOATS:
        return None
    if is_shared(node.inputs[1]):
        leave(node, "its weight is shared")
        return None
    data = array(node.inputs[1])
    assert data is not None
    weight = data.astype(np.float64)
    if is_op(node, "MatMul"):
        return weight, np.zeros(())
    if node.attributes.get_float("alpha", 1.0) != 1.0 or node.attributes.get_int("transA", 0) != 0:
        return None
    weight = weight.T if node.attributes.get_int("transB", 0) != 0 else weight
    bias = bias_of(node)
    if bias is None or not is_row(bias.data, weight.shape[1]):
        leave(node, "its bias is not one constant row")
        return None
    return weight, bias.data.reshape(-1) if bias.data.ndim else bias.data
