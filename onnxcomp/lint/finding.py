"""What a rule gives and what it gets, and the words that rules share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sized
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from onnxcomp.graph import label
from onnxcomp.layers import Layer, Shapes
from onnxcomp.shapes import infer_shapes
from onnxcomp.symbolic.facts import Facts
from onnxcomp.targets import Target

# Constants up to this size are settings, not weights.
SMALL_BYTES = 1024


@dataclass(frozen=True)
class Finding:
    """One thing to know about a model; `places` are the nodes, values or dims that it is about."""

    rule: str
    places: tuple[str, ...]
    message: str
    advice: str

    def to_dict(self) -> dict[str, object]:
        """Return the finding as JSON data."""
        return {
            "rule": self.rule,
            "places": list(self.places),
            "message": self.message,
            "advice": self.advice,
        }


@dataclass(frozen=True)
class Subject:
    """A model with what the rules ask of it.

    `shapes` are those of one sample's run, `facts` hold for every size, `layers` are the costs.
    """

    model: ir.Model
    shapes: Shapes
    facts: Facts
    layers: tuple[Layer, ...]
    target: Target

    @cached_property
    def inferred(self) -> ir.Model:
        """A copy with every type and shape that onnx infers; few rules need it."""
        copy = self.model.clone()
        infer_shapes(copy)
        return copy


def trains(node: ir.Node) -> bool:
    """Say whether a BatchNormalization takes its statistics from the batch."""
    return node.attributes.get_int("training_mode", 0) != 0


def count(items: Sized, noun: str) -> str:
    """Write how many there are: `1 node`, `2 nodes`."""
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


def labels(nodes: Iterable[ir.Node]) -> tuple[str, ...]:
    """Name nodes for people."""
    return tuple(label(node) for node in nodes)


def operators(nodes: Iterable[ir.Node]) -> str:
    """Write how many nodes of each operator there are."""
    counts = Counter(node.op_type for node in nodes)
    return ", ".join(f"{number} {op}" for op, number in sorted(counts.items()))


def amount(number: int) -> str:
    """Write bytes as KB or MB."""
    return f"{number / 1e6:.3g} MB" if number >= 1e6 else f"{number / 1e3:.3g} KB"
