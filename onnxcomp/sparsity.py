"""How many of a model's weights are zero, in which patterns, and what that is worth on disk.

Zeros make nothing faster in ONNX Runtime on a CPU: its kernels multiply them like other numbers.
TensorRT has kernels for weights of which at most two of four neighbouring input channels are not
zero (2:4). Other zeros are worth the bytes that compression saves, and no more.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcomp.graph import Array, all_graphs, all_nodes, array, is_op, label, tensor

# Of so many neighbouring input channels at most so many are not zero.
PATTERNS = ((1, 4), (2, 4), (4, 8))
LAYER_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# What zlib, gzip and zip take when nothing is said.
LEVEL = 6
CHUNK = 1 << 24


@dataclass(frozen=True)
class LayerZeros:
    """The share of zeros in the weight of a layer, and the n:m patterns that it keeps to."""

    node: str
    op: str
    weights: int
    zeros: float
    patterns: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the layer as JSON data."""
        return {
            "node": self.node,
            "op": self.op,
            "weights": self.weights,
            "zeros": round(self.zeros, 4),
            "patterns": list(self.patterns),
        }


@dataclass(frozen=True)
class Sparsity:
    """The zeros of a model.

    `zeros` is the share of all constants' elements, `in_layers` that of the weights of Conv,
    ConvTranspose, Gemm and MatMul alone; `bytes` are those of all constants, `compressed` what
    zlib makes of them.
    """

    zeros: float
    in_layers: float
    bytes: int
    compressed: int
    layers: tuple[LayerZeros, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the facts as JSON data."""
        return {
            "zeros": round(self.zeros, 4),
            "in_layers": round(self.in_layers, 4),
            "bytes": self.bytes,
            "compressed": self.compressed,
            "layers": [layer.to_dict() for layer in self.layers],
        }

    def __str__(self) -> str:
        kept = [
            f"{name} in {count} of {len(self.layers)} layers"
            for name in (f"{n}:{m}" for n, m in PATTERNS)
            if (count := sum(name in layer.patterns for layer in self.layers))
        ]
        zeros = f"{self.zeros:.1%} of the weights are zero, {self.in_layers:.1%} of the layers'"
        return "   ".join([zeros, *kept])


def sparsity_of(model: ir.Model) -> Sparsity:
    """Return how many weights of a model are zero, and what compression makes of them."""
    zeros = count = size = compressed = 0
    packer = zlib.compressobj(LEVEL)
    for value, found in _constants(model):
        zeros += _count_zeros(value, found)
        count += found.size
        data = memoryview(found.tobytes())
        size += len(data)
        for start in range(0, len(data), CHUNK):
            compressed += len(packer.compress(data[start : start + CHUNK]))
    compressed += len(packer.flush())
    layers = tuple(_layers(model))
    weights = sum(layer.weights for layer in layers)
    in_layers = sum(layer.zeros * layer.weights for layer in layers) / max(weights, 1)
    return Sparsity(zeros / max(count, 1), in_layers, size, compressed, layers)


def _count_zeros(value: ir.Value, found: ir.TensorProtocol) -> int:
    """Count the zeros of a constant; of codes those that stand for zero."""
    for use in value.uses():
        reader = next((each.node for each in use.node.outputs[0].uses()), None)
        if is_op(use.node, "Cast") and reader is not None and is_op(reader, "Gather"):
            book = array(reader.inputs[0])
            if book is not None and book.ndim == 1:
                return int(np.count_nonzero(book[found.numpy().astype(np.intp)] == 0))
    return int(np.count_nonzero(found.numpy() == 0))


def _constants(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Yield initializers and Constant nodes with what they hold, but texts."""
    values = [value for graph in all_graphs(model) for value in graph.initializers.values()]
    values += [node.outputs[0] for node in all_nodes(model) if is_op(node, "Constant")]
    for value in values:
        found = tensor(value)
        if found is not None and found.dtype != ir.DataType.STRING:
            yield value, found


def _layers(model: ir.Model) -> Iterator[LayerZeros]:
    for node in all_nodes(model):
        if not is_op(node, *LAYER_OPS) or len(node.inputs) < 2:
            continue
        zero = _zero_places(node.inputs[1])
        if zero is None or zero.ndim < 2 or not zero.size:
            continue
        patterns = tuple(f"{n}:{m}" for n, m in PATTERNS if _keeps_to(node, zero, n, m))
        yield LayerZeros(label(node), node.op_type, zero.size, float(zero.mean()), patterns)


def _zero_places(value: ir.Value | None) -> Array | None:
    """Return where a constant weight is zero, also one that is stored in int8 or as codes."""
    data = array(value)
    if data is not None:
        return np.asarray(data == 0)
    node = None if value is None else value.producer()
    if is_op(node, "DequantizeLinear") and node is not None:
        return _zero_steps(node)
    if is_op(node, "Gather") and node is not None and node.inputs[1] is not None:
        book, cast = array(node.inputs[0]), node.inputs[1].producer()
        codes = array(cast.inputs[0]) if cast is not None and is_op(cast, "Cast") else None
        return None if book is None or codes is None else book[codes.astype(np.intp)] == 0
    if is_op(node, "Mul") and node is not None and node.inputs[0] is not None:
        cast = node.inputs[0].producer()
        steps = array(cast.inputs[0]) if is_op(cast, "Cast") and cast is not None else None
        return None if steps is None else np.asarray(steps == 0)
    return None


def _zero_steps(node: ir.Node) -> Array | None:
    steps, point = array(node.inputs[0]), 0
    if steps is None or len(node.inputs) < 3 or node.inputs[2] is None:
        return None if steps is None else np.asarray(steps == point)
    points = array(node.inputs[2])
    if points is None or "block_size" in node.attributes:
        return None
    if points.ndim == 1 and points.size > 1:
        axis = node.attributes.get_int("axis", 1) % steps.ndim
        points = points.reshape([-1 if each == axis else 1 for each in range(steps.ndim)])
    return np.asarray(steps == points)


def _keeps_to(node: ir.Node, zero: Array, keep: int, of: int) -> bool:
    """Say whether of each `of` neighbouring input channels at most `keep` are not zero."""
    if is_op(node, "Conv"):
        axis, inputs = 1, zero.shape[1]
    elif is_op(node, "ConvTranspose"):
        axis, inputs = 0, zero.shape[0] // node.attributes.get_int("group", 1)
    else:
        across = is_op(node, "Gemm") and node.attributes.get_int("transB", 0) != 0
        axis = 1 if across else zero.ndim - 2
        inputs = zero.shape[axis]
    if inputs % of:
        return False
    kept = ~np.moveaxis(zero, axis, -1).reshape(-1, of)
    return bool((kept.sum(axis=1) <= keep).all())
