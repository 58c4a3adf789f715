"""Channels of a value brought to like ranges, by factors that go into the weights around it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.edits import add_constant
from onnxcomp.graph import Array, array
from onnxcomp.passes.quantize._coupling import Coupled, Port, find_coupled, size_of
from onnxcomp.registry import Effect, leave, measured, register
from onnxcomp.runtime import Session

SAMPLES = 8
# Values that are held at a time, and the farthest that a channel is scaled (powers of two).
HELD = 16
FARTHEST = 20
ROUNDS = 8
# The ratio of a value's widest channel to the middle one from which it is worth to equalize.
UNEVEN = 2.0


@register(Effect.CLOSE)
def equalize_channels(model: ir.Model, samples: Samples) -> int:
    """Scale the channels of values so that all of them use the range of the widest.

    A value of 8 bits has one scale for all its channels, so those with small numbers are blurred.
    Where Conv, ConvTranspose, Gemm, MatMul and LayerNormalization make a value, and the first four
    read it, perhaps behind Relu, pools and sums of such values, its channel i can be divided by
    s_i: in the rows of the weights that make it, with their biases, and back in the columns of
    those that read it. s_i = sqrt(x_i / w_i), where x_i is the reach of the channel over the
    samples and w_i that of the columns; where only depthwise convolutions read it, whose weights
    have a scale for each channel, s_i = x_i. Every s_i is rounded to a power of two, so the answers
    keep their bits. Sources: Nagel et al., 2019 (arXiv 1906.04721), section 4.1; Xiao et al., 2022
    (arXiv 2211.10438).

    Left alone when anything else makes or reads the value, when a weight is shared with nodes
    elsewhere, and when no channel stands out.
    """
    sets = [found for found in find_coupled(model.graph) if _scalable(found)]
    reaches = [
        reach
        for start in range(0, len(sets), HELD)
        for reach in _reaches(model, sets[start : start + HELD], samples)
    ]
    first = [reach.copy() for reach in reaches]
    changed: dict[int, None] = {}
    for _ in range(ROUNDS):  # a weight between two sets makes each depend on the other
        now = [i for i, each in enumerate(sets) if _equalize(model.graph, each, reaches[i])]
        changed.update(dict.fromkeys(now))
        if not now:
            break
    for index in changed:
        maker = sets[index].makers[0].node
        measured(maker, _unevenness(first[index]), _unevenness(reaches[index]))
    return len(changed)


def _scalable(coupled: Coupled) -> bool:
    channels = coupled.channels
    if coupled.pinned or channels is None or coupled.of_images is None or not coupled.readers:
        _leave(coupled, coupled.pinned or "its channels are not one axis of every weight")
        return False
    if any(size_of(port) != channels for port in coupled.readers):
        _leave(coupled, "its readers count its channels otherwise")
        return False
    ports = [*coupled.makers, *coupled.readers]
    if any(len(port.node.inputs[port.weight].uses()) > 1 for port in ports):  # type: ignore[union-attr]
        _leave(coupled, "a weight is shared")
        return False
    return True


def _leave(coupled: Coupled, reason: str) -> None:
    for port in coupled.makers:
        leave(port.node, reason)


# ---------------------------------------------------------------- how far channels reach
def _reaches(model: ir.Model, sets: Sequence[Coupled], samples: Samples) -> list[Array]:
    """Return for each set the reach of its channels: the mean over samples of the greatest |x|."""
    names = [[value.name or "" for value in coupled.values] for coupled in sets]
    session = Session(model, taps=[name for group in names for name in group])
    totals = [np.zeros(coupled.channels or 0) for coupled in sets]
    count = 0
    for feeds in itertools.islice(samples, SAMPLES):
        found = session.run(feeds)
        count += 1
        for total, coupled, group in zip(totals, sets, names, strict=True):
            total += _reach(coupled, [found[name] for name in group])
    return [total / max(count, 1) for total in totals]


def _reach(coupled: Coupled, arrays: Sequence[Array]) -> Array:
    reach = np.zeros(coupled.channels or 0)
    for data in arrays:
        axis = 1 if coupled.of_images else data.ndim - 1
        if data.size and data.shape[axis] == len(reach):
            others = tuple(i for i in range(data.ndim) if i != axis)
            reach = np.maximum(reach, np.abs(data).max(axis=others))
    return reach


# ---------------------------------------------------------------- scaling
def _equalize(graph: ir.Graph, coupled: Coupled, reach: Array) -> bool:
    """Scale the channels of a set, and their reach with them; say whether there was a need."""
    exponents = _exponents(coupled, reach)
    if not exponents.any():
        return False
    scale = np.ldexp(1.0, exponents).astype(np.float32)
    reach /= scale
    for port in coupled.makers:
        _scale_weight(graph, port, 1 / scale)
        _scale_bias(graph, port, 1 / scale)
    for port in coupled.readers:
        _scale_weight(graph, port, scale)
    return True


def _exponents(coupled: Coupled, reach: Array) -> Array:
    """Return log2 of each channel's divisor, as whole numbers whose middle is 0."""
    columns = np.zeros(len(reach))
    for port in coupled.readers:
        if not port.grouped:
            columns = np.maximum(columns, _column_reach(port))
    alive = (reach > 0) & ((columns > 0) | (not columns.any()))
    if not alive.any() or _unevenness(reach[alive]) < UNEVEN:
        return np.zeros(len(reach), dtype=np.int64)
    wanted = np.zeros(len(reach))
    wanted[alive] = np.log2(reach[alive])
    if columns.any():
        wanted[alive] = 0.5 * (wanted[alive] - np.log2(columns[alive]))
    wanted[alive] -= np.median(wanted[alive])
    return np.clip(np.rint(wanted), -FARTHEST, FARTHEST).astype(np.int64)


def _unevenness(reach: Array) -> float:
    """Return how far the widest channel reaches beyond the middle one."""
    alive = reach[reach > 0]
    return float(alive.max() / np.median(alive)) if alive.size else 1.0


def _column_reach(port: Port) -> Array:
    data = array(port.node.inputs[port.weight])
    assert data is not None
    others = tuple(i for i in range(data.ndim) if i != port.axis)
    return np.asarray(np.abs(data).max(axis=others, initial=0.0))


def _scale_weight(graph: ir.Graph, port: Port, scale: Array) -> None:
    data = array(port.node.inputs[port.weight])
    assert data is not None
    shape = [-1 if i == port.axis else 1 for i in range(data.ndim)]
    _replace(graph, port.node, port.weight, data * scale.reshape(shape))


def _scale_bias(graph: ir.Graph, port: Port, scale: Array) -> None:
    node = port.node
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return
    bias = array(node.inputs[2])
    assert bias is not None
    _replace(graph, node, 2, bias * scale)


def _replace(graph: ir.Graph, node: ir.Node, index: int, data: Array) -> None:
    old = node.inputs[index]
    assert old is not None
    name = f"{old.name}.equalized"
    node.replace_input_with(index, add_constant(graph, data.astype(np.float32), name))
