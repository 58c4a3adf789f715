"""What shape arithmetic is known although the value is not."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxcomp.graph import Array, has_references, integers, is_op, static_shape, tensor


def known_shape_result(node: ir.Node) -> Array | None:
    """Return what Shape, Size, or a Gather or Slice of a Shape gives, if its dims are known.

    Only the dims that it takes matter: a model for any batch still has its other dims folded.
    """
    if has_references(node) or not node.inputs or node.inputs[0] is None:
        return None
    if is_op(node, "Size"):
        shape = static_shape(node.inputs[0])
        return None if shape is None else np.array(math.prod(shape), dtype=np.int64)
    if is_op(node, "Shape"):
        return _complete(_dims(node))
    source = node.inputs[0].producer()
    if source is None or not is_op(source, "Shape"):
        return None
    dims = _dims(source)
    if dims is None:
        return None
    if is_op(node, "Gather"):
        return _gather(node, dims)
    return _slice(node, dims) if is_op(node, "Slice") else None


def _dims(shape: ir.Node) -> list[int | None] | None:
    """Return the dims that a Shape node gives; None stands for one that is not known."""
    value = shape.inputs[0]
    if value is None or has_references(shape):
        return None
    found = tensor(value)
    dims = found.shape if found is not None else value.shape
    if dims is None:
        return None
    known = [dim if isinstance(dim, int) and dim >= 0 else None for dim in dims]
    start = shape.attributes.get_int("start", 0)
    end = shape.attributes.get_int("end", len(known))
    return known[start:end]  # negative and too large bounds mean what they do in Python


def _gather(node: ir.Node, dims: list[int | None]) -> Array | None:
    found = tensor(node.inputs[1])
    taken = integers(node.inputs[1])
    if found is None or taken is None or any(not -len(dims) <= i < len(dims) for i in taken):
        return None
    result = _complete([dims[index] for index in taken])
    return None if result is None else result.reshape(found.shape.numpy())


def _slice(node: ir.Node, dims: list[int | None]) -> Array | None:
    operands = [integers(value) for value in node.inputs[1:]]
    if len(node.inputs) < 3 or any(len(operand or ()) != 1 for operand in operands):
        return None
    (start,), (end,), *rest = (operand or () for operand in operands)
    if len(rest) > 1 and rest[1] != (1,):
        return None
    return _complete(dims[start:end])


def _complete(dims: list[int | None] | None) -> Array | None:
    if dims is None or None in dims:
        return None
    return np.array(dims, dtype=np.int64)
