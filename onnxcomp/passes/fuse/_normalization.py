"""What layer and RMS normalization share: x / sqrt(mean(x * x) + epsilon), scaled."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, replace
from onnxcomp.graph import is_op, sole_consumer, tensor
from onnxcomp.passes._axes import axes_of, from_zero
from onnxcomp.passes._broadcast import dims_of
from onnxcomp.passes.fuse._patterns import (
    Quotient,
    float_type,
    is_sealed,
    maker,
    number,
    operand_pairs,
    other_operand,
    quotients,
)
from onnxcomp.registry import leave

# The type of the first stage, which is single precision where the attribute is not written.
STASH_TYPES = {ir.DataType.FLOAT: None, ir.DataType.FLOAT16: None, ir.DataType.DOUBLE: 11}
# What a scale of ones may take in the file: less than the nodes that go.
MOST_BYTES_OF_ONES = 128


@dataclass(frozen=True)
class Normalization:
    """What `nodes` make of `source`: numerator / sqrt(mean(squared * squared) + epsilon)."""

    source: ir.Value
    numerator: ir.Value
    squared: ir.Value
    axes: tuple[int, ...]
    epsilon: ir.Value
    nodes: tuple[ir.Node, ...]


def read_normalization(last: ir.Node) -> Normalization | None:
    """Read a quotient by a root mean square, in the forms that exporters write, or None."""
    for quotient in _quotients_by_root(last):
        added = maker(quotient.nodes[0].inputs[0], "Add")
        for mean_value, epsilon in [] if added is None else operand_pairs(added):
            mean = maker(mean_value, "ReduceMean")
            if mean is None or added is None:
                continue
            axes, square = kept_axes(mean), maker(mean.inputs[0], "Mul", "Pow")
            squared = None if square is None else _squared(square)
            if axes is None or square is None or squared is None:
                continue
            nodes = (square, mean, added, *quotient.nodes, last)
            return Normalization(squared, quotient.numerator, squared, axes, epsilon, nodes)
    return None


def kept_axes(mean: ir.Node) -> tuple[int, ...] | None:
    """Return the axes that a reduction names and keeps as dims of 1, or None."""
    return axes_of(mean) if mean.attributes.get_int("keepdims", 1) else None


def _quotients_by_root(last: ir.Node) -> Iterator[Quotient]:
    """Yield the ways in which a node is a quotient by a root, the first of its nodes."""
    for quotient in quotients(last):
        root = maker(quotient.denominator, "Sqrt", "Pow")
        if root is not None and (is_op(root, "Sqrt") or _exponent(root) == 0.5):
            yield dataclasses.replace(quotient, nodes=(root, *quotient.nodes))
    for numerator, inverse in operand_pairs(last) if is_op(last, "Mul") else []:
        power = maker(inverse, "Pow")
        if power is not None and _exponent(power) == -0.5:
            yield Quotient(numerator, inverse, (power,))


def _squared(square: ir.Node) -> ir.Value | None:
    first, second = square.inputs
    if is_op(square, "Mul"):
        return first if first is second else None
    return first if _exponent(square) == 2 else None


def _exponent(power: ir.Node) -> float | None:
    return number(power.inputs[1], power.inputs[0])


def fuse_normalization(op_type: str, found: Normalization, *, bias: bool) -> bool:
    """Replace a normalization, and the constants that follow, by one operator.

    Returns False, with the reason left, where that is not the same.
    """
    last = found.nodes[-1]
    dims, dtype = _normalized_dims(found.source, found.axes), float_type(found.nodes)
    if dims is None:
        leave(last, "the axes are not surely the last, of known sizes")
        return False
    if dtype not in STASH_TYPES:
        leave(last, "the numbers are not surely floats of half, single or double precision")
        return False
    epsilon = number(found.epsilon, found.source)
    if epsilon is None or float(np.float32(epsilon)) != epsilon:
        leave(last, "epsilon is not one constant number of single precision")
        return False
    if not is_sealed(found.nodes):
        leave(last, "an inner value is read elsewhere")
        return False
    nodes, inputs = [*found.nodes], [found.source]
    for op in ("Mul", "Add") if bias else ("Mul",):
        following = _following_constant(nodes[-1].outputs[0], op, dims)
        if following is not None:
            nodes.append(following[0])
            inputs.append(following[1])
        elif op == "Mul":
            if prod(dims) * dtype.itemsize > MOST_BYTES_OF_ONES:
                leave(last, "there is no scale, and one of ones would be too large")
                return False
            inputs.append(_add_ones(last, dims, dtype))
    attributes = [ir.AttrInt64("axis", -len(dims)), ir.AttrFloat32("epsilon", epsilon)]
    stash_type = STASH_TYPES[dtype]
    if stash_type is not None:
        attributes.append(ir.AttrInt64("stash_type", stash_type))
    replace(nodes, ir.Node("", op_type, inputs, attributes, name=nodes[-1].name))
    return True


def _normalized_dims(source: ir.Value, axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the dims along axes if these are surely the last and no dim is 0, or None."""
    dims = dims_of(source)
    if dims is None or from_zero(axes, len(dims)) != tuple(range(len(dims))[-len(axes) :]):
        return None
    sizes = tuple(dim for dim in dims[-len(axes) :] if isinstance(dim, int) and dim > 0)
    return sizes if len(sizes) == len(axes) else None


def _following_constant(
    value: ir.Value, op_type: str, dims: tuple[int, ...]
) -> tuple[ir.Node, ir.Value] | None:
    """Return the node that alone reads a value and combines it with a constant of these dims."""
    node = sole_consumer(value)
    if node is None or not is_op(node, op_type):
        return None
    constant = other_operand(node, value)
    if constant is None or tensor(constant) is None or dims_of(constant) != dims:
        return None
    return node, constant


def _add_ones(last: ir.Node, dims: tuple[int, ...], dtype: ir.DataType) -> ir.Value:
    assert last.graph is not None
    return add_constant(last.graph, np.ones(dims, dtype.numpy()), f"{last.outputs[0].name}.scale")
