"""Constants that are weights: where they are, who reads them, and as which matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.exclusion import is_excluded
from onnxcomp.graph import Array, is_op, tensor
from onnxcomp.registry import leave
from onnxcomp.runtime import INLINE_LIMIT, weight_bytes

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


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
        return owner(self.value)


def owner(value: ir.Value) -> ir.Graph:
    """Return the graph that a constant belongs to."""
    producer = value.producer()
    found = value.graph if producer is None else producer.graph
    assert isinstance(found, ir.Graph)
    return found


def find_sites(model: ir.Model, ops: frozenset[str], least: int) -> Iterator[Site]:
    """Yield the weights of these operators that have so many elements, of any float type."""
    for value in constants(model):
        found = tensor(value)
        if found is None or found.size < least or found.dtype not in FLOATS:
            continue
        site = as_site(value, ops)
        if site is not None:
            yield site


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


def can_look(model: ir.Model, samples: Samples) -> bool:
    """Say whether samples tell what weights are multiplied with, and the model is not too large.

    To run it all of it is in memory.
    """
    return not samples.synthetic and weight_bytes(model) < INLINE_LIMIT


def left(site: Site, reason: str) -> bool:
    """Say whether there is a reason to leave a weight alone, which its readers hear."""
    for node in site.readers if reason else ():
        leave(node, reason)
    return bool(reason)


def is_refused(site: Site, globs: Sequence[str]) -> bool:
    """Say whether a weight is not float32, or a reader is excluded, which its readers hear."""
    reason = ""
    if site.weight.dtype != ir.DataType.FLOAT:
        reason = f"its weight is {site.weight.dtype.name.lower()}, not float32"
    elif any(is_excluded(node, globs) for node in site.readers):
        reason = "excluded"
    return left(site, reason)


def mildest(sqnrs: Mapping[Site, float], ratio: float) -> set[Site]:
    """Return the weights with the largest ratios, with this share of the bytes of all."""
    total, size = sum(site.weight.nbytes for site in sqnrs), 0
    kept = set()
    for site in sorted(sqnrs, key=lambda each: -sqnrs[each]):
        size += site.weight.nbytes
        if not left(site, "" if size <= ratio * total else f"more than {ratio:.0%} of the bytes"):
            kept.add(site)
    return kept


def packed(
    numbers: Array, dtype: ir.DataType, shape: tuple[int, ...], name: str
) -> ir.TensorProtocol:
    """Return uint8 numbers below 16 as a tensor of 4 bits: the first of two in the low nibble."""
    flat = numbers.reshape(-1)
    flat = np.append(flat, np.uint8(0)) if flat.size % 2 else flat
    pairs = (flat[0::2] | (flat[1::2] << 4)).astype(np.uint8)
    return ir.PackedTensor(pairs, dtype, shape=shape, name=name)
