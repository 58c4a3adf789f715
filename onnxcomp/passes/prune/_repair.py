"""Fits what pruning has touched to the model before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.graph import Array, label
from onnxcomp.linear.layers import decibels, find_layers
from onnxcomp.linear.reconstruct import Fit, reconstruct
from onnxcomp.registry import measured


def repair_layers(
    model: ir.Model,
    teacher: ir.Model,
    touched: Sequence[str],
    rows: Mapping[str, Array],
    samples: Samples,
    exclude: str,
) -> None:
    """Fit every layer at or behind those touched, in graph order, to the teacher's outputs.

    `touched` are labels of layers that have lost inputs; `rows` the channels of the teacher's
    output that a layer still has, where it has lost some.
    """
    behind = find_behind(model, set(touched))
    layers = [layer.node for layer in find_layers(model.graph, exclude)]
    fits = [Fit(label(node), rows.get(label(node))) for node in layers if label(node) in behind]
    fitted = reconstruct(model, teacher, fits, samples)
    nodes = {label(node): node for node in layers}
    for each in fitted:
        measured(nodes[each.node], decibels(1.0, each.before), decibels(1.0, each.after))


def find_behind(model: ir.Model, labels: set[str]) -> set[str]:
    """Return the labels of nodes of the main graph that are, or read something behind, others."""
    changed: set[ir.Value] = set()
    found = set()
    for node in model.graph:
        if label(node) in labels or any(value in changed for value in node.inputs):
            found.add(label(node))
            changed |= set(node.outputs)
    return found
