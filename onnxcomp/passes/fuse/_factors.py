"""Constant factors before and after products with constant matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxcomp.graph import Array, array, is_op, tensor
from onnxcomp.passes._broadcast import Dim, outlasts
from onnxcomp.passes.fuse._gemm import FLOATS
from onnxcomp.passes.fuse._weights import fitted, is_shared
from onnxcomp.registry import leave


def factor_of(mul: ir.Node, source: ir.Value, dims: Sequence[Dim] | None) -> Array | None:
    """Return what a Mul or Div multiplies `source` by, in float64: one number (0-d) or a row.

    `dims` are the last dims of the source. None, with the reason left where the other operand is a
    constant, when it is no such factor.
    """
    first, second = mul.inputs[0], mul.inputs[1]
    found = tensor(second if first is source else first)
    if found is None or found.dtype not in FLOATS or (is_op(mul, "Div") and first is not source):
        return None
    if found.size != 1 and found.size != found.shape[-1]:
        leave(mul, "the factor is more than a row")
        return None
    known, shape = tuple(dims or ()), found.shape.numpy()
    if len(shape) > len(known) or not all(map(outlasts, reversed(known), reversed(shape))):
        leave(mul, "the factor may enlarge what it multiplies")
        return None
    data = found.numpy().astype(np.float64).reshape(() if found.size == 1 else -1)
    with np.errstate(divide="ignore"):
        return np.asarray(1 / data if is_op(mul, "Div") else data)


def matrix_of(product: ir.Node, at: ir.Node) -> Array | None:
    """Return the constant matrix B of a Gemm or MatMul; None, with the reason left at `at`."""
    matrix = array(product.inputs[1])
    if matrix is None or matrix.ndim != 2:
        leave(at, "the product is not one with a constant matrix")
        return None
    if is_shared(product.inputs[1]):
        leave(at, "the weight is shared, a fused copy would make the model larger")
        return None
    return matrix


def is_turned(product: ir.Node, name: str) -> bool:
    """Say whether a product reads an operand transposed: `transA` or `transB` of a Gemm."""
    return product.attributes.get_int(name, 0) != 0


def times(at: ir.Node, data: Array, scale: Array, dtype: np.dtype[Any]) -> Array | None:
    """Return a weight or bias times a factor, computed in float64, in the type of the weight.

    None, with the reason left, when a number does not fit it or loses digits as a subnormal one.
    """
    with np.errstate(invalid="ignore"):
        product = data.astype(np.float64) * scale
    parts = fitted(at, ir.DataType.from_numpy(dtype), product)
    if parts is None:
        return None
    size, smallest = np.abs(product), np.finfo(dtype).tiny
    if ((size > 0) & (size < smallest) & (np.abs(data) >= smallest)).any():
        leave(at, "a fused weight would lose digits")
        return None
    return parts[0]
