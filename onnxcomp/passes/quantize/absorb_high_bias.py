"""What a channel never falls below, handed through a Relu to the biases of the next layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.edits import add_constant
from onnxcomp.graph import Array, array, is_op, saturation, sole_consumer, tensor
from onnxcomp.linear.layers import Layer, find_layers, is_shared, pads_of
from onnxcomp.linear.taps import tap
from onnxcomp.passes.quantize._eligibility import gemm_bias
from onnxcomp.registry import Effect, leave, measured, register

SAMPLES = 16
# The reach of a value has to fall to this share.
WORTH = 0.98
# New data may fall this share of a channel's extent below the least value of the samples.
MARGIN = 0.5


@dataclass(frozen=True)
class _Place:
    """A layer before a Relu, and all that reads the Relu."""

    maker: Layer
    readers: tuple[Layer, ...]

    @property
    def name(self) -> str:
        return self.maker.node.outputs[0].name or ""


@register(Effect.LOSSY)
def absorb_high_bias(model: ir.Model, samples: Samples) -> int:
    """Move what channels never fall below from before a Relu to the biases behind it.

    Where y = Relu(W1 x + b1) is at least c > 0 in a channel, Relu(v - c) = Relu(v) - c, so
    b1 -= c and b2 += W2 c leave the answers as they are, and y reaches c less far: its int8 grid
    gets finer where such channels are the widest. W2 c is summed over the kernel. c is the least
    value over the samples, less half of the channel's extent since new data may hold lower ones.
    Source: Nagel et al., 2019 (arXiv 1906.04721), section 4.1.3.

    Left alone when anything but Conv and Gemm reads the Relu, when these pad (padding would have to
    be -c), when the value does not reach less far, when a weight is shared, and when samples are
    random.
    """
    if samples.synthetic:
        return 0
    layers = {
        layer.node: layer for layer in find_layers(model.graph) if is_op(layer.node, "Conv", "Gemm")
    }
    found = (_place(layer, layers) for layer in layers.values())
    places = {place.name: place for place in found if place is not None}
    lows: dict[str, Array] = {}
    highs: dict[str, Array] = {}
    for _, name, data in tap(model, list(places), samples, SAMPLES):
        if not data.size:
            continue
        others = tuple(axis for axis in range(data.ndim) if axis != 1)  # [N, C, ...]
        low, high = data.min(axis=others), data.max(axis=others)
        lows[name] = np.minimum(lows.get(name, low), low)
        highs[name] = np.maximum(highs.get(name, high), high)
    return sum(_absorb(model.graph, places[name], lows[name], highs[name]) for name in lows)


def _place(maker: Layer, layers: Mapping[ir.Node, Layer]) -> _Place | None:
    relu = sole_consumer(maker.node.outputs[0])
    if (
        relu is None
        or saturation(relu) != (0.0, np.inf)
        or relu.inputs[0] is not maker.node.outputs[0]
    ):
        return None
    value = relu.outputs[0]
    readers = [layers.get(use.node) if use.idx == 0 else None for use in value.uses()]
    known = tuple(reader for reader in readers if reader is not None)
    reason = ""
    if value.is_graph_output() or not readers or len(known) < len(readers):
        reason = "what reads its Relu is no Conv or Gemm"
    elif any(_pads(reader.node) for reader in known):
        reason = "a reader of its Relu pads"
    elif any(is_shared(layer) for layer in (maker, *known)):
        reason = "a weight is shared"
    elif not all(_has_plain_bias(layer.node) for layer in (maker, *known)):
        reason = "a bias is not one constant per channel"
    if reason:
        leave(maker.node, reason)
    return None if reason else _Place(maker, known)


def _pads(node: ir.Node) -> bool:
    if not is_op(node, "Conv"):
        return False
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    return auto not in ("NOTSET", "VALID") or (auto == "NOTSET" and any(pads_of(node, 0)))


def _has_plain_bias(node: ir.Node) -> bool:
    given = node.inputs[2] if len(node.inputs) > 2 else None
    if given is None:
        return True
    return tensor(given) is not None if is_op(node, "Conv") else gemm_bias(node) is not None


def _absorb(graph: ir.Graph, place: _Place, low: Array, high: Array) -> bool:
    absorbed = np.maximum(low - MARGIN * (high - low), 0.0).astype(np.float64)  # c, [channels]
    before, after = float(high.max()), float((high - absorbed).max())
    if not np.isfinite(before) or not after <= WORTH * before:
        return False
    measured(place.maker.node, before, after)
    _add_bias(graph, place.maker, -absorbed)
    for reader in place.readers:
        spread = np.repeat(absorbed, reader.groups * reader.columns // len(absorbed))
        added = np.einsum("gnk,gk->gn", reader.matrices, spread.reshape(reader.groups, -1))
        alpha = reader.node.attributes.get_float("alpha", 1.0)
        _add_bias(graph, reader, alpha * added.reshape(-1))
    return True


def _add_bias(graph: ir.Graph, layer: Layer, added: Array) -> None:
    """Add numbers to the bias of a Conv or Gemm, which gets one if it has none."""
    node = layer.node
    given = node.inputs[2] if len(node.inputs) > 2 else None
    bias: Array | None = None
    if given is not None:
        bias = array(given) if is_op(node, "Conv") else gemm_bias(node)
    total = added if bias is None else bias + added
    node.attributes.pop("beta", None)
    node.resize_inputs(max(3, len(node.inputs)))
    name = f"{node.outputs[0].name}.bias.absorbed"
    node.replace_input_with(2, add_constant(graph, total.astype(np.float32), name))
