"""Cast of ConstantOfShape."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import replace
from onnxcomp.graph import Array, is_op, make_tensor
from onnxcomp.registry import Effect, leave, register

# What ConstantOfShape may hold from its first version on.
NUMBERS = frozenset(
    {ir.DataType.BOOL, ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE}
    | {ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64}
    | {ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64}
)


@register(Effect.EXACT, ops=["ConstantOfShape"])
def fuse_cast_into_constant_of_shape(graph: ir.Graph) -> int:
    """Fill a shape with a number of the type that a Cast makes of it.

    Cast(ConstantOfShape(s, v)) = ConstantOfShape(s, Cast(v)). A ConstantOfShape that is read
    elsewhere too stays; the new one takes the place of the Cast.

    Left alone when the number has no equal in the new type, and when that is no plain number.
    """
    fused = 0
    for node in graph:
        if not is_op(node, "Cast") or node.inputs[0] is None:
            continue
        filled = node.inputs[0].producer()
        if filled is None or not is_op(filled, "ConstantOfShape"):
            continue
        number = _cast(filled, ir.DataType(node.attributes.get_int("to")))
        if number is None:
            leave(node, "the number has no equal in the new type")
            continue
        value = ir.AttrTensor("value", make_tensor(number))
        new = ir.Node("", "ConstantOfShape", filled.inputs, [value], name=node.name)
        replace([filled, node], new)
        fused += 1
    return fused


def _cast(filled: ir.Node, dtype: ir.DataType) -> Array | None:
    """Return the number that a ConstantOfShape holds in another type, or None."""
    given = filled.attributes.get_tensor("value")
    number = np.zeros(1, np.float32) if given is None else given.numpy()
    if dtype not in NUMBERS or ir.DataType.from_numpy(number.dtype) not in NUMBERS:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        cast = number.astype(dtype.numpy())
        equal = dtype == ir.DataType.BOOL or np.array_equal(cast.astype(number.dtype), number)
    return cast if equal else None
