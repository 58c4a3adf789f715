"""What operators do to channels that work element by element."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxcomp.channels.ids import SHIFTED, Axes, Ids, UnruledError
from onnxcomp.graph import dropout_is_inference, saturation
from onnxcomp.symbolic.facts import Shape

# These make 0 of 0.
_KEEP_ZERO = (
    *("Abs", "Asin", "Asinh", "Atan", "Atanh", "Cast", "CastLike", "Ceil", "Celu", "Dropout"),
    *("Elu", "Erf", "Floor", "Gelu", "HardSwish", "Identity", "LeakyRelu", "Mish", "Neg", "Relu"),
    *("Round", "Selu", "Sign", "Sin", "Sinh", "Softsign", "Sqrt", "Swish", "Tan", "Tanh"),
    *("ThresholdedRelu",),
)
_SHIFT_ZERO = (
    *("Acos", "Acosh", "BitwiseNot", "Clip", "Cos", "Cosh", "Exp", "HardSigmoid", "IsInf", "IsNaN"),
    *("Log", "Not", "Reciprocal", "Shrink", "Sigmoid", "Softplus"),
)
# Of these, a zero comes out only where every operand has one there (or, of a product, any).
_BINARY = (
    *("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal"),
    *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul"),
    *("Or", "Pow", "PRelu", "Sub", "Sum", "Where", "Xor"),
)
_OF_ZEROS = frozenset({"Add", "Max", "Mean", "Min", "Sub", "Sum"})
_OF_A_ZERO = frozenset({"Mul", "PRelu"})
_ALIGNED_SINCE = 7  # before, an attribute `axis` says where the second operand belongs


def _unary(node: ir.Node, ids: Ids) -> list[Axes]:
    axes = ids.of(node.inputs[0])
    if node.op_type == "Dropout" and not dropout_is_inference(node):
        raise UnruledError("it drops at random")
    if node.op_type in _SHIFT_ZERO and saturation(node) is None:
        for axis in axes:
            ids.note(axis, SHIFTED)
    return [list(axes) for _ in node.outputs]


def _elementwise(node: ir.Node, ids: Ids) -> list[Axes]:
    shape = ids.facts.shape(node.outputs[0])
    graph = node.graph
    if shape is None or graph is None:
        raise UnruledError("the shape of its result is not known")
    if "axis" in node.attributes or (node.op_type == "PRelu" and _is_old(graph)):
        raise UnruledError("its operands are aligned in the manner of an old opset")
    axes: Axes = [None] * len(shape)
    tie_broadcast(ids, node, node.inputs, axes, shape)
    _note_shifts(node, ids, axes)
    return [axes]


def _is_old(graph: ir.Graph | ir.Function) -> bool:
    imports = graph.opset_imports
    return (imports.get("") or imports.get("ai.onnx") or 1) < _ALIGNED_SINCE


def tie_broadcast(
    ids: Ids,
    node: ir.Node,
    operands: Sequence[ir.Value | None],
    axes: Axes,
    shape: Shape,
    drop: int = 0,
) -> None:
    """Tie the axes of operands, but their last `drop`, to those of a result of this shape.

    `axes` are the result's as far as they are known, and are filled in. A dim of 1 is free; where
    one may be 1 or not, the axis is kept whole.
    """
    for value in operands:
        own, dims = ids.of(value), ids.facts.shape(value)
        assert dims is not None
        own, dims = own[: len(own) - drop], dims[: len(dims) - drop]
        for back in range(1, len(dims) + 1):
            dim, axis = dims[-back], own[-back]
            if dim == 1:
                continue
            if axis is None or not isinstance(shape[-back], int):
                reason = "an operand is open in this axis"
                ids.pin(axis, node, reason)
                ids.pin(axes[-back], node, reason)
                if axes[-back] is None:
                    axes[-back] = ids.fixed((shape[-back],), node, reason)[0]
            elif axes[-back] is None:
                axes[-back] = axis
            else:
                ids.tie(axes[-back], axis)


def _note_shifts(node: ir.Node, ids: Ids, axes: Axes) -> None:
    """Note where a zero in the operands that have an axis does not surely give a zero."""
    if node.op_type in _OF_A_ZERO:
        return
    for back in range(1, len(axes) + 1):
        owns = [ids.of(value) for value in node.inputs]
        full = all(len(own) >= back and own[-back] is not None for own in owns)
        divides = node.op_type == "Div" and (len(owns[1]) < back or owns[1][-back] is None)
        if not divides and not (full and node.op_type in _OF_ZEROS):
            ids.note(axes[-back], SHIFTED)


ELEMENTWISE_RULES = {
    **dict.fromkeys((*_KEEP_ZERO, *_SHIFT_ZERO), _unary),
    **dict.fromkeys(_BINARY, _elementwise),
}
