"""What is done for the layers that lose inputs: the means of these go into their biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcomp.channels.groups import Group, Part, Port
from onnxcomp.edits import add_constant
from onnxcomp.graph import Array, array, is_op, sole_consumer, tensor
from onnxcomp.passes.prune._allocation import Ranking
from onnxcomp.passes.prune._merging import Merges, merged

Place = tuple[ir.Value, int]


@dataclass(frozen=True, eq=False)
class Removal:
    """What goes from a group: which channels stay, rising; by which order; and what is known."""

    group: Group
    kept: Array
    ranking: Ranking
    means: Mapping[ir.Value, Array]
    merges: Merges | None = None

    @property
    def gone(self) -> Array:
        """The channels that go."""
        return np.setdiff1d(np.arange(self.group.channels), self.kept)


@dataclass(frozen=True, eq=False)
class Compensation:
    """What a layer gets once its inputs are gone: numbers for its bias, or another weight.

    Both are as long as what is left of the layer.
    """

    node: ir.Node
    added: Array | None
    weight: Array | None


class Kept:
    """Which indices of each axis of each value stay."""

    def __init__(self, removals: Sequence[Removal]) -> None:
        self._gone: dict[Place, list[Array]] = {}
        for removal in removals:
            for part in removal.group.parts:
                gone = part.places[removal.gone].ravel()
                self._gone.setdefault((part.value, part.axis), []).append(gone)

    def along(self, value: ir.Value, axis: int, size: int) -> Array:
        """Return the indices that stay of `size`."""
        gone = self._gone.get((value, axis), [])
        return np.setdiff1d(np.arange(size), np.concatenate([np.zeros(0, np.intp), *gone]))

    def loses(self, value: ir.Value, axis: int) -> bool:
        """Say whether an axis loses anything."""
        return any(len(each) for each in self._gone.get((value, axis), []))


def output_axis(node: ir.Node) -> int:
    """Return the axis of a layer's output that its rows are on."""
    if is_op(node, "MatMul"):
        shape = node.outputs[0].shape
        return -1 if shape is None else len(shape) - 1
    return 1


def compensations(removals: Sequence[Removal], kept: Kept) -> list[Compensation]:
    """Return what the readers of the groups get; found on the model before, for that after."""
    found: list[Compensation] = []
    weights: dict[ir.Node, Array] = {}
    for removal in removals:
        for port in removal.group.readers:
            if removal.merges is not None:
                _merge(weights, removal, port)
            elif (added := mean_lost(removal, port)) is not None:
                out = kept.along(port.node.outputs[0], output_axis(port.node), len(added))
                found.append(Compensation(port.node, added[out], None))
    for node, weight in weights.items():
        left = weight
        for axis, size in enumerate(weight.shape):
            left = np.take(left, kept.along(_weight(node), axis, size), axis=axis)
        found.append(Compensation(node, None, np.ascontiguousarray(left)))
    return found


def _weight(node: ir.Node) -> ir.Value:
    value = node.inputs[1] if tensor(node.inputs[1]) is not None else node.inputs[0]
    assert value is not None
    return value


def _merge(weights: dict[ir.Node, Array], removal: Removal, port: Port) -> None:
    """Let what read removed channels read those that they are like, in a copy of the weight."""
    data = array(port.part.value)
    if data is None or removal.merges is None or len(port.part.value.uses()) > 1:
        return
    axis, places = port.part.axis, port.part.places
    whole = weights.get(port.node, data)
    moved = np.moveaxis(whole, axis, 0).astype(np.float64)
    flat = moved[places].reshape(len(places), -1)
    flat = merged(flat, removal.merges, removal.ranking, len(removal.kept))
    moved[places] = flat.reshape(*places.shape, *moved.shape[1:])
    weights[port.node] = np.moveaxis(moved, 0, axis).astype(data.dtype)


def mean_lost(removal: Removal, port: Port) -> Array | None:
    """Return what the removed channels add to each output on average: W E[x], over all taps.

    Exact for constant channels, but for the borders where zeros are padded. None where the means
    are not known, or no bias would do.
    """
    node, source = port.node, port.node.inputs[0]
    data = array(port.part.value)
    part = next((each for each in removal.group.parts if each.value is source), None)
    if source is None or data is None or part is None or source not in removal.means:
        return None
    if node.inputs[1] is not port.part.value:
        return None
    means = removal.means[source]
    weight = data.astype(np.float64)
    if is_op(node, "Conv", "ConvTranspose"):
        return _added_by_taps(node, weight, part, means, removal.gone)
    if weight.ndim != 2:
        return None
    rows = weight.T if port.part.axis == 0 else weight  # [rows, columns]
    x = _lost(part, means, removal.gone, rows.shape[1])
    return np.asarray(rows @ x * (node.attributes.get_float("alpha", 1.0) or 0.0))


def _added_by_taps(node: ir.Node, weight: Array, part: Part, means: Array, gone: Array) -> Array:
    taps = weight.reshape(*weight.shape[:2], -1).sum(axis=2)
    groups = node.attributes.get_int("group", 1)
    if is_op(node, "Conv"):  # [out, in / groups]
        x = _lost(part, means, gone, taps.shape[1] * groups).reshape(groups, 1, -1)
        return np.asarray((taps.reshape(groups, -1, taps.shape[1]) * x).sum(axis=2).reshape(-1))
    # [in, out / groups]; of the taps, one in so many reaches each output
    strides = node.attributes.get_ints("strides", (1,) * (weight.ndim - 2))
    x = _lost(part, means, gone, len(taps)).reshape(groups, -1, 1)
    sums = (taps.reshape(groups, -1, taps.shape[1]) * x).sum(axis=1)
    return np.asarray(sums.reshape(-1) / float(np.prod(strides)))


def _lost(part: Part, means: Array, gone: Array, size: int) -> Array:
    """Return the means of removed channels along the axis of a value, zero elsewhere."""
    x = np.zeros(size)
    x[part.places[gone]] = means[gone]
    return x


def compensate(graph: ir.Graph, given: Sequence[Compensation]) -> None:
    """Give layers their weights and add to their biases, where these are constant."""
    for each in given:
        if each.weight is not None:
            index = 1 if tensor(each.node.inputs[1]) is not None else 0
            old = each.node.inputs[index]
            name = f"{old.name if old is not None else each.node.name}.merged"
            each.node.replace_input_with(index, add_constant(graph, each.weight, name))
        if each.added is not None and np.isfinite(each.added).all() and each.added.any():
            _add_bias(graph, each.node, each.added)


def _add_bias(graph: ir.Graph, node: ir.Node, added: Array) -> None:
    if is_op(node, "MatMul"):
        _add_behind(graph, node, added)
        return
    given = node.inputs[2] if len(node.inputs) > 2 else None
    bias = array(given)
    if given is not None and bias is None:
        return
    beta = node.attributes.get_float("beta", 1.0)
    if is_op(node, "Gemm") and given is not None:
        if not beta:
            return
        added = added / beta
    elif is_op(node, "Gemm"):
        node.attributes.pop("beta", None)
    weight = array(node.inputs[1])
    dtype = bias.dtype if bias is not None else np.float32 if weight is None else weight.dtype
    total = (added if bias is None else bias + added).astype(dtype)
    node.resize_inputs(max(3, len(node.inputs)))
    node.replace_input_with(2, add_constant(graph, total, f"{node.outputs[0].name}.bias.absorbed"))


def _add_behind(graph: ir.Graph, node: ir.Node, added: Array) -> None:
    """Add to the constant that is added to a product; where there is none, nothing is done."""
    add = sole_consumer(node.outputs[0])
    if add is None or not is_op(add, "Add"):
        return
    index = 1 if add.inputs[0] is node.outputs[0] else 0
    given = add.inputs[index]
    bias = array(given)
    if given is None or bias is None or bias.size not in (1, len(added)):
        return
    if bias.shape[-1:] not in ((), (1,), added.shape):
        return
    total = (bias + added).astype(bias.dtype)
    add.replace_input_with(index, add_constant(graph, total, f"{given.name}.absorbed"))
