"""Depthwise convolutions widened to whole blocks of channels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant
from onnxcomp.graph import all_graphs, array
from onnxcomp.passes.quantize._widths import Width, find_widths
from onnxcomp.registry import Effect, leave, register
from onnxcomp.shapes import infer_shapes
from onnxcomp.targets import Target

# ONNX Runtime's int8 kernel for depthwise convolutions takes so many channels at once, and what
# remains one by one.
BLOCK = 16
# A layer that becomes wider than this costs more in the products around it.
WIDEST = 1.25


@register(Effect.CLOSE, ops=["Conv"])
def pad_channels(model: ir.Model, target: Target) -> int:
    """Add channels of zeros until depthwise convolutions have a multiple of 16.

    On x86 the int8 kernel computes 16 channels at once and the remaining ones singly: 200 channels
    of 5x5 take 5 times as long as 208. Weights that make the channels get rows of zeros, those that
    read them columns of zeros, [out, in, kh, kw], so that nothing else changes. Float kernels
    compute whole blocks anyway.

    Left alone when anything but convolutions, activations, pools, sums and products makes or reads
    the channels, when they would become more than a quarter more, and for other targets.
    """
    if target.signed or target.explicit:
        return 0
    padded = 0
    for graph in all_graphs(model):
        for width in find_widths(graph):
            extra = _missing(width)
            if extra:
                _pad(graph, width, extra)
                padded += len(width.depthwise)
    if padded:
        infer_shapes(model)
    return padded


def _missing(width: Width) -> int:
    """Return how many channels a set lacks; 0 where it is to stay."""
    if not width.depthwise:
        return 0
    channels = width.channels
    extra = 0 if channels is None else -channels % BLOCK
    if channels is None or not extra:
        return 0
    if width.fixed:
        _leave(width, "more than convolutions and activations share its channels")
        return 0
    if channels + extra > WIDEST * channels:
        _leave(width, f"{channels} channels are too few to add {extra}")
        return 0
    return extra


def _leave(width: Width, reason: str) -> None:
    for node in width.depthwise:
        leave(node, reason)


def _pad(graph: ir.Graph, width: Width, extra: int) -> None:
    for node in (*width.makers, *width.depthwise):
        _lengthen(graph, node, 1, 0, extra)
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            _lengthen(graph, node, 2, 0, extra)
    for node in width.readers:
        _lengthen(graph, node, 1, 1, extra)
    for node in width.depthwise:
        group = node.attributes.get_int("group", 1)
        node.attributes.add(ir.AttrInt64("group", group + extra))
    for value in width.values:
        value.shape = None


def _lengthen(graph: ir.Graph, node: ir.Node, index: int, axis: int, extra: int) -> None:
    """Put zeros behind a constant of a node along an axis."""
    holder = node.inputs[index]
    data = array(holder)
    assert holder is not None
    assert data is not None
    sizes = [(0, extra if i == axis else 0) for i in range(data.ndim)]
    node.replace_input_with(
        index, add_constant(graph, np.pad(data, sizes), f"{holder.name}.padded")
    )
