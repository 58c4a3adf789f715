"""Layers that multiply by a constant weight, as matrices: y = W x for each position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view

from onnxcomp.edits import add_constant
from onnxcomp.exclusion import is_excluded, split_globs
from onnxcomp.graph import Array, array, is_op, tensor

LAYER_OPS = ("Conv", "Gemm", "MatMul")
FLOAT_ONLY = frozenset({ir.DataType.FLOAT})


@dataclass(frozen=True)
class Layer:
    """A Conv, Gemm or MatMul; its weight is `groups` matrices of `rows` x `columns`.

    Of a ConvTranspose, a row is one output channel at one tap: what an input position adds there.
    """

    node: ir.Node
    groups: int
    rows: int
    columns: int

    @property
    def source(self) -> ir.Value:
        """The value that is multiplied."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def matrices(self) -> Array:
        """The weight as [groups, rows, columns]."""
        data = array(self.node.inputs[1])
        assert data is not None
        if is_op(self.node, "ConvTranspose"):
            parts = data.reshape(self.groups, self.columns, self.rows)
            return np.asarray(parts.transpose(0, 2, 1))
        data = data if self._by_row else data.T
        return np.asarray(data.reshape(self.groups, self.rows, self.columns))

    def weight_of(self, matrices: Array) -> Array:
        """Return matrices [groups, rows, columns] in the shape of the weight."""
        found = tensor(self.node.inputs[1])
        assert found is not None
        if is_op(self.node, "ConvTranspose"):
            return np.asarray(matrices.transpose(0, 2, 1).reshape(found.shape.numpy()))
        if self._by_row:
            return np.asarray(matrices.reshape(found.shape.numpy()))
        return np.asarray(matrices[0].T)

    @property
    def _by_row(self) -> bool:
        transposed = self.node.attributes.get_int("transB", 0) != 0
        return is_op(self.node, "Conv") or (is_op(self.node, "Gemm") and transposed)

    def inputs_at(self, data: Array, count: int, rng: np.random.Generator) -> Array:
        """Return what the rows are multiplied with, at random positions of an input.

        [groups, positions, columns], for at most `count` positions.
        """
        if is_op(self.node, "ConvTranspose"):
            pixels = np.moveaxis(data, 1, -1).reshape(-1, self.groups, self.columns)
            return np.asarray(pixels[_some(len(pixels), count, rng)].transpose(1, 0, 2))
        if not is_op(self.node, "Conv"):
            flat = data.reshape(-1, data.shape[-1])
            return flat[_some(len(flat), count, rng)][np.newaxis]
        windows = _windows(self.node, data)  # [N, C, *out, *kernel]
        shape = self.positions(data)
        first, *rest = np.unravel_index(_some(int(np.prod(shape)), count, rng), shape)
        places: tuple[Any, ...] = (first, slice(None), *rest)
        picked = windows[places]  # [positions, C, *kernel]
        rows = picked.reshape(len(picked), self.groups, self.columns)
        return np.asarray(rows.transpose(1, 0, 2))

    def positions(self, data: Array) -> tuple[int, ...]:
        """Return the shape that the output has beside its channels, for an input."""
        if not is_op(self.node, "Conv"):
            return data.shape[:-1]
        pads = pads_of(self.node, data.ndim - 2)
        ends = zip(pads[: data.ndim - 2], pads[data.ndim - 2 :], strict=True)
        spans, strides, _ = _geometry(self.node, data.ndim - 2)
        dims = zip(data.shape[2:], ends, spans, strides, strict=True)
        return (
            len(data),
            *((size + sum(end) - span) // step + 1 for size, end, span, step in dims),
        )

    def channels_at(self, data: Array, count: int, rng: np.random.Generator) -> Array:
        """Return an output, [positions, channels], at the positions that `inputs_at` picks.

        `rng` is to be in the state that it had there.
        """
        if self.axis < 0:
            flat = data.reshape(-1, data.shape[-1])
            return flat[_some(len(flat), count, rng)]
        moved = np.moveaxis(data, self.axis, -1)
        shape = moved.shape[:-1]
        return moved[np.unravel_index(_some(int(np.prod(shape)), count, rng), shape)]

    def by_group(self, picked: Array) -> Array:
        """Return [positions, channels] as [groups, positions, rows]."""
        return picked.reshape(len(picked), self.groups, self.rows).transpose(1, 0, 2)

    @property
    def axis(self) -> int:
        """The axis of the output's channels."""
        return 1 if is_op(self.node, "Conv") else -1

    @property
    def taps(self) -> int:
        """How many columns an input channel has: the size of a Conv's kernel."""
        found = tensor(self.node.inputs[1])
        assert found is not None
        return int(np.prod(found.shape.numpy()[2:]))


def find_layers(
    graph: ir.Graph,
    exclude: str = "",
    *,
    ops: Sequence[str] = LAYER_OPS,
    types: frozenset[ir.DataType] = FLOAT_ONLY,
) -> Iterator[Layer]:
    """Yield the layers of a graph whose weight is a float32 constant, but those that globs name.

    `ops` may add ConvTranspose, `types` other floats.
    """
    globs = split_globs(exclude)
    for node in graph:
        if not is_op(node, *ops) or len(node.inputs) < 2:
            continue
        if is_excluded(node, globs):
            continue
        found, source = tensor(node.inputs[1]), node.inputs[0]
        if found is None or source is None or tensor(source) is not None:
            continue
        shape = found.shape.numpy()
        if found.dtype not in types or 0 in shape:
            continue
        if is_op(node, "Conv"):
            groups = node.attributes.get_int("group", 1)
            yield Layer(node, groups, shape[0] // groups, int(np.prod(shape[1:])))
        elif is_op(node, "ConvTranspose"):
            groups = node.attributes.get_int("group", 1)
            yield Layer(node, groups, int(np.prod(shape[1:])), shape[0] // groups)
        elif len(shape) == 2 and not node.attributes.get_int("transA", 0):
            rows = int(node.attributes.get_int("transB", 0) == 0)
            yield Layer(node, 1, shape[rows], shape[1 - rows])


def replace_weight(graph: ir.Graph, layer: Layer, matrices: Array, suffix: str) -> None:
    """Give a layer another weight, [groups, rows, columns]."""
    old = layer.node.inputs[1]
    assert old is not None
    data = np.ascontiguousarray(layer.weight_of(matrices), dtype=np.float32)
    layer.node.replace_input_with(1, add_constant(graph, data, f"{old.name}.{suffix}"))


def decibels(signal: float, noise: float) -> float:
    """Return the ratio of two powers in dB."""
    return float(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30)))


def is_shared(layer: Layer) -> bool:
    """Say whether other nodes read the weight too."""
    value = layer.node.inputs[1]
    return value is not None and len(value.uses()) > 1


def has_known_pads(node: ir.Node) -> bool:
    """Say whether the pads of a Conv are given as numbers."""
    return node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")


def pads_of(node: ir.Node, spatial: int) -> tuple[int, ...]:
    """Return the pads of a Conv: those at the starts, then those at the ends."""
    return tuple(node.attributes.get_ints("pads", (0,) * 2 * spatial))


def _some(size: int, count: int, rng: np.random.Generator) -> Array:
    return np.arange(size) if size <= count else rng.choice(size, count, replace=False)


def _windows(node: ir.Node, data: Array) -> Array:
    """Return a view of what a Conv multiplies at each position: [N, C, *out, *kernel]."""
    spatial = data.ndim - 2
    spans, strides, dilations = _geometry(node, spatial)
    pads = pads_of(node, spatial)
    ends = zip(pads[:spatial], pads[spatial:], strict=True)
    padded = np.pad(data, [(0, 0), (0, 0), *ends])
    view = sliding_window_view(padded, spans, axis=tuple(range(2, 2 + spatial)))
    steps = [slice(None, None, step) for step in (*strides, *dilations)]
    return np.asarray(view[(slice(None), slice(None), *steps)])


def _geometry(node: ir.Node, spatial: int) -> tuple[tuple[int, ...], ...]:
    """Return what a Conv's kernel spans, its strides and its dilations."""
    weight = tensor(node.inputs[1])
    assert weight is not None
    strides = tuple(node.attributes.get_ints("strides", (1,) * spatial))
    dilations = tuple(node.attributes.get_ints("dilations", (1,) * spatial))
    kernel = weight.shape.numpy()[2:]
    spans = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    return spans, strides, dilations
