"""MatMul or Gemm between a Reshape to a matrix and one back."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, replace
from onnxcomp.graph import array, is_op, sole_producer, static_shape
from onnxcomp.passes._broadcast import dims_of
from onnxcomp.passes.fuse._weights import is_shared
from onnxcomp.registry import Effect, leave, register

RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@register(Effect.CLOSE, ops=["MatMul", "Gemm"])
def fuse_reshape_around_matmul(graph: ir.Graph) -> int:
    """Multiply a value of more dims by a matrix as it is, not as a matrix that is shaped back.

    [.., M, K] -> [.. M, K] x [K, N] -> [.., M, N] is a MatMul of [.., M, K], which runtimes compute
    as one product all the same.

    Left alone when the second Reshape does not surely restore the leading dims, when the product is
    read elsewhere, and when a Gemm transposes A, scales, or has a C, which would take a node more.
    """
    fused = 0
    for second in graph:
        if not is_op(second, *RESHAPES):
            continue
        product = sole_producer(second.inputs[0], second)
        if product is None or not is_op(product, "MatMul", "Gemm"):
            continue
        first = None if product.inputs[0] is None else product.inputs[0].producer()
        if first is None or not is_op(first, *RESHAPES):
            continue
        if not _is_plain(product):
            leave(product, "it transposes A, scales, or has a C")
            continue
        turned = product.attributes.get_int("transB", 0) != 0
        shape = static_shape(product.inputs[1])
        if shape is None or len(shape) != 2:
            continue
        rows, columns = shape[::-1] if turned else shape
        if not _restores(first.inputs[0], second.outputs[0], rows, columns):
            leave(second, "it does not surely restore the leading dims")
            continue
        weight = product.inputs[1]
        if turned:
            data = array(weight)
            if data is None or is_shared(weight):
                leave(product, "its weight is not constant, or shared, and would have to be turned")
                continue
            weight = add_constant(
                graph, np.ascontiguousarray(data.T), f"{second.outputs[0].name}.weight"
            )
        new = ir.Node("", "MatMul", [first.inputs[0], weight], name=product.name)
        replace([first, product, second], new)
        fused += 1
    return fused


def _is_plain(product: ir.Node) -> bool:
    """Say whether a product is A B: a MatMul, or such a Gemm."""
    attributes = product.attributes
    if attributes.get_int("transA", 0) != 0 or attributes.get_float("alpha", 1.0) != 1.0:
        return False
    return len(product.inputs) < 3 or product.inputs[2] is None


def _restores(x: ir.Value | None, y: ir.Value, rows: int, columns: int) -> bool:
    """Say whether y surely has the dims of x, but `columns` in the place of its last, `rows`.

    One dim may be unknown where the others are numbers: then the number of elements tells it.
    """
    source, result = dims_of(x), dims_of(y)
    if not source or not result or len(source) != len(result):
        return False
    if (source[-1], result[-1]) != (rows, columns):
        return False
    leading = list(zip(source[:-1], result[:-1], strict=True))
    unsure = [pair for pair in leading if None in pair or pair[0] != pair[1]]
    if not unsure:
        return True
    known = [rows, columns, *(dim for dim, other in leading if (dim, other) not in unsure)]
    return len(unsure) == 1 and all(isinstance(dim, int) and dim > 0 for dim in known)
