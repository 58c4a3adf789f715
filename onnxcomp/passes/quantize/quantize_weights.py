"""Weights of float products stored in 8 bits, in a form that is float again once loaded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, add_tensor
from onnxcomp.exclusion import is_excluded, read_globs
from onnxcomp.graph import Array, is_op, opset_version, tensor
from onnxcomp.passes.quantize._constants import constants
from onnxcomp.passes.quantize._naming import fresh_name, stem_of, used_names
from onnxcomp.passes.quantize._storage import round_weight, rounding_sqnr, scales_of
from onnxcomp.registry import Effect, leave, register

# Mul repeats the scales along the other axes from here on.
FIRST_OPSET = 7
# int8 and scales must not take more of the bytes than this: a scale for 7 numbers or more.
LARGEST_SHARE = 0.4
# A weight that rounding leaves less like itself than this (dB) stays float.
LEAST_SQNR = 30.0
FLOATS = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
RECURRENT = ("LSTM", "GRU", "RNN")
WITH_LARGE_BIASES = (*RECURRENT, "DynamicQuantizeLSTM")
NOT_ONLY_A_WEIGHT = "it reads a large constant that is not (only) a weight"
Axes = tuple[int, ...]


@register(Effect.LOSSY)
def quantize_weights(model: ir.Model, *, exclude: str = "", least: int = 1024) -> int:
    """Store the weights that are still float in int8: a fourth of the bytes at the same speed.

    W becomes Mul(Cast(q), scale) with q = round(W / scale) in int8 and scale = max |w| / 127 for
    each output channel: of Conv the first axis, of ConvTranspose the second (the first where it is
    depthwise), of MatMul and Gemm the columns, of Gather the rows, of LSTM, GRU and RNN each row of
    each direction; one for the tensor where its readers differ. ONNX Runtime computes this once, at
    load, at every optimization level but none, and then runs the float kernels. A DequantizeLinear
    it would run every time.

    `exclude` names nodes whose weights stay float: globs, separated by commas. `least` is the
    number of elements from which a constant is worth it.

    Left alone when a constant is not float32, when something else than these operators reads it (a
    table of positions, say), when it is not finite or all zero, when rounding leaves a
    signal-to-noise ratio below 30 dB, and when one scale per channel would take too much.
    """
    globs = read_globs(model, exclude, "quantize-weights")
    used = used_names(model)
    found = [value for value in constants(model) if _is_worth_it(value, least)]
    return sum(_store(value, globs, used, opset_version(model)) for value in found)


def _is_worth_it(value: ir.Value, least: int) -> bool:
    found = tensor(value)
    if found is None or value.is_graph_output() or found.size < least or len(found.shape) < 2:
        return False
    if all(_scales(use.node) for use in value.uses()):
        return False
    return found.dtype == ir.DataType.FLOAT or found.dtype in FLOATS


def _scales(node: ir.Node) -> bool:
    """Say whether a node scales numbers that are stored in fewer bits already."""
    if not is_op(node, "Mul", "DequantizeLinear"):
        return node.op_type == "MatMulNBits"
    steps = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node.op_type == "DequantizeLinear" or is_op(steps, "Cast", "Sub")


def _store(value: ir.Value, globs: Sequence[str], used: set[str], opset: int) -> bool:
    """Store a constant in int8 for all of its readers; where that cannot be, they hear why."""
    weight = tensor(value)
    assert weight is not None
    readers = [use.node for use in value.uses()]
    axes = _common_axes(value, len(weight.shape))
    scale = None
    problem = _type_problem(weight, axes, opset)
    if any(is_excluded(node, globs) for node in readers):
        problem = "excluded"
    if problem is None and axes is not None:
        scale = scales_of(weight.numpy(), axes)
        problem = _rounding_problem(weight.numpy(), scale)
    if problem is not None or scale is None:
        for node in readers:
            if axes is not None or node.op_type not in WITH_LARGE_BIASES:
                leave(node, problem or NOT_ONLY_A_WEIGHT)
        return False
    _rewrite(value, weight, scale, used)
    return True


def _type_problem(weight: ir.TensorProtocol, axes: Axes | None, opset: int) -> str | None:
    if axes is None:
        return NOT_ONLY_A_WEIGHT
    if weight.dtype != ir.DataType.FLOAT:
        return f"its weight is {weight.dtype.name.lower()}, not float32"
    return None if opset >= FIRST_OPSET else f"opset {opset} has no Mul that repeats scales"


def _rounding_problem(weight: Array, scale: Array | None) -> str | None:
    if scale is None:
        return "its weight is not finite"
    if weight.size + scale.nbytes > LARGEST_SHARE * weight.nbytes:
        return "the scales of its weight would take too much"
    sqnr = rounding_sqnr(weight, scale)
    if sqnr == -np.inf:
        return "its weight is all zero"
    return None if sqnr >= LEAST_SQNR else f"its weight would keep only {sqnr:.1f} dB"


# ---------------------------------------------------------------- which numbers share a scale
def _common_axes(value: ir.Value, rank: int) -> Axes | None:
    """Return the axes along which a weight has scales of its own; none where readers differ.

    None when it is read as something else than a weight too.
    """
    found = [_axes(use.node, use.idx, rank) for use in value.uses()]
    if not found or None in found:
        return None
    return found[0] if len(set(found)) == 1 else ()


def _axes(node: ir.Node, index: int, rank: int) -> Axes | None:
    if is_op(node, "Transpose"):
        return _axes_behind(node, rank)
    if is_op(node, "Conv") and index == 1:
        return (0,)
    if is_op(node, "ConvTranspose") and index == 1:
        return (0,) if _is_depthwise(node) else (1,)
    if is_op(node, "Gemm") and index < 2:
        across = node.attributes.get_int("transB" if index else "transA", 0)
        return (0,) if bool(across) is bool(index) else (1,)
    if is_op(node, "MatMul"):
        summed = max(rank - 2, 0) if index else rank - 1
        return tuple(axis for axis in range(rank) if axis != summed)
    if is_op(node, "Gather") and index == 0:
        return (node.attributes.get_int("axis", 0) % rank,)
    return (0, 1) if is_op(node, *RECURRENT) and index in (1, 2) else None


def _axes_behind(transpose: ir.Node, rank: int) -> Axes | None:
    """Return the axes of what is transposed that the readers of the result want."""
    output = transpose.outputs[0]
    found = None if output.is_graph_output() else _common_axes(output, rank)
    if found is None:
        return None
    order = transpose.attributes.get_ints("perm", tuple(reversed(range(rank))))
    return tuple(sorted(order[axis] for axis in found))


def _is_depthwise(node: ir.Node) -> bool:
    weight = tensor(node.inputs[1])
    return weight is not None and weight.shape[1] == 1 < node.attributes.get_int("group", 1)


# ---------------------------------------------------------------- the rewrite
def _rewrite(value: ir.Value, weight: ir.TensorProtocol, scale: Array, used: set[str]) -> None:
    producer = value.producer()
    graph = value.graph if producer is None else producer.graph
    assert isinstance(graph, ir.Graph)
    stem = stem_of(value)
    product = f"{stem}.float" if stem in used else stem
    steps = add_tensor(graph, _int8(weight, scale, fresh_name(used, f"{stem}.int8")))
    factors = add_constant(graph, scale, fresh_name(used, f"{stem}.scale"))
    cast = ir.Node("", "Cast", [steps], [ir.AttrInt64("to", ir.DataType.FLOAT)])
    scaled = ir.Node("", "Mul", [cast.outputs[0], factors])
    for node, name in ((cast, "steps"), (scaled, product)):  # short: small files are half names
        node.outputs[0].name = fresh_name(used, name)
        node.outputs[0].shape = ir.Shape(weight.shape)  # type: ignore[arg-type]
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(graph[0], [cast, scaled])
    value.replace_all_uses_with(scaled.outputs[0])


def _int8(weight: ir.TensorProtocol, scale: Array, name: str) -> ir.Value:
    """Return the rounded weight; one that lies in a file is rounded again whenever it is read."""
    shape = ir.Shape(weight.shape)  # type: ignore[arg-type]
    data: ir.TensorProtocol
    if isinstance(weight, ir.ExternalTensor):
        data = ir.LazyTensor(
            lambda: ir.Tensor(round_weight(weight.numpy(), scale)),
            ir.DataType.INT8,
            shape,
            name=name,
        )
    else:
        data = ir.Tensor(round_weight(weight.numpy(), scale), name=name)
    return ir.Value(name=name, shape=shape, type=ir.TensorType(ir.DataType.INT8), const_value=data)
