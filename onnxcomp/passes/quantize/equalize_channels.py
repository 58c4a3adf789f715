"""Channels of a value brought to like ranges, by factors that go into the weights around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.edits import add_constant
from onnxcomp.graph import Array, array, is_op, label, rank
from onnxcomp.linear.taps import few, tap
from onnxcomp.passes.quantize._coupling import (
    Coupled,
    Port,
    find_coupled,
    size_of,
)
from onnxcomp.registry import Effect, leave, measured, register

SAMPLES = 4
# The farthest that a channel is scaled in one round (a power of two).
FARTHEST = 20
ROUNDS = 8
# The ratio of a value's widest channel to the middle one from which it is worth to equalize.
UNEVEN = 2.0


@register(Effect.CLOSE)
def equalize_channels(model: ir.Model, samples: Samples, unfused: ir.Model) -> int:
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
    elsewhere, when no channel stands out, and where samples are random, when a batch normalization
    (`unfused` has them) tells the range of the value as it is.
    """
    learnt = _normalized(unfused) if samples.synthetic else frozenset()
    sets = [found for found in find_coupled(model.graph) if _scalable(found, learnt)]
    reaches = _reaches(model, sets, samples)
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


def _normalized(model: ir.Model) -> frozenset[str]:
    """Return the names of what batch normalizations make."""
    made = (node.outputs[0].name for node in model.graph if is_op(node, "BatchNormalization"))
    return frozenset(name for name in made if name)


def _scalable(coupled: Coupled, learnt: frozenset[str]) -> bool:
    reason = coupled.pinned or _problem(coupled)
    if any(value.name in learnt for value in coupled.values):
        reason = reason or "its range is what a batch normalization has learnt"
    if reason:
        for port in coupled.makers:
            leave(port.node, reason)
    return not reason


def _problem(coupled: Coupled) -> str:
    channels, of_images = coupled.channels, coupled.of_images
    if not coupled.readers:
        return "nothing reads it"
    if channels is None or of_images is None:
        return "its channels are not one axis of every weight"
    if any(size_of(port) != channels for port in coupled.readers):
        return "its readers count its channels otherwise"
    if any(len(port.value.uses()) > 1 for port in (*coupled.makers, *coupled.readers)):
        return "a weight is shared"
    from_end = (rank(coupled.makers[0].value) or 0) - 1 if of_images else 1
    for port in coupled.biases:
        if size_of(port) != channels or (rank(port.value) or 0) - port.axis != from_end:
            return f"{label(port.node)} adds a constant that is not one number per channel"
    return ""


# ---------------------------------------------------------------- how far channels reach
def _reaches(model: ir.Model, sets: Sequence[Coupled], samples: Samples) -> list[Array]:
    """Return for each set the reach of its channels: the mean over samples of the greatest |x|."""
    owner = {value.name or "": i for i, each in enumerate(sets) for value in each.values}
    found = [np.zeros((SAMPLES, coupled.channels or 0)) for coupled in sets]
    count = 0
    for index, name, data in tap(model, list(owner), samples, few(model, samples, SAMPLES)):
        place, count = owner[name], max(count, index + 1)
        reach = found[place][index]
        np.maximum(reach, _reach(data, len(reach), sets[place]), out=reach)
    return [each[:count].sum(axis=0) / max(count, 1) for each in found]


def _reach(data: Array, channels: int, coupled: Coupled) -> Array:
    axis = 1 if coupled.of_images else data.ndim - 1
    others = tuple(i for i in range(data.ndim) if i != axis)
    if data.shape[axis] != channels:
        return np.zeros(channels)
    least, most = (np.asarray(ends(data, axis=others, initial=0.0)) for ends in (np.min, np.max))
    reach = np.maximum(most, -least)
    return reach if np.isfinite(reach).all() else np.zeros(channels)


# ---------------------------------------------------------------- scaling
def _equalize(graph: ir.Graph, coupled: Coupled, reach: Array) -> bool:
    """Scale the channels of a set, and their reach with them; say whether there was a need."""
    exponents = _exponents(coupled, reach)
    if not exponents.any():
        return False
    scale = np.ldexp(1.0, exponents).astype(np.float32)
    divided = [*coupled.makers, *map(_bias_of, coupled.makers), *coupled.biases]
    scaled: list[tuple[Port, Array]] = [(port, 1 / scale) for port in divided if port is not None]
    scaled += [(port, scale) for port in coupled.readers]
    if not all(_is_exact(_constant(port), port.axis, factor) for port, factor in scaled):
        leave(coupled.makers[0].node, "its weights would leave what float32 can hold")
        return False
    reach /= scale
    for port, factor in scaled:
        data = _product(_constant(port), port.axis, factor)
        value = add_constant(graph, data, _name(port.value))
        port.node.replace_input_with(port.weight, value)
    return True


def _name(weight: ir.Value) -> str:
    """Return the name of a weight's next form, which does not grow from round to round."""
    return f"{(weight.name or 'weight').removesuffix('.equalized')}.equalized"


def _bias_of(maker: Port) -> Port | None:
    """Return the bias of a node that makes channels."""
    node = maker.node
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return None
    return Port(node, 2, max((rank(node.inputs[2]) or 0) - 1, 0))


def _product(data: Array, axis: int, factor: Array) -> Array:
    """Return an array with each index of an axis multiplied; a bias of one number is spread."""
    shape = [-1 if i == axis else 1 for i in range(max(data.ndim, 1))]
    return np.asarray(data * factor.reshape(shape))


def _is_exact(data: Array, axis: int, factor: Array) -> bool:
    """Say whether no weight gets too large or too small to come back to what it was."""
    with np.errstate(over="ignore", under="ignore"):
        back = _product(_product(data, axis, factor), axis, 1 / factor)
    return bool(np.all(back == data))


def _constant(port: Port) -> Array:
    data = array(port.value)
    assert data is not None
    return data


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
    data = _constant(port)
    others = tuple(i for i in range(data.ndim) if i != port.axis)
    return np.asarray(np.abs(data).max(axis=others, initial=0.0))
