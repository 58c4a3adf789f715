"""Weights of equal content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping

import onnx_ir as ir

from onnxcomp.graph import subgraphs_of
from onnxcomp.passes.cleanup._content import content, outline, sample
from onnxcomp.registry import Effect, register


@register(Effect.EXACT)
def deduplicate_initializers(model: ir.Model) -> int:
    """Keep one of several weights of equal type, shape and bytes.

    Smaller files, and equal constants become one value, which lets equal nodes be merged. A weight
    of a subgraph gives way to an equal one of a graph around it. Only weights whose type and shape
    are not unique are read, and whole only where some blocks of them are equal.

    Left alone when a weight is a graph input or output: it is part of the interface.
    """
    values = list(_initializers(model.graph))
    for look in (outline, sample):  # the dearer, the fewer are left
        keys = {value: _seen(value, look) for value in values}
        common = Counter(keys.values())
        values = [value for value in values if common[keys[value]] > 1]
    keys = {value: _seen(value, content) for value in values}
    return _merge(model.graph, keys, {})


def _initializers(graph: ir.Graph) -> Iterator[ir.Value]:
    for each in (graph, *graph.subgraphs()):
        for value in each.initializers.values():
            interface = value.is_graph_input() or value.is_graph_output()
            if value.const_value is not None and not interface:
                yield value


def _seen(value: ir.Value, look: Callable[[ir.TensorProtocol], Hashable]) -> Hashable:
    """Return what a look at a weight tells; weights do not change, so each is looked at once."""
    assert value.const_value is not None
    key = f"onnxcomp.{look.__name__}"
    known: tuple[object, Hashable] | None = value.meta.get(key)
    if known is None or known[0] is not value.const_value:
        known = value.meta[key] = value.const_value, look(value.const_value)
    return known[1]


def _merge(
    graph: ir.Graph, keys: Mapping[ir.Value, Hashable], outer: Mapping[Hashable, ir.Value]
) -> int:
    kept = dict(outer)
    merged = 0
    for name, value in list(graph.initializers.items()):
        if value not in keys:
            continue
        first = kept.setdefault(keys[value], value)
        if first is not value:
            value.replace_all_uses_with(first)
            del graph.initializers[name]
            merged += 1
    inner = (each for node in graph for each in subgraphs_of(node))
    return merged + sum(_merge(each, keys, kept) for each in inner)
