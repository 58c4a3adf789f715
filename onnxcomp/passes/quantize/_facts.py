"""What the placement reads besides the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxcomp.calibration.ranges import Ranges
from onnxcomp.graph import rank


@dataclass(frozen=True)
class Facts:
    """The ranges of values, their types and shapes, what is excluded, and the operator set.

    `typed` are the values, by name, of a copy with inferred types and shapes.
    """

    ranges: Ranges
    typed: Mapping[str, ir.Value]
    excluded: frozenset[ir.Node]
    opset: int

    def rank(self, value: ir.Value) -> int | None:
        """Return the number of dims of a value, or None when it is not known."""
        return rank(self.typed.get(value.name or "", value))
