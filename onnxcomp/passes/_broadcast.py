"""The dims of operands, and what broadcasting makes of them, as far as that is sure."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.graph import tensor

Dim = int | str | None  # a number, a name, or what is not known


def dims_of(value: ir.Value | None) -> tuple[Dim, ...] | None:
    """Return the dims of a value, or None where its rank is not known.

    The names that a result of the graph declares count for nothing: exporters write the input's
    names on outputs of another size.
    """
    if value is None:
        return None
    constant = tensor(value)
    if constant is not None:
        return tuple(constant.shape.numpy())
    if value.shape is None:
        return None
    named = not value.is_graph_output() or value.producer() is None
    return tuple(_dim(dim, named=named) for dim in value.shape)


def _dim(dim: int | ir.SymbolicDim, *, named: bool) -> Dim:
    if isinstance(dim, int):
        return dim if dim >= 0 else None
    return dim.value if named and dim.value not in ("", "?") else None


def same_dims(first: ir.Value | None, second: ir.Value | None) -> bool:
    """Say whether two values surely have equal dims."""
    dims = dims_of(first)
    return dims is not None and None not in dims and dims == dims_of(second)


def outlasts(dim: Dim, other: Dim) -> bool:
    """Say whether a dim, broadcast with another, surely stays as it is.

    A number but 1 does: in a graph that runs, the other is 1 or that number.
    """
    return other == 1 or (dim is not None and dim == other) or (isinstance(dim, int) and dim != 1)


def broadcasts_into(operand: ir.Value | None, target: ir.Value | None) -> bool:
    """Say whether a value that is combined with an operand surely keeps its shape."""
    other, dims = dims_of(operand), dims_of(target)
    if other is None or dims is None or len(other) > len(dims):
        return other == ()
    return all(map(outlasts, reversed(dims), reversed(other)))
