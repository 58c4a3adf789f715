"""LayerNormalization that is spelled out."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from onnxcomp.graph import rank
from onnxcomp.passes._axes import same_axes
from onnxcomp.passes.fuse._normalization import (
    Normalization,
    fuse_normalization,
    kept_axes,
    read_normalization,
)
from onnxcomp.passes.fuse._patterns import maker
from onnxcomp.registry import Effect, register

LAYER_NORMALIZATION_FROM = 17


@register(Effect.CLOSE, ops=["ReduceMean"])
def fuse_layer_normalization(graph: ir.Graph, opset: int) -> int:
    """Replace the nodes that spell out a layer normalization by LayerNormalization.

    d = x - mean(x); d / sqrt(mean(d * d) + epsilon) * scale + bias over the last axes of x: one
    pass over each row instead of nine. d may be made twice, the square be Pow or Mul, the root Sqrt
    or Pow, the quotient Div or a product with a reciprocal. Of half precision numbers the inner
    values are of single precision then, so a square that overflowed no longer does.

    Left alone when an inner value is read elsewhere; when the axes are not surely the last, of
    known sizes; when no constant scale of these sizes follows and one of ones would take over 128
    bytes; when epsilon is not one constant number of single precision, as the attribute is; and
    before opset 17. A bias that is no constant of these sizes stays an Add.
    """
    fused = 0
    for last in graph:
        found = None if opset < LAYER_NORMALIZATION_FROM else read_normalization(last)
        layer = None if found is None else _match(found)
        if layer is not None and fuse_normalization("LayerNormalization", layer, bias=True):
            fused += 1
    return fused


def _match(found: Normalization) -> Normalization | None:
    """Return the normalization of x for one of x - mean(x) over the same axes, or None."""
    centred, again = maker(found.numerator, "Sub"), maker(found.squared, "Sub")
    if centred is None or again is None or list(centred.inputs) != list(again.inputs):
        return None
    source, mean = centred.inputs[0], maker(centred.inputs[1], "ReduceMean")
    if source is None or mean is None or mean.inputs[0] is not source:
        return None
    axes = kept_axes(mean)
    if axes is None or not same_axes(axes, found.axes, rank(source)):
        return None
    nodes = dict.fromkeys((mean, centred, again, *found.nodes))
    return replace(found, source=source, nodes=tuple(nodes))
