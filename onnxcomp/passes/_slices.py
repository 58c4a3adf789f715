"""What a Slice takes, whatever form it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, node_like
from onnxcomp.graph import integers, rank

TO_THE_END = 2**31 - 1  # what exporters write where no end is meant, or more
LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Cut:
    """The elements start, start + step, ... before end of one axis; negative: from its end."""

    start: int
    end: int
    step: int = 1

    def within(self, dim: int | None) -> Cut:
        """Return the same cut with 0 <= start <= end <= dim, where that is known."""
        if dim is None or self.step < 1:
            return self
        start, end = (
            min(max(number + dim if number < 0 else number, 0), dim)
            for number in (self.start, self.end)
        )
        return Cut(start, max(start, end), self.step)

    def keeps_all(self, dim: int | None) -> bool:
        """Say whether nothing is cut off an axis of this size, or of any where it is unknown."""
        whole = self.end >= TO_THE_END or (dim is not None and self.end >= dim)
        return whole and self.start == 0 and self.step == 1


def cuts_of(node: ir.Node) -> dict[int, Cut] | None:
    """Return what a Slice takes of each axis, counted from 0, that it does not keep whole.

    None when an operand is not constant, an axis counts from the end of an unknown rank, or a step
    goes backwards to an open end, which is nothing to one runtime and everything to another.
    """
    starts, ends = _numbers(node, 1, "starts"), _numbers(node, 2, "ends")
    if starts is None or ends is None:
        return None
    axes = _numbers(node, 3, "axes", range(len(starts)))
    steps = _numbers(node, 4, "steps", [1] * len(starts))
    if axes is None or steps is None:
        return None
    dims = rank(node.inputs[0])
    if dims is None and min(axes, default=0) < 0:
        return None
    cuts = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0 and end >= TO_THE_END:
            return None
        axis = axis if dims is None else axis % dims
        dim = size_of(node.inputs[0], axis)
        cut = Cut(start, end, step).within(dim)
        if not cut.keeps_all(dim):
            cuts[axis] = cut
    return cuts


def size_of(value: ir.Value | None, axis: int) -> int | None:
    """Return the size of one axis of a value, or None when it is not known."""
    if value is None or value.shape is None or axis >= len(value.shape):
        return None
    dim = value.shape[axis]
    return dim if isinstance(dim, int) and dim >= 0 else None


def slice_like(node: ir.Node, source: ir.Value | None, cuts: Mapping[int, Cut]) -> ir.Node:
    """Return a Slice of `source` in the form, and of the name, that a Slice has."""
    axes = sorted(cuts)
    operands = {
        "starts": [min(cuts[axis].start, LARGEST) for axis in axes],
        "ends": [min(cuts[axis].end, LARGEST) for axis in axes],
        "axes": axes,
        "steps": [min(cuts[axis].step, LARGEST) for axis in axes],
    }
    if set(operands["steps"]) == {1}:
        del operands["steps"]
    if "starts" in node.attributes:
        return node_like(node, [source], [ir.AttrInt64s(*pair) for pair in operands.items()])
    graph, name = node.graph, node.outputs[0].name or "slice"
    assert graph is not None
    inputs = [
        add_constant(graph, np.array(numbers, dtype=np.int64), f"{name}.{key}")
        for key, numbers in operands.items()
    ]
    return node_like(node, [source, *inputs], [])


def _numbers(
    node: ir.Node, index: int, name: str, default: Sequence[int] | None = None
) -> Sequence[int] | None:
    """Return an operand, an input from opset 10 and an attribute before, or None if not known."""
    if len(node.inputs) > index and node.inputs[index] is not None:
        return integers(node.inputs[index])
    return node.attributes.get_ints(name, default)
