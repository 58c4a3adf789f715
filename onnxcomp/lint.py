"""What stands in the way of a smaller or faster model, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx_ir as ir

from onnxcomp.graph import all_nodes, is_op, opset_version, tensor

INT8_OPSET = 13


def lint(model: ir.Model) -> Iterator[str]:
    """Yield one sentence per finding, the weightiest first."""
    ops = Counter(node.op_type for node in all_nodes(model))
    unfused = [
        node
        for node in all_nodes(model)
        if is_op(node, "BatchNormalization")
        and (producer := _producer(node.inputs[0])) is not None
        and is_op(producer, "Conv", "ConvTranspose", "Gemm", "MatMul")
    ]
    if unfused:
        yield f"{len(unfused)} BatchNormalization after Conv or Gemm: optimize folds them"
    if opset_version(model) < INT8_OPSET:
        yield (
            f"opset {opset_version(model)}: int8 raises it to {INT8_OPSET}, "
            "which per-channel weights need"
        )
    double = [
        value
        for value in model.graph.initializers.values()
        if value.dtype == ir.DataType.DOUBLE and value.const_value is not None
    ]
    if double:
        yield f"{len(double)} float64 weights: twice the bytes of float32"
    open_dims = [
        value.name
        for value in model.graph.inputs
        if value.shape is None or any(not isinstance(dim, int) for dim in value.shape)
    ]
    if open_dims and ops["Shape"]:
        names = ", ".join(str(name) for name in open_dims)
        yield f"{ops['Shape']} Shape nodes stay because of open dims in {names}"
    constants = sum(
        1 for node in all_nodes(model) if is_op(node, "Constant") and _large(node.outputs[0])
    )
    if constants:
        yield f"{constants} weights in Constant nodes: optimize makes them initializers"


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _large(value: ir.Value) -> bool:
    found = tensor(value)
    return found is not None and found.nbytes > 1024
