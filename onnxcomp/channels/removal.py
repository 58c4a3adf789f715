"""Takes channels out of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxcomp.channels.groups import Group
from onnxcomp.channels.rewrites import REWRITES, Cut
from onnxcomp.channels.twins import learn_shapes
from onnxcomp.edits import add_constant, assign_unique_names, remove
from onnxcomp.graph import array, is_op, tensor
from onnxcomp.shapes import DIMS
from onnxcomp.symbolic.facts import DECLARED


def remove_channels(model: ir.Model, kept: Mapping[Group, Sequence[int]]) -> None:
    """Keep only the channels of these indices of each group, in the model it was found on.

    Constants are cut (one that several nodes read, once), and sizes, indices and group counts
    that nodes carry are written anew. The groups of the model must be found again afterwards.
    Raises ValueError for indices that are none of a group's channels, where no channel would be
    left, and for groups of another model.
    """
    gone = removed_places(model, {group: complement(group, left) for group, left in kept.items()})
    if not gone:
        return
    cut = Cut(learn_shapes(model), gone)
    for node in list(model.graph):
        rewrite = REWRITES.get(node.op_type)
        if rewrite is not None and is_op(node, node.op_type) and cut.touches(node):
            rewrite(node, cut)
    for value in dict.fromkeys(value for value, _ in gone):
        if tensor(value) is not None:
            _cut_constant(model.graph, value, cut)
        else:
            _note_shape(value, cut)
    assign_unique_names(model)


def complement(group: Group, left: Iterable[int]) -> NDArray[np.intp]:
    """Return the channels that are not among those left; raise where that makes no sense."""
    kept = np.unique(np.array(sorted(left), np.intp))
    if not len(kept):
        raise ValueError(f"group '{group.name}': one channel must be left at least")
    if kept[0] < 0 or kept[-1] >= group.channels:
        raise ValueError(f"group '{group.name}' has the channels 0 to {group.channels - 1}")
    return np.setdiff1d(np.arange(group.channels), kept)


def removed_places(
    model: ir.Model, removed: Mapping[Group, NDArray[np.intp]]
) -> dict[tuple[ir.Value, int], NDArray[np.intp]]:
    """Return the sorted indices that go along each axis that loses any."""
    found: dict[tuple[ir.Value, int], list[NDArray[np.intp]]] = {}
    for group, channels in removed.items():
        for part in group.parts if len(channels) else ():
            if part.value.graph is not model.graph:
                raise ValueError(f"group '{group.name}' was not found on this model as it is now")
            found.setdefault((part.value, part.axis), []).append(part.places[channels].reshape(-1))
    return {key: np.sort(np.concatenate(places)) for key, places in found.items()}


def _cut_constant(graph: ir.Graph, value: ir.Value, cut: Cut) -> None:
    data, node, name = array(value), value.producer(), value.name or "constant"
    assert data is not None
    for axis in range(data.ndim):
        data = np.delete(data, cut.removed(value, axis), axis)
    if node is None:
        del graph.initializers[name]
    value.name = None if node is not None else name
    value.replace_all_uses_with(add_constant(graph, data, name))
    if node is not None:
        remove(node)


def _note_shape(value: ir.Value, cut: Cut) -> None:
    value.meta.pop(DECLARED, None)
    value.meta.pop(DIMS, None)
    if value.shape is None:
        return
    value.shape = ir.Shape(
        [
            dim - len(cut.removed(value, axis)) if isinstance(dim, int) and dim > 0 else dim
            for axis, dim in enumerate(value.shape)
        ]
    )
