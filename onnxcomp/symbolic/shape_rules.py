"""The shapes of results, by operator, in polynomials over the shapes of operands."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxcomp.graph import array
from onnxcomp.symbolic.dims import Dim, divide
from onnxcomp.symbolic.facts import Facts
from onnxcomp.symbolic.movement_rules import MOVEMENT_RULES
from onnxcomp.symbolic.operands import Found, Rule, Size, axes_of, broadcast, normalized


def _elementwise(node: ir.Node, facts: Facts) -> list[Found]:
    if "axis" in node.attributes:  # before opset 7 the operand is aligned there
        return [facts.shape(node.inputs[0])]
    return [broadcast(*(facts.shape(value) for value in node.inputs))]


def _matmul(node: ir.Node, facts: Facts) -> list[Found]:
    first, second = facts.shape(node.inputs[0]), facts.shape(node.inputs[1])
    if not first or not second:
        return []
    batch = broadcast(first[:-2], second[:-2]) or []
    rows = [first[-2]] if len(first) > 1 else []
    columns = [second[-1]] if len(second) > 1 else []
    return [[*batch, *rows, *columns]]


def _gemm(node: ir.Node, facts: Facts) -> list[Found]:
    first, second = facts.shape(node.inputs[0]), facts.shape(node.inputs[1])
    if first is None or second is None or len(first) != 2 or len(second) != 2:
        return []
    turned, across = (node.attributes.get_int(name, 0) for name in ("transA", "transB"))
    return [[first[1 if turned else 0], second[0 if across else 1]]]


def _conv(node: ir.Node, facts: Facts) -> list[Found]:
    source, weight = facts.shape(node.inputs[0]), facts.shape(node.inputs[1])
    if source is None or weight is None:
        return []
    kernel = node.attributes.get_ints("kernel_shape") or weight[2:]
    return [[source[0], weight[0], *_windows(node, source[2:], kernel)]]


def _pool(node: ir.Node, facts: Facts) -> list[Found]:
    source = facts.shape(node.inputs[0])
    if source is None:
        return []
    found = [*source[:2], *_windows(node, source[2:], node.attributes.get_ints("kernel_shape", ()))]
    return [found] * len(node.outputs)


def _windows(node: ir.Node, dims: Sequence[Size], kernel: Sequence[Size]) -> list[Size | None]:
    """Return floor((dim + pads - dilation * (kernel - 1) - 1) / stride) + 1 for each axis."""
    count = len(dims)
    strides = node.attributes.get_ints("strides", [1] * count)
    dilations = node.attributes.get_ints("dilations", [1] * count)
    pads = node.attributes.get_ints("pads", [0] * 2 * count)
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    if node.attributes.get_int("ceil_mode", 0) or auto not in ("NOTSET", "VALID"):
        return [None] * count
    if len(kernel) != count or len(pads) != 2 * count:
        return [None] * count
    found: list[Size | None] = []
    for axis, dim in enumerate(dims):
        padding = pads[axis] + pads[axis + count] if auto == "NOTSET" else 0
        span = dim + padding - dilations[axis] * (kernel[axis] - 1) - 1
        found.append(divide(span + strides[axis], strides[axis], floor=True))
    return found


def _conv_transpose(node: ir.Node, facts: Facts) -> list[Found]:
    """Return stride * (dim - 1) + output_padding + dilation * (kernel - 1) + 1 - pads per axis."""
    source, weight = facts.shape(node.inputs[0]), facts.shape(node.inputs[1])
    if source is None or weight is None:
        return []
    count = len(source) - 2
    channels = weight[1] * node.attributes.get_int("group", 1)
    given = node.attributes.get_ints("output_shape")
    if given is not None:
        return [[source[0], channels, *given[-count:]]]
    strides = node.attributes.get_ints("strides", [1] * count)
    dilations = node.attributes.get_ints("dilations", [1] * count)
    pads = node.attributes.get_ints("pads", [0] * 2 * count)
    extra = node.attributes.get_ints("output_padding", [0] * count)
    kernel = node.attributes.get_ints("kernel_shape") or weight[2:]
    if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return [[source[0], channels, *[None] * count]]
    dims = [
        (source[axis + 2] - 1) * strides[axis]
        + extra[axis] + dilations[axis] * (kernel[axis] - 1) + 1
        - (pads[axis] + pads[axis + count])
        for axis in range(count)
    ]  # fmt: skip
    return [[source[0], channels, *dims]]


def _resize(node: ir.Node, facts: Facts) -> list[Found]:
    source = facts.shape(node.inputs[0])
    if source is None:
        return []
    sizes = facts.content(node.inputs[3]) if len(node.inputs) > 3 else None
    if sizes is not None and len(sizes) == len(source) and "axes" not in node.attributes:
        policy = node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
        return [list(sizes) if policy == "stretch" else [None] * len(source)]
    scales = array(node.inputs[-1]) if len(node.inputs) in (2, 3) else None
    if scales is None or len(scales) != len(source):
        return [[None] * len(source)]
    return [[_scaled(dim, float(by)) for dim, by in zip(source, scales, strict=True)]]


def _scaled(dim: Size, by: float) -> Size | None:
    """Return floor(dim * by), of an open dim where `by` is a whole number."""
    if not isinstance(dim, Dim):
        return math.floor(np.float32(dim) * np.float32(by))  # as ONNX Runtime does
    return dim * int(by) if by == int(by) else None


def _depth_to_space(node: ir.Node, facts: Facts) -> list[Found]:
    source, block = facts.shape(node.inputs[0]), node.attributes.get_int("blocksize", 1)
    if source is None or len(source) != 4:
        return []
    batch, channels, *dims = source
    return [[batch, divide(channels, block * block), *(dim * block for dim in dims)]]


def _space_to_depth(node: ir.Node, facts: Facts) -> list[Found]:
    source, block = facts.shape(node.inputs[0]), node.attributes.get_int("blocksize", 1)
    if source is None or len(source) != 4:
        return []
    batch, channels, *dims = source
    return [[batch, channels * (block * block), *(divide(dim, block) for dim in dims)]]


def _like_second(node: ir.Node, facts: Facts) -> list[Found]:
    return [facts.shape(node.inputs[1])]


def _global_pool(node: ir.Node, facts: Facts) -> list[Found]:
    source = facts.shape(node.inputs[0])
    return [] if source is None else [[*source[:2], *[1] * (len(source) - 2)]]


def _reduce(node: ir.Node, facts: Facts) -> list[Found]:
    source, axes = facts.shape(node.inputs[0]), axes_of(node, facts)
    if source is None or axes is None:
        return []
    if not axes:
        if node.attributes.get_int("noop_with_empty_axes", 0):
            return [source]
        axes = tuple(range(len(source)))
    return [_reduced(source, axes, node.attributes.get_int("keepdims", 1))]


def _arg_reduce(node: ir.Node, facts: Facts) -> list[Found]:
    source = facts.shape(node.inputs[0])
    axis = node.attributes.get_int("axis", 0)
    return (
        []
        if source is None
        else [_reduced(source, (axis,), node.attributes.get_int("keepdims", 1))]
    )


def _reduced(source: Sequence[Size], axes: Sequence[int], keep: int) -> list[Size | None]:
    places = {normalized(axis, len(source)) for axis in axes}
    kept = [1 if axis in places else dim for axis, dim in enumerate(source)]
    return [dim for axis, dim in enumerate(kept) if keep or axis not in places]


def _recurrent(node: ir.Node, facts: Facts) -> list[Found]:
    source, weight = facts.shape(node.inputs[0]), facts.shape(node.inputs[2])
    if source is None or weight is None or node.attributes.get_int("layout", 0) != 0:
        return []
    steps, batch = source[0], source[1]
    directions = weight[0]
    hidden = weight[1 if node.op_type == "DynamicQuantizeLSTM" else -1]  # it is stored transposed
    state: Found = [directions, batch, hidden]
    return [[steps, directions, batch, hidden], state, state]


def _shape_of(node: ir.Node, facts: Facts) -> list[Found]:
    source = facts.shape(node.inputs[0])
    if source is None:
        return [[None]]
    start = node.attributes.get_int("start", 0)
    end = node.attributes.get_int("end", len(source))
    return [[len(source[start:end])]]


def _scalar(node: ir.Node, facts: Facts) -> list[Found]:  # noqa: ARG001
    return [[]]


# Operators whose first output has the shape of the first input.
SAME_SHAPE = frozenset(
    {"Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BatchNormalization", "Cast"}
    | {"CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh", "CumSum", "DequantizeLinear", "Dropout"}
    | {"Elu", "Erf", "Exp", "Floor", "Gelu", "GroupNormalization", "HardSigmoid", "HardSwish"}
    | {"Hardmax", "Identity", "InstanceNormalization", "IsInf", "IsNaN", "LayerNormalization"}
    | {"LeakyRelu", "Log", "LogSoftmax", "LpNormalization", "LRN", "Mish", "Neg", "Not"}
    | {"QuantizeLinear", "Reciprocal", "Relu", "RMSNormalization", "Round", "Selu"}
    | {"Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softmax", "Softplus", "Softsign", "Sqrt"}
    | {"Swish", "Tan", "Tanh", "ThresholdedRelu", "Trilu", "BitwiseNot", "ScatterND"}
    | {"ScatterElements", "Scatter", "MeanVarianceNormalization"}
)
_ELEMENTWISE = (
    *("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal"),
    *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul"),
    *("Or", "Pow", "PRelu", "Sub", "Sum", "Where", "Xor"),
)
_REDUCE = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]
SHAPE_RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **{f"Reduce{name}": _reduce for name in _REDUCE},
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg_reduce),
    **dict.fromkeys(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"), _recurrent),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), _global_pool),
    "Conv": _conv,
    "ConvInteger": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "GatherElements": _like_second,
    "Resize": _resize,
    "SpaceToDepth": _space_to_depth,
    "Upsample": _resize,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    **MOVEMENT_RULES,
    "Shape": _shape_of,
    "Size": _scalar,
}
