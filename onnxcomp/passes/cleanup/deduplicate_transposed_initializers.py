"""Matrices that are the transpose of another."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import node_like, replace
from onnxcomp.graph import is_op
from onnxcomp.registry import Effect, register

# Smaller copies are not worth a look.
SMALLEST = 1024
# Rows and columns that are compared first.
GRID = 8


@register(Effect.CLOSE, ops=["Gemm"])
def deduplicate_transposed_initializers(graph: ir.Graph) -> int:
    """Keep one of two matrices of which one is the other's transpose, where only Gemms read it.

    A Gemm reads B transposed at no cost (transB), so tied weights that an exporter wrote twice,
    once turned, become one. The bytes must be equal; matrices that differ somewhere on a grid are
    not read further.

    Left alone when another operator reads the copy, when it is a graph input or output, and when it
    takes less than 1 KiB.
    """
    by_shape: dict[tuple[object, ...], list[ir.Value]] = defaultdict(list)
    removed = 0
    for value in list(graph.initializers.values()):
        data = value.const_value
        if data is None or len(data.shape) != 2 or data.nbytes < SMALLEST:
            continue
        rows, columns = data.shape.numpy()
        turned = by_shape[data.dtype, columns, rows]
        for kept in turned:
            pair = (value, kept) if _turnable(value) else (kept, value)
            if not _turnable(pair[0]) or not _is_transpose(value, kept):
                continue
            _read_turned(*pair)
            del graph.initializers[pair[0].name or ""]
            if pair[0] is kept:
                turned.remove(kept)
                by_shape[data.dtype, rows, columns].append(value)
            removed += 1
            break
        else:
            by_shape[data.dtype, rows, columns].append(value)
    return removed


def _turnable(value: ir.Value) -> bool:
    """Say whether only Gemms read a matrix, as their B."""
    if value.is_graph_input() or value.is_graph_output():
        return False
    uses = list(value.uses())
    return bool(uses) and all(is_op(use.node, "Gemm") and use.idx == 1 for use in uses)


def _is_transpose(first: ir.Value, second: ir.Value) -> bool:
    assert first.const_value is not None
    assert second.const_value is not None
    data, turned = first.const_value.numpy(), second.const_value.numpy().T
    grid = np.ix_(*(np.linspace(0, size - 1, GRID).astype(int) for size in data.shape))
    return data[grid].tobytes() == turned[grid].tobytes() and data.tobytes() == turned.tobytes()


def _read_turned(copy: ir.Value, kept: ir.Value) -> None:
    for use in list(copy.uses()):
        gemm = use.node
        flipped = ir.AttrInt64("transB", int(gemm.attributes.get_int("transB", 0) == 0))
        attributes = {**dict(gemm.attributes), "transB": flipped}
        inputs = [gemm.inputs[0], kept, *gemm.inputs[2:]]
        replace([gemm], node_like(gemm, inputs, attributes.values()))
