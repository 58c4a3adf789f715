"""Weights rounded to their int8 grid so that the errors of a row's entries cancel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.linear.gram import Seen, look_at
from onnxcomp.linear.layers import (
    Layer,
    decibels,
    find_layers,
    has_known_pads,
    is_shared,
    replace_weight,
)
from onnxcomp.passes.quantize._rounding import on_grid, round_rows, scale_of_rows, to_nearest
from onnxcomp.registry import Effect, leave, measured, register
from onnxcomp.targets import Target

# A matrix of more columns takes too long to invert; all of them together, in multiplications.
COLUMNS = 2304
WORK = 6e10


@register(Effect.LOSSY, keeps_ranges=True)
def round_weights(
    model: ir.Model,
    samples: Samples,
    target: Target,
    *,
    exclude: str = "",
    per_channel: bool = True,
) -> int:
    """Move weights onto the grid that they will be stored on, so that their errors cancel.

    Rounding each weight to the nearest step is best only where inputs are independent of each
    other. For a row w of the weight of Conv, Gemm or MatMul, the error of the layer is
    E[((w - s q) x)^2] = (w - s q) H (w - s q)^T with H = E[x x^T] over the samples, and whole steps
    q are looked for that make it small: column by column with the error passed on, then each
    column again, given the others. The scale s = max |w| / 127 stays what quantize-static will
    find (64 where the target has it, see `Target`), so it stores just these steps. Sources: Frantar
    et al., 2023 (arXiv 2210.17323); Nagel et al., 2020 (arXiv 2004.10568).

    `exclude` names nodes to leave as they are: globs, separated by commas. `per_channel` is to be
    what quantize-static has.

    Left alone where the samples that are kept back say that the layer's error does not fall, where
    the weight is shared or has more than 2304 columns, the largest layers, once the work is more
    than a few seconds, and all when samples are random.
    """
    layers = [layer for layer in find_layers(model.graph, exclude) if _worth(layer)]
    if samples.synthetic:
        for layer in layers:
            leave(layer.node, "random samples say nothing about its inputs")
        return 0
    layers = _affordable(layers)
    changed = 0
    for layer, seen in look_at(model.clone(), layers, samples):
        if seen is None:
            leave(layer.node, "its input is empty or not finite")
            continue
        changed += _round(model.graph, layer, seen, target.weight_max, per_channel=per_channel)
    return changed


def _worth(layer: Layer) -> bool:
    reason = ""
    if is_shared(layer):
        reason = "its weight is shared"
    elif layer.columns > COLUMNS:
        reason = f"{layer.columns} columns are more than {COLUMNS}"
    elif not has_known_pads(layer.node):
        reason = "its pads are not given as numbers"
    elif not np.isfinite(layer.matrices).all():
        reason = "its weight is not finite"
    if reason:
        leave(layer.node, reason)
    return not reason


def _affordable(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers, without the largest where all would take too long."""
    work, kept = 0.0, set()
    for layer in sorted(layers, key=_work):
        work += _work(layer)
        if work > WORK:
            leave(layer.node, "rounding it takes too long")
        else:
            kept.add(layer.node)
    return [layer for layer in layers if layer.node in kept]


def _work(layer: Layer) -> float:
    """Return how many multiplications it takes: an inverse, and a few products with the rows."""
    return layer.groups * layer.columns**2 * (2.0 * layer.columns + 4 * layer.rows)


def _round(graph: ir.Graph, layer: Layer, seen: Seen, largest: int, *, per_channel: bool) -> bool:
    weight = layer.matrices
    scale = scale_of_rows(weight, largest, per_channel=per_channel)
    units = weight / scale
    nearest, steps = to_nearest(units, largest), round_rows(units, seen.gram, largest)
    before, after = (seen.error(weight - scale * each) for each in (nearest, steps))
    if not after < before:
        leave(layer.node, "the samples kept back say that its error does not fall")
        return False
    signal = seen.error(weight)
    measured(layer.node, decibels(signal, before), decibels(signal, after))
    data = on_grid(weight, scale, steps, largest, per_channel=per_channel)
    replace_weight(graph, layer, data, "rounded")
    return True
