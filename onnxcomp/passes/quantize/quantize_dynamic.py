"""Products whose activations are quantized as they come, each run by its own range."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxcomp.exclusion import is_excluded, read_globs
from onnxcomp.graph import array, is_op, opset_version, static_shape, tensor
from onnxcomp.opset import raise_opset
from onnxcomp.passes.quantize._dynamic_edits import DynamicEditor, to_int8_lstm, to_int8_product
from onnxcomp.passes.quantize._eligibility import gemm_bias
from onnxcomp.passes.quantize._naming import used_names
from onnxcomp.registry import Effect, leave, register
from onnxcomp.targets import Target

# DynamicQuantizeLinear exists from here on.
FIRST_OPSET = 11
PRODUCTS = ("MatMul", "Gemm")
RECURRENT = ("LSTM", "GRU", "RNN")
# A direction of an LSTM with fewer weights than this runs faster in float: measured, 128 units that
# read 128 values break even, 256 units are 3 times faster in int8.
LEAST_WEIGHTS = 2**17
# The targets that mean ONNX Runtime's CPU provider, whose own operators may be used.
OWN_OPERATORS = frozenset({"x86-vnni", "x86", "arm64"})
# Those that quantize by calibrated ranges only.
STATIC_ONLY = frozenset({"tensorrt"})


@register(Effect.LOSSY)
def quantize_dynamic(
    model: ir.Model, target: Target, *, exclude: str = "", lstm: bool = True
) -> int:
    """Compute matrix products with constant weights in int8, activations quantized as they come.

    x W becomes s_x * s_w * MatMulInteger(x_q, W_q), where DynamicQuantizeLinear makes uint8 x_q and
    s_x of the range of x in this run, so that nothing has to be calibrated; one for all readers of
    x. W_q is int8 with s_w = max |w| / 127 per column (64 where pairs of products could saturate,
    see `Target`). ONNX Runtime's CPU provider runs this, with the bias behind it, as one
    DynamicQuantizeMatMul or MatMulIntegerToFloat. With `lstm`, an LSTM becomes ONNX Runtime's
    DynamicQuantizeLSTM (domain com.microsoft), with one scale per row of W and R. The model is
    raised to opset 11 where it is older.

    `exclude` names nodes to keep in float: globs, separated by commas.

    Left alone when a weight is not a constant float32 matrix, when the activation is transposed, is
    constant or comes from int8 already, when the bias of a Gemm differs between rows, in functions;
    GRU and RNN, for which there is no kernel; an LSTM that is small (it would be slower), batch
    first or for another target. TensorRT knows no dynamic quantization.
    """
    globs = read_globs(model, exclude, "quantize-dynamic")
    if not _sites(model, target, globs, lstm):
        return 0
    if opset_version(model) < FIRST_OPSET:
        raise_opset(model, FIRST_OPSET)
    sites = _sites(model, target, globs, lstm)
    if opset_version(model) < FIRST_OPSET:
        for node in sites:
            leave(node, "the model cannot be raised to opset 11, which it needs")
        return 0
    editor = DynamicEditor(target.weight_max, used_names(model))
    for node in sites:
        (to_int8_lstm if is_op(node, "LSTM") else to_int8_product)(editor, node)
    if any(is_op(node, "LSTM") for node in sites):
        model.opset_imports.setdefault("com.microsoft", 1)
    return len(sites)


def _sites(model: ir.Model, target: Target, globs: Sequence[str], lstm: bool) -> list[ir.Node]:
    """Return the nodes that will run in int8; the others of their kind hear why they will not."""
    found = []
    for graph in (model.graph, *model.graph.subgraphs()):
        for node in graph:
            if not is_op(node, *PRODUCTS, *RECURRENT) or _is_int8(node):
                continue
            reason = _problem(node, target, globs, lstm)
            if reason is None:
                found.append(node)
            else:
                leave(node, reason)
    return found


def _is_int8(node: ir.Node) -> bool:
    """Say whether all that a node multiplies is read through DequantizeLinear."""
    return all(_is_dequantized(value) for value in node.inputs[:2])


def _is_dequantized(value: ir.Value | None) -> bool:
    return value is not None and is_op(value.producer(), "DequantizeLinear")


def _problem(node: ir.Node, target: Target, globs: Sequence[str], lstm: bool) -> str | None:
    if is_excluded(node, globs):
        return "excluded"
    if target.name in STATIC_ONLY:
        return f"{target.name} has no dynamic quantization"
    if is_op(node, *RECURRENT):
        return _recurrent_problem(node, target, lstm)
    return _input_problem(node.inputs[0]) or _weight_problem(node.inputs[1], 2) or _gemm(node)


def _recurrent_problem(node: ir.Node, target: Target, lstm: bool) -> str | None:
    if not is_op(node, "LSTM"):
        return f"ONNX Runtime has no int8 kernel for {node.op_type}"
    if not lstm:
        return "LSTM was not asked for"
    if target.name not in OWN_OPERATORS:
        return f"an int8 LSTM is ONNX Runtime's own, which {target.name} does not mean"
    if node.attributes.get_int("layout", 0) != 0:
        return "it is batch first (layout 1)"
    return (
        _weight_problem(node.inputs[1], 3)
        or _weight_problem(node.inputs[2], 3)
        or _size_problem(node.inputs[1:3])
    )


def _size_problem(values: Sequence[ir.Value | None]) -> str | None:
    shapes = [static_shape(value) or (0, 0, 0) for value in values]
    small = sum(rows * columns for _, rows, columns in shapes) <= LEAST_WEIGHTS
    return "it is so small that it is faster in float" if small else None


def _input_problem(value: ir.Value | None) -> str | None:
    if tensor(value) is not None:
        return "its input is constant"
    return "its input comes from int8 already" if _is_dequantized(value) else None


def _weight_problem(value: ir.Value | None, rank: int) -> str | None:
    found = tensor(value)
    if found is None:
        return "it multiplies two activations"
    if found.dtype != ir.DataType.FLOAT:
        return f"its weight is {found.dtype.name.lower()}, not float32"
    if len(found.shape) != rank:
        return "its weight is not one matrix"
    if not found.size or not np.isfinite(found.numpy()).all():
        return "its weight is empty or not finite"
    return None


def _gemm(node: ir.Node) -> str | None:
    if not is_op(node, "Gemm"):
        return None
    if node.attributes.get_int("transA", 0) != 0:
        return "its input is transposed (transA)"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and (array(bias) is None or gemm_bias(node) is None):
        return "its bias is not one constant per column"
    return None
