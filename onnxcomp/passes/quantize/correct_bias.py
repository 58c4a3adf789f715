"""Biases from which the mean error of an int8 layer is taken out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcomp.ahead import in_order
from onnxcomp.calibration.data_free import known_moments
from onnxcomp.calibration.samples import Samples
from onnxcomp.cost import one_sample
from onnxcomp.edits import add_constant
from onnxcomp.graph import Array, array, is_op, label, sole_consumer
from onnxcomp.linear.pieces import Pieces
from onnxcomp.linear.taps import few
from onnxcomp.parity import ParityMeter
from onnxcomp.passes.quantize._mean_errors import mean_error
from onnxcomp.passes.quantize._numbers import BIAS_MAX, quantize_bias
from onnxcomp.registry import Effect, leave, measured, register
from onnxcomp.runtime import Session
from onnxcomp.targets import Target

SAMPLES = 16
# Further samples, on which the answers have to come closer.
CHECKS = 8


@dataclass(frozen=True)
class _Layer:
    """A Conv, Gemm or MatMul by an int8 weight, and the Add behind a MatMul that is its bias."""

    node: ir.Node
    add: ir.Node | None

    @property
    def axis(self) -> int:
        return 1 if is_op(self.node, "Conv") else -1


@dataclass(frozen=True)
class _Shift:
    """The mean error of each channel; the norm of that of half the samples, before and after."""

    mean: Array
    before: float
    after: float


@register(Effect.LOSSY)
def correct_bias(
    model: ir.Model, original: ir.Model, samples: Samples, unfused: ir.Model, target: Target
) -> int:
    """Take the mean error of each channel of an int8 layer out of its bias.

    Rounded weights and inputs shift the mean of what a layer makes, and the shifts add up over a
    model; b += E[y_float] - E[y_int8], per output channel, takes them out at no cost. Both means
    are of the same samples, before any activation. Layers are corrected from the inputs on, each
    with those before it corrected. A layer without a bias gets one. Sources: Nagel et al.,
    2019 (arXiv 1906.04721), section 4.2; Finkelstein et al., 2019 (arXiv 1906.03193).

    Where samples are random, the mean inputs that batch normalization has learnt (`unfused` has
    the normalizations) give the error of the weights: (W - Wq) E[x].

    Left alone where the error does not carry over from one half of the samples to the other, where
    the bias of a MatMul is not a float constant in an Add of its own, and altogether when the
    answers to further samples do not come closer.
    """
    if samples.synthetic:
        return _correct_without_data(model, original, unfused)
    exact_nodes = {label(node): node for node in original.graph}
    tried = model.clone()
    limit = few(model, samples, SAMPLES)
    pieces, exact = (Pieces(each, samples, limit) for each in (tried, original))
    shifts: dict[str, _Shift] = {}
    for node in list(tried.graph):
        twin = exact_nodes.get(label(node))
        layer = _layer(node) if twin is not None and not exact.is_past(twin) else None
        if layer is None or twin is None:
            continue
        wanted, arrays = in_order(
            lambda each: each[0].run_to(each[1]), [(exact, twin), (pieces, node)]
        )
        shift = _shift(layer, wanted, arrays)
        if shift is None:
            continue
        shifts[label(node)] = shift
        applied = _change_bias(tried.graph, layer, shift.mean)
        for data in arrays:
            data += _along(applied, layer.axis, data).astype(data.dtype)
    if not shifts or not _is_better((original, model, tried), samples, limit, target):
        for name in shifts:
            leave(exact_nodes[name], "the answers do not come closer with mean errors taken out")
        return 0
    for node in list(model.graph):
        layer = _layer(node) if label(node) in shifts else None
        if layer is not None:
            shift = shifts[label(node)]
            _change_bias(model.graph, layer, shift.mean)
            measured(node, shift.before, shift.after)
    return len(shifts)


def _correct_without_data(model: ir.Model, original: ir.Model, unfused: ir.Model) -> int:
    """Take out of the biases what rounded weights make of the mean inputs that are known."""
    known = known_moments(unfused, original)
    exact_nodes = {label(node): node for node in original.graph}
    corrected = 0
    for node in list(model.graph):
        twin = exact_nodes.get(label(node))
        layer = _layer(node) if twin is not None and twin.op_type == node.op_type else None
        shift = mean_error(node, twin, known) if layer is not None and twin is not None else None
        if layer is None or shift is None:
            continue
        applied = _change_bias(model.graph, layer, shift)
        measured(node, float(np.linalg.norm(shift)), float(np.linalg.norm(shift - applied)))
        corrected += 1
    return corrected


def _is_better(
    models: tuple[ir.Model, ir.Model, ir.Model], samples: Samples, seen: int, target: Target
) -> bool:
    """Say whether the last model's answers are nearer to the first's than those of the second are.

    Asked are samples beyond those seen, if there are any.
    """
    exact = models[0]
    checks = few(exact, samples, CHECKS)
    rest = itertools.islice(samples, seen, seen + checks)
    feeds = [one_sample(exact, each) for each in rest]
    feeds = feeds or [one_sample(exact, each) for each in itertools.islice(samples, checks)]
    sessions = [Session(model, optimize=True, signed=target.signed) for model in models]
    meters = [ParityMeter(), ParityMeter()]
    for wanted, *found in in_order(lambda each: [s.run(each) for s in sessions], feeds):
        for meter, answer in zip(meters, found, strict=True):
            meter.add(wanted, answer)
    plain, corrected = (meter.result().sqnr_db for meter in meters)
    return bool(corrected > plain)


def _layer(node: ir.Node) -> _Layer | None:
    """Return the layer that a node is, where its weight is int8 and its bias can be changed."""
    if not is_op(node, "Conv", "Gemm", "MatMul") or _stored(node.inputs[1], np.int8) is None:
        return None
    source = node.inputs[0]
    if source is None or not is_op(source.producer(), "DequantizeLinear"):
        return None
    if not is_op(node, "MatMul"):
        given = node.inputs[2] if len(node.inputs) > 2 else None
        if given is None or _stored(given, np.int32) is not None:
            return _Layer(node, None)
        leave(node, "its bias is not int32")
        return None
    add = sole_consumer(node.outputs[0])
    if is_op(add, "Sum") and add is not None and len(add.inputs) == 1:
        add = sole_consumer(add.outputs[0])
    if add is None or not is_op(add, "Add") or _float_bias(add) is None:
        leave(node, "no Add behind it has a float constant for its bias")
        return None
    return _Layer(node, add)


def _stored(value: ir.Value | None, dtype: type[np.generic]) -> Array | None:
    """Return the integers behind the DequantizeLinear that makes a value."""
    node = value.producer() if value is not None else None
    if node is None or not is_op(node, "DequantizeLinear"):
        return None
    data = array(node.inputs[0])
    return data if data is not None and data.dtype == dtype else None


def _float_bias(add: ir.Node) -> int | None:
    """Return which input of an Add is a constant of one number per channel."""
    for index, value in enumerate(add.inputs):
        data = array(value)
        if data is not None and data.ndim and data.size == data.shape[-1]:
            return index if data.dtype == np.float32 else None
    return None


def _shift(layer: _Layer, wanted: Sequence[Array], found: Sequence[Array]) -> _Shift | None:
    """Return the mean error of each channel, if half of the samples tell that of the others."""
    errors = [
        _by_channel(first - second, layer.axis)
        for first, second in zip(wanted, found, strict=False)  # one may keep fewer samples
        if first.shape == second.shape and np.isfinite(first).all()
    ]
    if len(errors) < 2:
        leave(layer.node, "fewer than two samples show its mean")
        return None
    even, odd = (_mean(errors[half::2]) for half in (0, 1))
    before = float(np.square(even).sum() + np.square(odd).sum())
    if not 2 * float(np.square(even - odd).sum()) < before:
        leave(layer.node, "its mean error differs between samples")
        return None
    shift = _mean(errors)
    left = float(np.square(even - shift).sum() + np.square(odd - shift).sum())
    return _Shift(shift, float(np.sqrt(before / 2)), float(np.sqrt(left / 2)))


def _mean(errors: Sequence[Array]) -> Array:
    """Return the mean of each channel over positions and samples."""
    return np.asarray(np.mean([each.mean(axis=1, dtype=np.float64) for each in errors], axis=0))


def _by_channel(data: Array, axis: int) -> Array:
    """Return an array as [channels, positions]."""
    moved = np.moveaxis(data, axis, 0)
    return moved.reshape(len(moved), -1)


def _along(shift: Array, axis: int, data: Array) -> Array:
    return shift.reshape([-1 if i == axis % data.ndim else 1 for i in range(data.ndim)])


# ---------------------------------------------------------------- the bias
def _change_bias(graph: ir.Graph, layer: _Layer, shift: Array) -> Array:
    """Add numbers to the bias of a layer, and return what they came to on its grid."""
    if layer.add is not None:
        return _shift_add(graph, layer.add, shift)
    return _shift_bias(graph, layer.node, shift)


def _shift_add(graph: ir.Graph, add: ir.Node, shift: Array) -> Array:
    index = _float_bias(add)
    assert index is not None
    value = add.inputs[index]
    data = array(value)
    assert value is not None
    assert data is not None
    moved = (data + shift).astype(np.float32)
    add.replace_input_with(index, add_constant(graph, moved, f"{value.name}.corrected"))
    return shift


def _shift_bias(graph: ir.Graph, node: ir.Node, shift: Array) -> Array:
    """Add whole steps to an int32 bias, or give a node one, on the grid of its products."""
    given = node.inputs[2].producer() if len(node.inputs) > 2 and node.inputs[2] else None
    if given is None:
        input_scale, weight_scale = _scale(node.inputs[0]), _scale(node.inputs[1])
        steps, scale = quantize_bias(shift, float(input_scale), weight_scale)
        scale = scale if weight_scale.ndim else np.asarray(scale.reshape(-1)[0])
        old = np.zeros_like(steps)
    else:
        stored_before, scale = array(given.inputs[0]), _scale(node.inputs[2])
        assert stored_before is not None
        old = stored_before
        moved = old.astype(np.float64) + np.rint(shift / scale)
        steps = np.where(np.abs(moved) <= BIAS_MAX, moved, old).astype(np.int32)
    stem = f"{node.outputs[0].name}.bias"
    zero = np.zeros(scale.shape, dtype=np.int32)
    stored = [
        add_constant(graph, data, f"{stem}.{name}")
        for name, data in (("q", steps), ("scale", scale), ("zero", zero))
    ]
    attributes = [ir.AttrInt64("axis", 0)] if scale.ndim else []
    dequantize = ir.Node("", "DequantizeLinear", stored, attributes)
    dequantize.outputs[0].name = f"{stem}.corrected"
    dequantize.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    dequantize.outputs[0].shape = ir.Shape(steps.shape)
    graph.insert_before(node, dequantize)
    node.resize_inputs(max(3, len(node.inputs)))
    node.replace_input_with(2, dequantize.outputs[0])
    return np.asarray((steps.astype(np.float64) - old) * scale)


def _scale(value: ir.Value | None) -> Array:
    """Return the scale of the DequantizeLinear that makes a value."""
    node = value.producer() if value is not None else None
    assert node is not None
    scale = array(node.inputs[1])
    assert scale is not None
    return scale
