"""The constants of a Gemm: y = alpha * A' * B' + beta * C."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, attributes_except, node_like, replace
from onnxcomp.graph import Array, array, static_shape
from onnxcomp.passes.fuse._weights import fitted

# Gemm's own rule for the shapes of C came with opset 7; before, a `broadcast` attribute said it.
BROADCASTS_FROM = 7
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})


@dataclass(frozen=True)
class Bias:
    """beta * C as float64, of a shape that broadcasts to [M, N]; a 0-d zero where there is no C."""

    data: Array


def bias_of(gemm: ir.Node) -> Bias | None:
    """Return beta * C, or None when C is not constant."""
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
    if data.ndim > 2:
        return False
    return data.size == 1 or (data.ndim > 0 and data.shape[-1] == columns == data.size)


def replace_gemm(
    graph: ir.Graph,
    gemm: ir.Node,
    last: ir.Node,
    dtype: ir.DataType,
    bias: Array,
    weight: Array | None = None,
) -> bool:
    """Replace a Gemm and `last`, which reads it, by one with C = bias, beta = 1, and a B if given.

    New constants have names made from the result's. Returns False, with the reason left, when a
    number does not fit the type.
    """
    parts = fitted(last, dtype, bias, *([] if weight is None else [weight]))
    if parts is None:
        return False
    name = last.outputs[0].name
    b = gemm.inputs[1]
    if weight is not None:
        b = add_constant(graph, parts[1], f"{name}.weight")
    c = add_constant(graph, parts[0], f"{name}.bias")
    new = node_like(gemm, [gemm.inputs[0], b, c], attributes_except(gemm, "beta"))
    replace([gemm, last], new)
    return True
