"""Biases from which the mean error of an int8 layer is taken out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.edits import add_constant
from onnxcomp.graph import Array, array, is_op, label, sole_consumer
from onnxcomp.passes.quantize._numbers import BIAS_MAX, quantize_bias
from onnxcomp.passes.quantize._pieces import Pieces
from onnxcomp.passes.quantize._taps import tap
from onnxcomp.registry import Effect, leave, measured, register

SAMPLES = 16


@dataclass
class _Layer:
    """A Conv, Gemm or MatMul by an int8 weight, and the Add behind a MatMul that is its bias."""

    node: ir.Node
    add: ir.Node | None

    @property
    def axis(self) -> int:
        return 1 if is_op(self.node, "Conv") else -1


@dataclass
class _Means:
    """The mean of each channel over even samples, and over odd ones."""

    sums: list[Array] = field(default_factory=list)
    counts: list[int] = field(default_factory=lambda: [0, 0])

    def add(self, index: int, data: Array, axis: int) -> None:
        """Count a sample, unless it is empty or not finite."""
        others = tuple(i for i in range(data.ndim) if i != axis % data.ndim)
        mean = data.mean(axis=others, dtype=np.float64) if data.size else np.array(np.nan)
        if not np.isfinite(mean).all():
            return
        if not self.sums:
            self.sums = [np.zeros(mean.shape), np.zeros(mean.shape)]
        self.sums[index % 2] += mean
        self.counts[index % 2] += 1

    def half(self, which: int) -> Array:
        return np.asarray(self.sums[which] / max(self.counts[which], 1))


@register(Effect.LOSSY)
def correct_bias(model: ir.Model, original: ir.Model, samples: Samples) -> int:
    """Take the mean error of each channel of an int8 layer out of its bias.

    Rounded weights and inputs shift the mean of what a layer makes, and the shifts add up over a
    model; b += E[y_float] - E[y_int8], per output channel, takes them out at no cost. Both means
    are of the same samples, before any activation. Layers are corrected from the inputs on, each
    with those before it corrected. A layer without a bias gets one. Sources: Nagel et al.,
    2019 (arXiv 1906.04721), section 4.2; Finkelstein et al., 2019 (arXiv 1906.03193).

    Left alone where the error does not carry over from one half of the samples to the other, and
    where the bias of a MatMul is not a float constant in an Add of its own.
    """
    layers = [layer for node in model.graph if (layer := _layer(node)) is not None]
    wanted = {label(node): node.outputs[0].name or "" for node in original.graph if node.outputs}
    layers = [layer for layer in layers if label(layer.node) in wanted]
    if not layers:
        return 0
    exact = _means_of(original, [wanted[label(each.node)] for each in layers], layers, samples)
    pieces, changed = Pieces(model, samples, SAMPLES), 0
    for layer, means in zip(layers, exact, strict=True):
        arrays, found = pieces.run_to(layer.node), _Means()
        for index, data in enumerate(arrays):
            found.add(index, data, layer.axis)
        shift = _shift(layer.node, means, found)
        if shift is None:
            continue
        _change_bias(model.graph, layer, shift)
        for data in arrays:
            data += _along(shift, layer.axis, data).astype(data.dtype)
        changed += 1
    return changed


def _layer(node: ir.Node) -> _Layer | None:
    """Return the layer that a node is, where its weight is int8 and its bias can be changed."""
    if not is_op(node, "Conv", "Gemm", "MatMul") or _stored(node.inputs[1], np.int8) is None:
        return None
    if not is_op(node.inputs[0].producer(), "DequantizeLinear"):  # type: ignore[union-attr]
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


def _means_of(
    model: ir.Model, names: Sequence[str], layers: Sequence[_Layer], samples: Samples
) -> list[_Means]:
    """Return the mean of each channel of what layers make."""
    found = {name: _Means() for name in names}
    axes = {name: layer.axis for name, layer in zip(names, layers, strict=True)}
    for index, name, data in tap(model, names, samples, SAMPLES):
        found[name].add(index, data, axes[name])
    return [found[name] for name in names]


def _shift(node: ir.Node, exact: _Means, found: _Means) -> Array | None:
    """Return the mean error of each channel, if half of the samples tell that of the others."""
    if exact.counts != found.counts or not min(exact.counts):
        leave(node, "fewer than two samples show its mean")
        return None
    errors = [exact.half(which) - found.half(which) for which in (0, 1)]
    before = sum(float(np.square(error).sum()) for error in errors)
    crossed = 2 * float(np.square(errors[0] - errors[1]).sum())
    if not crossed < before:
        leave(node, "its mean error differs between samples")
        return None
    shift = np.asarray((errors[0] + errors[1]) / 2)
    left = sum(float(np.square(error - shift).sum()) for error in errors)
    measured(node, float(np.sqrt(before / 2)), float(np.sqrt(left / 2)))
    return shift


def _along(shift: Array, axis: int, data: Array) -> Array:
    return shift.reshape([-1 if i == axis % data.ndim else 1 for i in range(data.ndim)])


# ---------------------------------------------------------------- the bias
def _change_bias(graph: ir.Graph, layer: _Layer, shift: Array) -> None:
    if layer.add is not None:
        _shift_add(graph, layer.add, shift)
    else:
        _shift_bias(graph, layer.node, shift)


def _shift_add(graph: ir.Graph, add: ir.Node, shift: Array) -> None:
    index = _float_bias(add)
    assert index is not None
    value = add.inputs[index]
    data = array(value)
    assert value is not None
    assert data is not None
    moved = (data + shift).astype(np.float32)
    add.replace_input_with(index, add_constant(graph, moved, f"{value.name}.corrected"))


def _shift_bias(graph: ir.Graph, node: ir.Node, shift: Array) -> None:
    """Add whole steps to an int32 bias, or give a node one, on the grid of its products."""
    given = node.inputs[2].producer() if len(node.inputs) > 2 and node.inputs[2] else None
    if given is None:
        input_scale, weight_scale = _scale(node.inputs[0]), _scale(node.inputs[1])
        steps, scale = quantize_bias(shift, float(input_scale), weight_scale)
        scale = scale if weight_scale.ndim else np.asarray(scale.reshape(-1)[0])
    else:
        old, scale = array(given.inputs[0]), _scale(node.inputs[2])
        assert old is not None
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


def _scale(value: ir.Value | None) -> Array:
    """Return the scale of the DequantizeLinear that makes a value."""
    node = value.producer() if value is not None else None
    assert node is not None
    scale = array(node.inputs[1])
    assert scale is not None
    return scale
