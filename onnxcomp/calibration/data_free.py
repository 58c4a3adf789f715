"""Ranges without data, from what batch normalization has learnt about the values behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.moments import RULES, Moments, normal, of_constant
from onnxcomp.calibration.ranges import Range, Ranges
from onnxcomp.graph import array, is_op
from onnxcomp.shapes import infer_shapes

# What a normalization is fused into, or is.
FUSED = ("BatchNormalization", "Conv", "ConvTranspose", "Gemm", "MatMul", "Add")


def estimate_ranges(original: ir.Model, model: ir.Model) -> dict[str, Range]:
    """Return ranges by name for the values of a model that follow from batch normalization.

    The output of a BatchNormalization has mean beta and deviation |gamma| per channel on the data
    that the model was trained with, so 6 deviations bound it; sums, activations, convolutions and
    what else `moments` has a rule for pass these figures on. `original` has the normalizations;
    in `model` they may be part of the operators before them, whose outputs have their names.
    Source: Nagel et al., 2019 (arXiv 1906.04721), section 4.
    """
    return {
        name: Range(float(each.lo.min()), float(each.hi.max()))
        for name, each in known_moments(original, model).items()
    }


def known_moments(original: ir.Model, model: ir.Model) -> dict[str, Moments]:
    """Return the moments of values by name, as `estimate_ranges` has them."""
    learnt = _normalized(original)
    typed = model.clone()
    infer_shapes(typed)
    known: dict[ir.Value, Moments] = {}
    for node in typed.graph:
        found = _of_node(node, learnt, known)
        if found is not None and all(np.isfinite(part).all() for part in (found.lo, found.hi)):
            known[node.outputs[0]] = found
    return {value.name: found for value, found in known.items() if value.name}


def _normalized(model: ir.Model) -> dict[str, Moments]:
    """Return the moments of what inference-mode normalizations make, by name."""
    found = {}
    for node in model.graph:
        name = node.outputs[0].name if node.outputs else None
        if not is_op(node, "BatchNormalization") or not name:
            continue
        gamma, beta = array(node.inputs[1]), array(node.inputs[2])
        training = node.attributes.get_int("training_mode", 0) != 0
        if gamma is not None and beta is not None and not training:
            moments = normal(beta.astype(np.float64), np.square(gamma.astype(np.float64)))
            found[name] = moments
    return found


def _of_node(
    node: ir.Node, learnt: Mapping[str, Moments], known: Mapping[ir.Value, Moments]
) -> Moments | None:
    name = (node.outputs[0].name or "") if node.outputs else ""
    if is_op(node, *FUSED) and name in learnt:
        return learnt[name]
    if not is_op(node, *RULES) or all(value not in known for value in node.inputs if value):
        return None
    return RULES[node.op_type](node, [_of_value(value, known) for value in node.inputs])


def _of_value(value: ir.Value | None, known: Mapping[ir.Value, Moments]) -> Moments | None:
    if value is None or value in known:
        return None if value is None else known[value]
    data = array(value)
    return None if data is None or data.dtype.kind != "f" else of_constant(data)


def completed(estimated: Mapping[str, Range], synthetic: Ranges) -> Ranges:
    """Return ranges from random samples, with the estimated ones in the place of theirs."""
    names = [name for name in synthetic.values if name in estimated]
    values = {name: estimated.get(name, found) for name, found in synthetic.values.items()}
    return replace(synthetic, values=values, estimated=tuple(names))
