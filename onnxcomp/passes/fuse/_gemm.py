"""The constants of a Gemm: y = alpha * A' * B' + beta * C."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, attributes_except, node_like
from onnxcomp.graph import Array, array, static_shape, tensor

# Gemm's own rule for the shapes of C came with opset 7; before, a `broadcast` attribute said it.
BROADCASTS_FROM = 7
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})


@dataclass(frozen=True)
class Bias:
    """beta * C as float64, of a shape that broadcasts to [M, N]; a 0-d zero where there is no C."""

    data: Array


def bias_of(gemm: ir.Node) -> Bias | None:
    """Return beta * C, or None when C is not constant or an attribute is a function's argument."""
    if has_references(gemm):
        return None
    given = gemm.inputs[2] if len(gemm.inputs) > 2 else None
    if given is None:
        return Bias(np.zeros(()))
    found = array(given)
    if found is None:
        return None
    return Bias(found.astype(np.float64) * gemm.attributes.get_float("beta", 1.0))


def columns_of(gemm: ir.Node) -> int | None:
    """Return N, the last dim of the result, when B's shape is known."""
    shape = static_shape(gemm.inputs[1])
    if shape is None or len(shape) != 2:
        return None
    return shape[0 if gemm.attributes.get_int("transB", 0) else 1]


def is_row(data: Array, columns: int) -> bool:
    """Say whether an array broadcasts to [M, N] for every M, and is no larger than a row."""
    if data.ndim > 2 or (data.ndim == 2 and data.shape[0] != 1):
        return False
    return data.size == 1 or (data.ndim > 0 and data.shape[-1] == columns == data.size)


def with_constants(
    graph: ir.Graph, gemm: ir.Node, at: ir.Node, bias: Array, dtype: ir.DataType,
    weight: Array | None = None,
) -> ir.Node | None:  # fmt: skip
    """Return a Gemm with C = bias, beta = 1, and another B if one is given.

    The new constants are named after the result of `at`. None, with the reason left there, when a
    number does not fit the type.
    """
    fitted = None if weight is None else as_type(weight, dtype)
    fitted_bias = as_type(bias, dtype)
    if fitted_bias is None or (weight is not None and fitted is None):
        leave(at, "a fused weight does not fit its type")
        return None
    name = at.outputs[0].name
    b = gemm.inputs[1]
    if fitted is not None:
        b = add_constant(graph, fitted, f"{name}.weight")
    c = add_constant(graph, fitted_bias, f"{name}.bias")
    return node_like(gemm, [gemm.inputs[0], b, c], attributes_except(gemm, "beta"))
