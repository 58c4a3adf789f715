"""Weights that are nearly equal, stored once."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx_ir as ir

from onnxcomp.errors import UsageError
from onnxcomp.graph import tensor
from onnxcomp.linear.layers import decibels
from onnxcomp.passes.quantize._constants import constants, owner
from onnxcomp.registry import Effect, measured, register


@register(Effect.LOSSY, strengths={"tolerance": 0.0})
def share_similar_weights(model: ir.Model, *, tolerance: float = 0.01, least: int = 256) -> int:
    """Let weights that are nearly equal be one: a copy's bytes go.

    Of weights A and B of one shape with |A - B| <= `tolerance` |A| (Euclidean), the readers of the
    later get the earlier. A weight shared so is never compared with what it replaced, so errors do
    not add up. Equal ones are the business of deduplicate-initializers, which costs nothing.
    `least` is the number of elements from which a weight is worth it. The measure is the
    signal-to-noise ratio (dB) of the weight that goes.

    Left alone when weights are not float32 or not of the main graph, and when they are outputs.
    """
    if not 0 <= tolerance < 1:
        raise UsageError(f"share-similar-weights: tolerance is from 0 to below 1, got {tolerance}")
    groups: dict[tuple[int, ...], list[tuple[float, ir.Value]]] = defaultdict(list)
    shared = 0
    for value in list(constants(model)):
        found = tensor(value)
        if found is None or found.dtype != ir.DataType.FLOAT or found.size < least:
            continue
        if value.is_graph_output() or not value.uses() or owner(value) is not model.graph:
            continue
        shape = tuple(found.shape.numpy())
        size = float(np.linalg.norm(found.numpy()))
        earlier = _similar(groups[shape], value, size, tolerance)
        if earlier is None:
            groups[shape].append((size, value))
            continue
        if earlier.producer() is not None:  # a Constant may stand behind the readers
            _move_first(model.graph, earlier)
        value.replace_all_uses_with(earlier)
        shared += 1
    return shared


def _similar(
    known: list[tuple[float, ir.Value]], value: ir.Value, size: float, tolerance: float
) -> ir.Value | None:
    found = tensor(value)
    assert found is not None
    for other_size, other in known:
        if not np.isfinite(size) or abs(size - other_size) > tolerance * other_size:
            continue  # norms differ by no more than the distance
        held = tensor(other)
        assert held is not None
        distance = float(np.linalg.norm(found.numpy() - held.numpy()))
        if distance <= tolerance * other_size:
            sqnr = decibels(size**2, distance**2)
            measured(next(iter(value.uses())).node, sqnr, sqnr)
            return other
    return None


def _move_first(graph: ir.Graph, value: ir.Value) -> None:
    node = value.producer()
    assert node is not None
    if graph[0] is not node:
        graph.remove(node)
        graph.insert_before(graph[0], node)
