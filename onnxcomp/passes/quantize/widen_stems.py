"""Int8 convolutions over very few channels, rearranged to read more at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant
from onnxcomp.graph import Array, array, is_op, opset_version
from onnxcomp.linear.layers import has_known_pads, pads_of
from onnxcomp.registry import Effect, leave, register
from onnxcomp.targets import Target

# ONNX Runtime's int8 convolution copies its input position by position, all channels of one at
# once; fewer than these cost as much as these.
FEW = 4
# With fewer outputs than its registers hold, multiplying a fourth channel costs what it saves.
OUTPUTS = 16
# The stride that can be turned to channels.
STRIDE = 2
# Pad with its sizes as an input, and a scale for each channel of weights.
OPSET = 13
# How the names of what is read instead of a value end.
WIDE = ".wide"


@dataclass(frozen=True)
class _Stem:
    """A convolution, the float value that it reads in int8, and how; `weight` [out, in, kh, kw]."""

    node: ir.Node
    source: ir.Value
    quantize: ir.Node
    dequantize: ir.Node
    scales: ir.Node
    weight: Array


@dataclass(frozen=True)
class _Form:
    """The weight of a convolution of stride 1 over the channels of blocks, and its pads."""

    weight: Array
    pads: tuple[int, ...]


@register(Effect.LOSSY, ops=["Conv"])
def widen_stems(model: ir.Model, target: Target) -> int:
    """Give int8 convolutions over one to three channels more channels and fewer positions.

    The int8 kernel gathers the numbers under each position of the kernel one by one, which for an
    image of three channels takes longer than multiplying them. Where the stride is 2 and the sides
    of the image are even, SpaceToDepth turns blocks of 2x2 positions to channels, and the kernel k
    with pads p becomes one of stride 1 over 4C channels: tap d lies in block floor((d - p) / 2) at
    phase (d - p) mod 2. Else zeros make a fourth channel. The integers that are added up are the
    same, so integer kernels return the same bits; it counts as lossy since floats in their place
    may round otherwise before the next QuantizeLinear.

    Left alone where an int8 node makes what is read, where a fourth channel would serve fewer than
    16 outputs, where weights have a zero point, in control flow, and for targets other than
    `x86-vnni`: without VNNI, which weights are neighbours decides on overflow.
    """
    if target.signed or target.explicit or target.saturates or opset_version(model) < OPSET:
        return 0
    stems = [stem for node in model.graph if (stem := _stem(node)) is not None]
    return sum(_widen(model.graph, stem) for stem in stems)


def widened(value: ir.Value | None) -> ir.Value | None:
    """Return the value in whose place this pass has put another; None for all others."""
    mover = _maker(value)
    if value is None or mover is None or not (value.name or "").endswith(WIDE):
        return None
    return mover.inputs[0] if is_op(mover, "SpaceToDepth", "Pad") else None


def _stem(node: ir.Node) -> _Stem | None:
    if not is_op(node, "Conv") or node.attributes.get_int("group", 1) != 1:
        return None
    dequantize, scales = _maker(node.inputs[0]), _maker(node.inputs[1])
    if not is_op(dequantize, "DequantizeLinear") or not is_op(scales, "DequantizeLinear"):
        return None
    assert dequantize is not None
    assert scales is not None
    quantize, weight = _maker(dequantize.inputs[0]), array(scales.inputs[0])
    if not is_op(quantize, "QuantizeLinear") or weight is None or weight.ndim != 4:
        return None
    assert quantize is not None
    source = quantize.inputs[0]
    if source is None or weight.shape[1] >= FEW or not _is_symmetric(scales):
        return None
    if not all(_is_scalar(value) for node in (quantize, dequantize) for value in node.inputs[1:]):
        return None
    maker = source.producer()
    if maker is not None and any(is_op(_maker(v), "DequantizeLinear") for v in maker.inputs):
        leave(node, f"an int8 node makes its {weight.shape[1]} channels")
        return None
    return _Stem(node, source, quantize, dequantize, scales, weight)


def _is_symmetric(scales: ir.Node) -> bool:
    """Say whether a stored zero is read as zero, which is what is put between weights."""
    if len(scales.inputs) < 3 or scales.inputs[2] is None:
        return True
    zero_point = array(scales.inputs[2])
    return zero_point is not None and not zero_point.any()


def _is_scalar(value: ir.Value | None) -> bool:
    data = array(value)
    return data is not None and data.ndim == 0


def _widen(graph: ir.Graph, stem: _Stem) -> bool:
    form = _folded(stem)
    if form is not None:
        _fold(graph, stem, form)
    elif len(stem.weight) >= OUTPUTS:
        _pad(graph, stem)
    else:
        leave(stem.node, f"{len(stem.weight)} outputs are too few for a fourth channel to pay")
        return False
    return True


def _maker(value: ir.Value | None) -> ir.Node | None:
    return value.producer() if value is not None else None


def _folded(stem: _Stem) -> _Form | None:
    """Return the form without a stride, or None where there is none."""
    node, sides = stem.node, _sides(stem.source)
    strides = tuple(node.attributes.get_ints("strides", (1, 1)))
    dilations = tuple(node.attributes.get_ints("dilations", (1, 1)))
    if strides != (STRIDE, STRIDE) or dilations != (1, 1) or not has_known_pads(node):
        return None
    if sides is None or any(side % STRIDE for side in sides):
        return None
    pads, kernel = pads_of(node, 2), stem.weight.shape[2:]
    firsts = [-before // STRIDE for before in pads[:2]]
    lasts = [(k - 1 - p) // STRIDE for k, p in zip(kernel, pads[:2], strict=True)]
    ends = []
    for axis in range(2):
        side, before, after = sides[axis], pads[axis], pads[2 + axis]
        outputs = (side + before + after - kernel[axis]) // STRIDE + 1
        ends.append(outputs - 1 + lasts[axis] - (side // STRIDE - 1))
    if min(ends) < 0:
        return None
    out, channels = stem.weight.shape[:2]
    spans = [last - first + 1 for first, last in zip(firsts, lasts, strict=True)]
    weight = np.zeros((out, STRIDE, STRIDE, channels, *spans), stem.weight.dtype)
    for i, j in np.ndindex(*kernel):
        (row, up), (column, left) = (divmod(d - p, STRIDE) for d, p in ((i, pads[0]), (j, pads[1])))
        weight[:, up, left, :, row - firsts[0], column - firsts[1]] = stem.weight[:, :, i, j]
    deep = weight.reshape(out, STRIDE * STRIDE * channels, *spans)
    return _Form(deep, (*(-first for first in firsts), *ends))


def _sides(value: ir.Value) -> tuple[int, int] | None:
    """Return the height and width of an image, where they are known."""
    if value.shape is None or len(value.shape) != 4:
        return None
    height, width = value.shape[2:]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _fold(graph: ir.Graph, stem: _Stem, form: _Form) -> None:
    block = ir.Node("", "SpaceToDepth", [stem.source], [ir.AttrInt64("blocksize", STRIDE)])
    _read(graph, stem, block, form.weight)
    attributes = stem.node.attributes
    attributes.add(ir.AttrInt64s("strides", (1, 1)))
    attributes.add(ir.AttrInt64s("pads", form.pads))
    attributes.add(ir.AttrInt64s("kernel_shape", form.weight.shape[2:]))
    attributes.pop("auto_pad", None)


def _pad(graph: ir.Graph, stem: _Stem) -> None:
    extra = FEW - stem.weight.shape[1]
    ends = np.array([0, 0, 0, 0, 0, extra, 0, 0])
    pads = add_constant(graph, ends, f"{stem.source.name}.pads")
    padded = ir.Node("", "Pad", [stem.source, pads])
    weight = np.pad(stem.weight, [(0, 0), (0, extra), (0, 0), (0, 0)])
    _read(graph, stem, padded, weight)


def _read(graph: ir.Graph, stem: _Stem, mover: ir.Node, weight: Array) -> None:
    """Let a stem read what a node makes of its source, by a weight that fits."""
    scale, zero_point = stem.quantize.inputs[1:3]
    quantize = ir.Node("", "QuantizeLinear", [mover.outputs[0], scale, zero_point])
    scale, zero_point = stem.dequantize.inputs[1:3]
    dequantize = ir.Node("", "DequantizeLinear", [quantize.outputs[0], scale, zero_point])
    stored = add_constant(graph, weight, f"{stem.scales.inputs[0].name}.wide")  # type: ignore[union-attr]
    attributes = list(stem.scales.attributes.values())
    scales = ir.Node("", "DequantizeLinear", [stored, *stem.scales.inputs[1:]], attributes)
    nodes, made = [mover, quantize, dequantize, scales], stem.node.outputs[0].name
    for node, name in zip(nodes, ("", ".q", ".dq", ".weight"), strict=True):
        node.outputs[0].name = f"{made}{WIDE}{name}"
    graph.insert_before(stem.node, nodes)
    stem.node.replace_input_with(0, dequantize.outputs[0])
    stem.node.replace_input_with(1, scales.outputs[0])
