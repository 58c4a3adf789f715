"""RMSNormalization that is spelled out."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.passes.fuse._normalization import fuse_normalization, read_normalization
from onnxcomp.registry import Effect, register

RMS_NORMALIZATION_FROM = 23


@register(Effect.CLOSE, ops=["ReduceMean"])
def fuse_rms_normalization(graph: ir.Graph, opset: int) -> int:
    """Replace the nodes that spell out a root mean square normalization by RMSNormalization.

    x / sqrt(mean(x * x) + epsilon) * scale over the last axes of x: one pass over each row instead
    of six. The square may be Pow or Mul, the root Sqrt or Pow, the quotient Div or a product with a
    reciprocal. Of half precision numbers the inner values are of single precision then, so a square
    that overflowed no longer does.

    Left alone when an inner value is read elsewhere; when the axes are not surely the last, of
    known sizes; when no constant scale of these sizes follows and one of ones would take over 128
    bytes; when epsilon is not one constant number of single precision, as the attribute is; and
    before opset 23.
    """
    fused = 0
    for last in graph:
        found = None if opset < RMS_NORMALIZATION_FROM else read_normalization(last)
        if found is None or found.numerator is not found.squared:
            continue
        fused += fuse_normalization("RMSNormalization", found, bias=False)
    return fused
