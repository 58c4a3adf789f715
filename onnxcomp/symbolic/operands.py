"""What the rules of all operators ask: broadcasting, axes, and numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxcomp.graph import Array
from onnxcomp.symbolic.dims import (
    Dim,
    is_at_most,
)
from onnxcomp.symbolic.facts import Facts

Size = int | Dim
# A shape, of which single dims may be unknown; None where the rank is.
Found = Sequence[Size | None] | None
Rule = Callable[[ir.Node, Facts], list[Found]]


def broadcast(*shapes: Sequence[Size | None] | None) -> list[Size | None] | None:
    """Return the shape that operands are broadcast to, as ONNX's elementwise operators do."""
    if any(shape is None for shape in shapes):
        return None
    known = [list(shape) for shape in shapes if shape is not None]
    if known and all(shape == known[0] for shape in known):
        return known[0]
    rank = max(map(len, known), default=0)
    padded = [[*[1] * (rank - len(shape)), *shape] for shape in known]
    return [_broadcast_dim([shape[axis] for shape in padded]) for axis in range(rank)]


def _broadcast_dim(dims: Sequence[Size | None]) -> Size | None:
    others = [dim for dim in dims if dim is None or isinstance(dim, Dim) or dim != 1]
    known = [dim for dim in others if dim is not None]
    # S beside min(S, 512): either S fits, or the two cannot be combined at all.
    others = [dim for dim in others if dim is None or not any(is_at_most(dim, x) for x in known)]
    numbers = [dim for dim in others if isinstance(dim, int)]
    if numbers:
        return numbers[0]  # what is not 1 beside it must be equal
    if not others:
        return 1
    return others[0] if all(dim == others[0] for dim in others) else None


def normalized(axis: int, rank: int) -> int:
    """Return an axis counted from the front."""
    return axis + rank if axis < 0 else axis


def axes_of(node: ir.Node, facts: Facts, index: int = 1) -> tuple[int, ...] | None:
    """Return the axes of a node, an attribute or an input by opset; () if none, None if unknown."""
    if len(node.inputs) > index and node.inputs[index] is not None:
        content = facts.content(node.inputs[index])
        return None if content is None else as_ints(content)
    return tuple(node.attributes.get_ints("axes", ()))


def as_ints(content: Array | None) -> tuple[int, ...] | None:
    """Return a content of nothing but numbers as a flat tuple, or None."""
    if content is None:
        return None
    items = list(content.reshape(-1))
    return None if any(isinstance(item, Dim) for item in items) else tuple(int(i) for i in items)
