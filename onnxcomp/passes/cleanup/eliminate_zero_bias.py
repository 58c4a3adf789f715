"""Biases of zeros."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.graph import array, is_op
from onnxcomp.registry import Effect, register


@register(Effect.CLOSE, ops=["Conv", "ConvTranspose", "Gemm"])
def eliminate_zero_bias(graph: ir.Graph, opset: int) -> int:
    """Drop the bias of Conv, ConvTranspose and Gemm where it is a constant of zeros.

    One weight and one addition less. Only the sign of zero may change: -0 + 0 is 0.

    Left alone between QuantizeLinear and DequantizeLinear, where runtimes look for the bias, and in
    Gemm before opset 11, which must have C.
    """
    dropped = 0
    for node in graph:
        if not is_op(node, "Conv", "ConvTranspose", "Gemm") or len(node.inputs) < 3:
            continue
        if (node.op_type == "Gemm" and opset < 11) or not _is_zero(node.inputs[2]):
            continue
        if any(value is not None and _is_quantized(value) for value in node.inputs):
            continue
        node.resize_inputs(2)
        dropped += 1
    return dropped


def _is_zero(value: ir.Value | None) -> bool:
    data = array(value)
    return data is not None and not data.any()


def _is_quantized(value: ir.Value) -> bool:
    return is_op(value.producer(), "DequantizeLinear")
