"""Scatter of nothing or of everything."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import bypass
from onnxcomp.graph import Array, array, is_op
from onnxcomp.passes._broadcast import Dim, dims_of
from onnxcomp.registry import Effect, leave, register


@register(Effect.EXACT, ops=["ScatterND", "ScatterElements", "Scatter"])
def eliminate_noop_scatter(graph: ir.Graph) -> int:
    """Drop ScatterND and ScatterElements nodes that write nothing, or ScatterND that write all.

    Updates without an element leave the data as it is. Constant indices that name every place of
    the leading axes, in order, leave only the updates, if there is no reduction.

    Left alone when that cannot be proved, and when the result is a graph output and the source
    cannot take that place.
    """
    dropped = 0
    for node in graph:
        if not is_op(node, "ScatterND", "ScatterElements", "Scatter"):
            continue
        source = _source(node)
        if source is None:
            continue
        if not bypass(node, source):
            leave(node, "its result is a graph output, which its source cannot be")
            continue
        dropped += 1
    return dropped


def _source(node: ir.Node) -> ir.Value | None:
    data, indices, updates = node.inputs
    if 0 in (dims_of(updates) or ()):
        return data
    if not is_op(node, "ScatterND") or node.attributes.get_string("reduction", "none") != "none":
        return None
    return updates if _name_all(array(indices), dims_of(data)) else None


def _name_all(indices: Array | None, dims: tuple[Dim, ...] | None) -> bool:
    """Say whether indices are those of every place of the leading axes, in order."""
    if indices is None or dims is None:
        return False
    count, places = indices.shape[-1], indices.shape[:-1]
    if not places or dims[:count] != places:
        return False
    return np.array_equal(indices, np.moveaxis(np.indices(places), 0, -1))
