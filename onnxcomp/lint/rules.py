"""Every rule, the weightiest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir

from onnxcomp.layers import Layer, Shapes
from onnxcomp.lint.age import initializers_as_inputs, old_ir_version, old_opset
from onnxcomp.lint.dims import open_dims, unknown_shapes
from onnxcomp.lint.finding import Finding, Subject
from onnxcomp.lint.inference import foreign_domains, random_nodes, training_mode
from onnxcomp.lint.size import duplicate_weights, unused, weights_in_constants
from onnxcomp.lint.speed import float64, unaligned_channels, unfused_batch_norm
from onnxcomp.symbolic.propagate import propagate
from onnxcomp.targets import Target

Rule = Callable[[Subject], Iterator[Finding]]
RULES: tuple[Rule, ...] = (
    training_mode,
    random_nodes,
    foreign_domains,
    unfused_batch_norm,
    open_dims,
    unaligned_channels,
    float64,
    duplicate_weights,
    weights_in_constants,
    unused,
    initializers_as_inputs,
    old_opset,
    old_ir_version,
    unknown_shapes,
)


def lint(
    model: ir.Model, shapes: Shapes, layers: tuple[Layer, ...], target: Target
) -> tuple[Finding, ...]:
    """Return the findings, the weightiest first."""
    subject = Subject(model, shapes, propagate(model), layers, target)
    return tuple(finding for rule in RULES for finding in rule(subject))
