"""The cheap nodes after a node that its output's quantization can stand for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.ranges import Range, Ranges
from onnxcomp.graph import is_op, rank, saturation, scalar, sole_consumer
from onnxcomp.passes.quantize._facts import Facts
from onnxcomp.passes.quantize._numbers import (
    Grid,
    clipped,
    grid_of,
    with_multiple,
    written_grid,
)

# Into the weights of these a linear map goes; the output of those can be written on one grid and
# read on another, which is a linear map too.
WEIGHTED_OPS = frozenset({"Conv", "Gemm"})
REWRITABLE_OPS = frozenset(
    {"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Relu", "LeakyRelu", "Sigmoid"}
)


@dataclass(frozen=True)
class Tail:
    """Nodes after a node: `end` = clip(factor * output + shift, low, high)."""

    nodes: tuple[ir.Node, ...]
    end: ir.Value
    low: float = -np.inf
    high: float = np.inf
    factor: float = 1.0
    shift: float = 0.0

    @property
    def linear(self) -> bool:
        """Whether it does more than saturate."""
        return (self.factor, self.shift) != (1.0, 0.0)

    @property
    def saturates(self) -> bool:
        """Whether it cuts off one end at least."""
        return bool(np.isfinite([self.low, self.high]).any())

    def apply(self, found: Range) -> Range:
        """Return what becomes of a range, saturation left aside; the factor is positive."""
        return Range(found.lo * self.factor + self.shift, found.hi * self.factor + self.shift)


def tail_of(node: ir.Node, facts: Facts) -> Tail:
    """Follow a node's output through nodes that its quantization can stand for.

    These are Relu and Clip, and where the node has weights or writes on a grid of its own, sums
    and products with one number and HardSigmoid. Nothing else may read what is in between.
    """
    tail = Tail((), node.outputs[0])
    while (reader := sole_consumer(tail.end)) is not None and reader not in facts.excluded:
        longer = _longer(tail, reader, facts)
        if longer is None or (longer.linear and not _can_be_linear(node, longer, facts.ranges)):
            break
        tail = longer
    return tail


def _longer(tail: Tail, reader: ir.Node, facts: Facts) -> Tail | None:
    nodes, end = (*tail.nodes, reader), reader.outputs[0]
    bounds = saturation(reader)
    if bounds is not None:
        low, high = max(tail.low, bounds[0]), min(tail.high, bounds[1])
        if reader.inputs[0] is not tail.end or high <= low:
            return None  # nothing but zero passes, which no grid can say
        return replace(tail, nodes=nodes, end=end, low=low, high=high)
    found = None if tail.saturates else _linear(reader, tail.end, facts)
    if found is None:
        return None
    factor, shift = found
    low, high = (0.0, 1.0) if is_op(reader, "HardSigmoid") else (-np.inf, np.inf)
    return Tail(nodes, end, low, high, tail.factor * factor, tail.shift * factor + shift)


def _linear(node: ir.Node, value: ir.Value, facts: Facts) -> tuple[float, float] | None:
    """Return (a, b) where a node makes a x + b of a value x, saturated or not, with a > 0."""
    if is_op(node, "HardSigmoid"):
        alpha, beta = hard_sigmoid(node)
        return (alpha, beta) if alpha > 0 else None
    if not is_op(node, "Mul", "Add", "Sub", "Div") or len(node.inputs) != 2:
        return None
    first, other = node.inputs
    if other is value and is_op(node, "Mul", "Add"):
        other = first
    elif first is not value:
        return None
    number = scalar(other)
    if number is None or not np.isfinite(number) or (rank(other) or 0) > (facts.rank(value) or 0):
        return None
    if is_op(node, "Add", "Sub"):
        return 1.0, float(number) if is_op(node, "Add") else -float(number)
    if not number > 0:
        return None
    return float(number) if is_op(node, "Mul") else 1 / float(number), 0.0


def hard_sigmoid(node: ir.Node) -> tuple[float, float]:
    """Return alpha and beta of a HardSigmoid: clip(alpha x + beta, 0, 1)."""
    return node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)


def _can_be_linear(node: ir.Node, tail: Tail, ranges: Ranges) -> bool:
    if is_op(node, *WEIGHTED_OPS):
        return True
    found = range_behind(tail, node, ranges)
    if found is None or not is_op(node, *REWRITABLE_OPS):
        return False
    return written_grid(grid_behind(tail, found), tail.factor, tail.shift) is not None


def range_behind(tail: Tail, node: ir.Node, ranges: Ranges) -> Range | None:
    """Return the range of what comes out of a tail, saturation left aside, or None."""
    found = ranges.values.get(tail.end.name or "")
    inner = ranges.values.get(node.outputs[0].name or "")
    return found or (tail.apply(inner) if inner is not None else None)


def grid_behind(tail: Tail, found: Range) -> Grid:
    """Return the grid of what comes out of a tail, on which its shift lies if it can."""
    grid = grid_of(clipped(found, tail.low, tail.high))
    return grid if tail.saturates else with_multiple(grid, tail.shift)
