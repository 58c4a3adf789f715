"""Constants that are weights: where they are, who reads them, and as which matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcomp.graph import Array, is_op, tensor


def constants(model: ir.Model) -> Iterator[ir.Value]:
    """Yield the constants of the main graph and of its subgraphs."""
    for graph in (model.graph, *model.graph.subgraphs()):
        yield from list(graph.initializers.values())
        yield from [node.outputs[0] for node in graph if is_op(node, "Constant")]


@dataclass(frozen=True, eq=False)
class Site:
    """A weight that its readers multiply with, as a matrix whose columns are summed over.

    `weight` is the numbers, which may lie in a file. `across` says that its first axis is summed
    over, so that the matrix is its transpose.
    """

    value: ir.Value
    weight: ir.TensorProtocol
    readers: tuple[ir.Node, ...]
    across: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return tuple(self.weight.shape.numpy())

    @property
    def rows(self) -> int:
        """How many sums there are."""
        return self.shape[1 if self.across else 0]

    @property
    def columns(self) -> int:
        """How many products each sum has."""
        return int(np.prod(self.shape)) // self.rows

    @property
    def matrix(self) -> Array:
        """The weight as [rows, columns], a view of it."""
        data = self.weight.numpy()
        return data.T if self.across else data.reshape(self.rows, -1)

    def shaped(self, matrix: Array) -> Array:
        """Return a matrix [rows, columns] in the shape of the weight."""
        return np.ascontiguousarray(matrix.T) if self.across else matrix.reshape(self.shape)

    @property
    def graph(self) -> ir.Graph:
        """The graph that the weight belongs to."""
        producer = self.value.producer()
        found = self.value.graph if producer is None else producer.graph
        assert isinstance(found, ir.Graph)
        return found


def as_site(value: ir.Value, ops: frozenset[str]) -> Site | None:
    """Return a constant as a weight of these operators; None where a reader is another."""
    found = tensor(value)
    if found is None or value.is_graph_output() or not value.uses():
        return None
    across = {_is_across(use.node, use.idx, len(found.shape), ops) for use in value.uses()}
    if None in across or len(across) != 1:
        return None
    readers = tuple(dict.fromkeys(use.node for use in value.uses()))
    return Site(value, found, readers, bool(across.pop()))


def _is_across(node: ir.Node, index: int, rank: int, ops: frozenset[str]) -> bool | None:
    """Say whether a node sums over the first axis of an operand; None where it is no weight."""
    if not is_op(node, *ops):
        return None
    if is_op(node, "Conv") and index == 1 and rank > 2:
        return False
    if is_op(node, "Gather") and index == 0 and rank == 2:
        return None if node.attributes.get_int("axis", 0) % rank else False
    if rank != 2 or index != 1:
        return None
    if is_op(node, "MatMul"):
        return True
    return node.attributes.get_int("transB", 0) == 0 if is_op(node, "Gemm") else None


def insert_first(graph: ir.Graph, nodes: list[ir.Node]) -> None:
    """Put nodes that read constants alone in front of all others."""
    graph.insert_before(graph[0], nodes) if len(graph) else graph.extend(nodes)
