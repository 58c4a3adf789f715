"""A model beside its copy: which value is which, and what inference knows of them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxcomp.shapes import infer_shapes
from onnxcomp.symbolic.facts import Facts
from onnxcomp.symbolic.propagate import propagate


def learn_shapes(model: ir.Model) -> Facts:
    """Return what is known of a model's shapes, onnx's own inference included.

    The model stays as it is: what inference writes, it writes to a copy.
    """
    facts = propagate(model)
    if all(facts.shape(value) is not None for node in model.graph for value in node.outputs):
        return facts
    copy = model.clone()
    infer_shapes(copy)
    found, back = propagate(copy), {b: a for a, b in twins(model.graph, copy.graph)}
    return Facts(
        shapes={back[value]: shape for value, shape in found.shapes.items() if value in back},
        contents={back[value]: data for value, data in found.contents.items() if value in back},
        kinds={back[value]: kind for value, kind in found.kinds.items() if value in back},
    )


def twins(graph: ir.Graph, copy: ir.Graph) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Yield each value of a main graph beside that of its clone."""
    yield from zip(graph.inputs, copy.inputs, strict=True)
    for name, value in graph.initializers.items():
        yield value, copy.initializers[name]
    for node, twin in zip(graph, copy, strict=True):
        yield from zip(node.outputs, twin.outputs, strict=True)
