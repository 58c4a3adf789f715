"""Cast after Cast."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import bypass, node_like, remove, replace
from onnxcomp.graph import is_op, sole_consumer
from onnxcomp.registry import Effect, leave, register

Type = ir.DataType

# Each integer of up to so many binary digits, sign aside, is a value of the type.
INTEGERS = {
    Type.BOOL: 1,
    Type.UINT8: 8,
    Type.UINT16: 16,
    Type.UINT32: 32,
    Type.UINT64: 64,
    Type.INT8: 7,
    Type.INT16: 15,
    Type.INT32: 31,
    Type.INT64: 63,
}
FLOATS = {Type.BFLOAT16: 8, Type.FLOAT16: 11, Type.FLOAT: 24, Type.DOUBLE: 53}
DIGITS = INTEGERS | FLOATS
SIGNED = {Type.INT8, Type.INT16, Type.INT32, Type.INT64, *FLOATS}


@register(Effect.EXACT, ops=["Cast"])
def fuse_consecutive_casts(graph: ir.Graph) -> int:
    """Replace two Cast nodes in a row by one, or by none, where the first loses nothing.

    Every value of the source type must be one of the type in between, and the second cast must
    give from there what it gives from the source: it holds every value of the source too, is to
    bool, or rounds or wraps within one kind of number. Back to the source type, no cast is left.

    Left alone when the first cast rounds, wraps or truncates; when the second is to an integer
    that may not hold a float (what comes out is then not defined); for strings and types of 8 bits
    or less that are not plain integers; and when the intermediate is read elsewhere, unless no
    cast is left. A pair that is nothing between an input and an output becomes an Identity.
    """
    fused = 0
    for second in graph:
        if not is_op(second, "Cast") or second.inputs[0] is None:
            continue
        first = second.inputs[0].producer()
        if first is None or not is_op(first, "Cast") or first.inputs[0] is None:
            continue
        source, middle, target = first.inputs[0].dtype, _target(first), _target(second)
        if source not in DIGITS or middle not in DIGITS or target not in DIGITS:
            continue
        if not _holds(middle, source) or not _agrees(source, middle, target):
            leave(second, f"{source.name} is not surely the same by way of {middle.name}")
            continue
        alone = sole_consumer(second.inputs[0]) is second
        if target is source and bypass(second, first.inputs[0]):
            if alone:
                remove(first)
            fused += 1
            continue
        if not alone:
            continue
        identity = ir.Node("", "Identity", [first.inputs[0]], name=second.name)
        direct = identity if target is source else node_like(second, [first.inputs[0]])
        replace([first, second], direct)
        fused += 1
    return fused


def _target(cast: ir.Node) -> Type | None:
    to = cast.attributes.get("to")
    if to is None or to.type != ir.AttributeType.INT:  # a string before opset 6
        return None
    return Type(to.as_int())


def _holds(kind: Type, other: Type) -> bool:
    """Say whether every value of the other type is one of this type."""
    if other in FLOATS and kind not in (Type.FLOAT, Type.DOUBLE):
        return kind is other
    if other in SIGNED and kind not in SIGNED:
        return False
    return DIGITS[other] <= DIGITS[kind]


def _agrees(source: Type, middle: Type, target: Type) -> bool:
    """Say whether a cast from the middle type gives what one from the source gives."""
    if _holds(target, source) or target is Type.BOOL:
        return True
    if source in FLOATS:  # then the middle is a float too
        return target in FLOATS
    if middle in INTEGERS and target in INTEGERS:
        return True
    return target in (Type.FLOAT, Type.DOUBLE)
