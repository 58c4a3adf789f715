"""Which folds would make a model larger than they are worth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxcomp.graph import tensor

SHARED_FROM = 1024  # smaller constants that several folds share are not worth an account


def frontier(nodes: Sequence[ir.Node]) -> list[ir.Value]:
    """Return the outputs that something outside of these nodes reads."""
    inside = set(nodes)
    return [
        output
        for node in nodes
        for output in node.outputs
        if any(use.node not in inside for use in output.uses())
    ]


def growing_nodes(
    nodes: Sequence[ir.Node], sizes: Mapping[ir.Value, int], allowed: int
) -> dict[ir.Node, int]:
    """Return the nodes to leave so that no fold grows the model too much, and by how much.

    Nodes that hang together make one fold. It grows by the bytes of its frontier less those of the
    constants that nothing else reads. Where that is too much, its largest results are left, each
    from the node on at which its data became large; what remains may group otherwise, so ask again.
    """
    inside = set(nodes)
    groups = _groups(nodes, inside)
    ends: dict[ir.Node, list[ir.Value]] = defaultdict(list)
    for value in frontier(nodes):
        ends[groups.find(value.producer())].append(value)
    freed: dict[ir.Node, int] = defaultdict(int)
    for value in dict.fromkeys(v for node in nodes for v in node.inputs if v is not None):
        if value.producer() in inside:
            continue
        readers = {groups.find(use.node) for use in value.uses() if use.node in inside}
        if len(readers) == 1 and _becomes_unused(value, inside):
            freed[readers.pop()] += _bytes(value)
    growths = {
        group: sum(sizes.get(value, 0) for value in values) - freed[group]
        for group, values in ends.items()
    }
    growing: dict[ir.Node, int] = {}
    for group, values in ends.items():
        growth = growths[group]
        for value in sorted(values, key=lambda value: sizes.get(value, 0), reverse=True):
            if growth <= allowed:
                break
            growing[_origin(value, sizes, inside, allowed)] = growths[group]
            growth -= sizes.get(value, 0)
    return growing


class _Groups:
    """Disjoint sets of nodes."""

    def __init__(self, nodes: Sequence[ir.Node]) -> None:
        self._parents = {node: node for node in nodes}

    def find(self, node: ir.Node | None) -> ir.Node:
        assert node is not None
        while self._parents[node] is not node:
            self._parents[node] = node = self._parents[self._parents[node]]
        return node

    def join(self, first: ir.Node, second: ir.Node) -> None:
        self._parents[self.find(first)] = self.find(second)


def _groups(nodes: Sequence[ir.Node], inside: set[ir.Node]) -> _Groups:
    groups = _Groups(nodes)
    large: dict[ir.Value, ir.Node] = {}
    for node in nodes:
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and producer in inside:
                groups.join(node, producer)
            elif value is not None and value in large:
                groups.join(node, large[value])
            elif value is not None and _bytes(value) >= SHARED_FROM:
                large[value] = node
    return groups


def _becomes_unused(value: ir.Value, inside: set[ir.Node]) -> bool:
    if value.is_graph_output():
        return False
    return all(use.node in inside for use in value.uses())


def _bytes(value: ir.Value) -> int:
    found = tensor(value)
    return 0 if found is None else found.nbytes


def _origin(
    value: ir.Value, sizes: Mapping[ir.Value, int], inside: set[ir.Node], allowed: int
) -> ir.Node:
    """Return the first node on the way to a large value whose output outgrows its inputs."""
    node = value.producer()
    assert node is not None
    origin = node
    while node is not None and node in inside:
        taken = [item for item in node.inputs if item is not None]
        made = sum(sizes.get(output, 0) for output in node.outputs)
        if made > sum(sizes.get(item, _bytes(item)) for item in taken) + allowed:
            origin = node
        largest = max(taken, key=lambda item: sizes.get(item, 0), default=None)
        node = largest.producer() if largest is not None else None
    return origin
