"""What a model costs as a function of how many channels of each group stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxcomp.channels.groups import Group
from onnxcomp.cost import concrete_shapes, node_macs, parameters
from onnxcomp.graph import Array, all_nodes, is_op, tensor
from onnxcomp.model_io import model_bytes

# Kernels move a number in about the time of so many multiplications: in depthwise convolutions, and
# where images are large, that is most of their time.
MOVING = 16
Counts = NDArray[np.intp]
Place = tuple[ir.Value, int]
LAYER_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Axis:
    """An axis of `size` indices, on which groups own `widths` for each of their channels.

    `weight` says that a layer multiplies by what lies along it.
    """

    size: int
    widths: Mapping[int, int]
    weight: bool


@dataclass(frozen=True, eq=False)
class Terms:
    """Costs that are proportional to the kept share of each of some axes.

    `amounts` [terms] while nothing is removed; `axes` [terms, most]: indices, or -1 for none.
    `fixed` is what does not depend on the groups.
    """

    amounts: Array
    axes: NDArray[np.intp]
    fixed: float


@dataclass(frozen=True, eq=False)
class Costs:
    """The cost of a model by kind: "macs", "params", "bytes", "work"; `channels` [groups] in all.

    Work is MACs, and what layers read and make in the time of MACs.

    It is bilinear: half of the input channels and half of the output channels of a convolution
    are a quarter of its multiplications.
    """

    channels: Counts
    axes: tuple[Axis, ...]
    terms: Mapping[str, Terms]

    def total(self, kind: str, kept: Counts) -> float:
        """Return what the model costs with `kept` [groups] channels of each group."""
        terms = self.terms[kind]
        shares = np.append(1.0 - self._widths @ (self.channels - kept), 1.0)
        return float(terms.fixed + terms.amounts @ shares[terms.axes].prod(axis=1))

    @cached_property
    def _widths(self) -> Array:
        """The share of each axis that one channel of each group owns, [axes, groups]."""
        found = np.zeros((len(self.axes), len(self.channels)))
        for index, axis in enumerate(self.axes):
            for group, width in axis.widths.items():
                found[index, group] = width / axis.size
        return found

    def near(self, kind: str, group: int) -> set[int]:
        """Return the groups that share a term with a group: what they save depends on it."""
        mine = [index for index, axis in enumerate(self.axes) if group in axis.widths]
        terms = self.terms[kind].axes
        rows = np.isin(terms, mine).any(axis=1)
        others = {int(index) for index in terms[rows].ravel() if index >= 0}
        return {group}.union(*(self.axes[index].widths for index in others))


def find_costs(
    model: ir.Model, groups: Sequence[Group], feeds: Mapping[str, Array] | None
) -> Costs:
    """Return the costs of a model; MACs are those of one sample of `feeds`."""
    places = _find_axes(groups, _multiplied(model))
    index = {place: number for number, place in enumerate(places)}
    constants = {place[0]: tensor(place[0]) for place in places}
    known = [(value, found) for value, found in constants.items() if found is not None]
    axes_of = {
        value: tuple(at for place, at in index.items() if place[0] is value) for value, _ in known
    }
    shapes = concrete_shapes(model, feeds)
    macs = [(float(node_macs(node, shapes) or 0), _axes(node, index)) for node in all_nodes(model)]
    params = [(float(found.size), axes_of[value]) for value, found in known]
    stored = [(float(found.nbytes), axes_of[value]) for value, found in known]
    return Costs(
        np.array([group.channels for group in groups], np.intp),
        tuple(places.values()),
        {
            "macs": _terms(macs, sum(amount for amount, _ in macs)),
            "params": _terms(params, parameters(model)),
            "bytes": _terms(stored, model_bytes(model)),
            "work": _terms([*macs, *_moved(model, shapes, index)], 0.0),
        },
    )


def _moved(
    model: ir.Model, shapes: Mapping[ir.Value, tuple[int, ...]], index: Mapping[Place, int]
) -> Iterator[tuple[float, tuple[int, ...]]]:
    """Yield what layers read and make, each with the axis of the weight that it runs along."""
    for node in all_nodes(model):
        if not is_op(node, *LAYER_OPS) or len(node.inputs) < 2 or tensor(node.inputs[1]) is None:
            continue
        weight, source, result = node.inputs[1], node.inputs[0], node.outputs[0]
        assert weight is not None
        inner, outer = _weight_axes(node)
        for value, axis in ((source, inner), (result, outer)):
            if value is not None and value in shapes and (weight, axis) in index:
                yield float(MOVING * prod(shapes[value])), (index[weight, axis],)


def _weight_axes(node: ir.Node) -> tuple[int, int]:
    """Return the axes of a layer's weight along what it reads and what it makes."""
    if is_op(node, "Conv"):
        return (0, 0) if node.attributes.get_int("group", 1) > 1 else (1, 0)
    if is_op(node, "Gemm") and node.attributes.get_int("transB", 0) != 0:
        return 1, 0
    found = tensor(node.inputs[1])
    rank = 2 if found is None or is_op(node, "ConvTranspose") else len(found.shape)
    return rank - 2, rank - 1


def _multiplied(model: ir.Model) -> set[ir.Value]:
    """Return what products of two computed values, as in attention, read and make."""
    return {
        value
        for node in all_nodes(model)
        if node.op_type == "MatMul" and all(tensor(value) is None for value in node.inputs)
        for value in (*node.inputs, *node.outputs)
        if value is not None
    }


def _find_axes(groups: Sequence[Group], multiplied: Set[ir.Value]) -> dict[Place, Axis]:
    widths: dict[Place, dict[int, int]] = {}
    weights: set[Place] = set()
    for number, group in enumerate(groups):
        for part in group.parts:
            if part.value not in multiplied and tensor(part.value) is None:
                continue
            # One group may own an axis in two parts, such as a Concat of a value with itself.
            own = widths.setdefault((part.value, part.axis), {})
            own[number] = own.get(number, 0) + part.places.shape[1]
        ports = (*group.makers, *group.readers, *group.depthwise)
        weights |= {(port.part.value, port.part.axis) for port in ports}
    return {
        place: Axis(_size(place, groups), own, place in weights) for place, own in widths.items()
    }


def _size(place: Place, groups: Sequence[Group]) -> int:
    """Return how long an axis is: as declared, or else up to the last index that a group owns."""
    value, axis = place
    found = tensor(value)
    shape = found.shape if found is not None else value.shape
    size = shape[axis] if shape is not None and axis < len(shape) else None
    if isinstance(size, int):
        return size
    parts = (part for group in groups for part in group.parts)
    return 1 + max(int(p.places.max()) for p in parts if (p.value, p.axis) == place)


def _axes(node: ir.Node, index: Mapping[Place, int]) -> tuple[int, ...]:
    """Return the axes that a node's multiplications are proportional to."""
    weight = next((value for value in node.inputs[:2] if tensor(value) is not None), None)
    if weight is not None:
        return tuple(at for place, at in index.items() if place[0] is weight)
    if node.op_type != "MatMul" or node.inputs[0] is None:
        return ()
    first, out = node.inputs[0], node.outputs[0]
    made = [at for place, at in index.items() if place[0] is out]
    inner = [at for (v, axis), at in index.items() if v is first and axis == _last_axis(first)]
    return (*made, *inner)


def _last_axis(value: ir.Value) -> int:
    return -1 if value.shape is None else len(value.shape) - 1


def _terms(found: Sequence[tuple[float, tuple[int, ...]]], whole: float) -> Terms:
    moving = [(amount, axes) for amount, axes in found if amount and axes]
    most = max((len(axes) for _, axes in moving), default=1)
    amounts = np.array([amount for amount, _ in moving], np.float64)
    padded = [[*axes, *[-1] * (most - len(axes))] for _, axes in moving]
    axes = np.array(padded, np.intp).reshape(len(moving), most)
    return Terms(amounts, axes, whole - float(amounts.sum()))
