"""The bounds of Clip, whatever form they have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, node_like
from onnxcomp.graph import array
from onnxcomp.registry import leave


@dataclass(frozen=True)
class Bounds:
    """What Clip limits to: min(max(x, low), high); a bound that is absent limits nothing.

    Bounds are zero-dimensional arrays of the type of x. `as_inputs` says which form the node has:
    attributes before opset 11, inputs after.
    """

    low: np.generic | None
    high: np.generic | None
    as_inputs: bool

    def apply(self, number: np.generic | None) -> np.generic | None:
        """Clip a number; None stands for one beyond every other, which the caller knows the end of.

        Ties keep the number, as the runtime does, which matters for the sign of zero.
        """
        if number is None:
            return None
        if self.low is not None and number < self.low:  # type: ignore[operator]
            number = self.low
        if self.high is not None and number > self.high:  # type: ignore[operator]
            number = self.high
        return number


def bounds_of(clip: ir.Node, opset: int) -> Bounds | None:
    """Return the bounds of a Clip; None, with the reason left, when they are not known numbers."""
    if opset < 11:
        found = [clip.attributes.get_float(name, None) for name in ("min", "max")]
        low, high = (None if number is None else np.float32(number) for number in found)
        return Bounds(low, high, as_inputs=False)
    bounds: list[np.generic | None] = []
    for index in (1, 2):
        value = clip.inputs[index] if len(clip.inputs) > index else None
        data = array(value)
        if value is not None and (data is None or data.size != 1 or np.isnan(data).any()):
            leave(clip, "a bound is not a constant number")
            return None
        bounds.append(None if data is None else data.reshape(-1)[0])
    return Bounds(bounds[0], bounds[1], as_inputs=True)


def clip_like(clip: ir.Node, source: ir.Value, bounds: Bounds, name: str) -> ir.Node:
    """Return a Clip of `source` to these bounds, in the form that the old one has."""
    if not bounds.as_inputs:
        pairs = (("min", bounds.low), ("max", bounds.high))
        attributes = [ir.AttrFloat32(key, float(item)) for key, item in pairs if item is not None]
        return node_like(clip, [source], attributes)
    graph = clip.graph
    assert graph is not None
    inputs: list[ir.Value | None] = [source]
    for key, item in (("min", bounds.low), ("max", bounds.high)):
        constant = None if item is None else add_constant(graph, np.array(item), f"{name}.{key}")
        inputs.append(constant)
    while inputs[-1] is None:
        inputs.pop()
    return node_like(clip, inputs, [])
