"""The axes that Squeeze, Unsqueeze and the reductions name, whatever form they have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, node_like
from onnxcomp.graph import integers


def axes_of(node: ir.Node) -> tuple[int, ...] | None:
    """Return the axes that a node names, and none of them where it has no such operand.

    None when they are not constant, and for an empty list, which runtimes read in two ways.
    """
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        return integers(node.inputs[1]) or None
    found = node.attributes.get_ints("axes")
    return () if found is None else tuple(found) or None


def from_zero(axes: Sequence[int], rank: int | None) -> tuple[int, ...] | None:
    """Return axes counted from 0, ascending, or None when that takes a rank that is not known."""
    if rank is None:
        return None if min(axes, default=0) < 0 else tuple(sorted(axes))
    return tuple(sorted(axis % rank for axis in axes)) if rank else None


def same_axes(first: Sequence[int], second: Sequence[int], rank: int | None) -> bool:
    """Say whether two lists surely name the same axes of one value."""
    if sorted(first) == sorted(second):
        return True
    counted = from_zero(first, rank)
    return counted is not None and counted == from_zero(second, rank)


def place(position: int, taken: Iterable[int]) -> int:
    """Return the number, counted from 0, of the free place `position` when some are taken."""
    for other in sorted(taken):
        position += other <= position
    return position


def with_axes(node: ir.Node, source: ir.Value | None, axes: Iterable[int]) -> ir.Node:
    """Return a Squeeze or Unsqueeze of `source` along other axes, in the form that a node has."""
    numbers = sorted(axes)
    if "axes" in node.attributes:
        return node_like(node, [source], [ir.AttrInt64s("axes", numbers)])
    assert node.graph is not None
    name = f"{node.outputs[0].name}.axes"
    constant = add_constant(node.graph, np.array(numbers, dtype=np.int64), name)
    return node_like(node, [source, constant], [])
