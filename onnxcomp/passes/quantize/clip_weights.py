"""Weights clipped, row by row, to the reach with the least error of rounding and clipping."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.graph import Array
from onnxcomp.linear.layers import (
    Layer,
    decibels,
    find_layers,
    is_shared,
    replace_weight,
)
from onnxcomp.passes.quantize._rounding import scale_of_rows, to_nearest
from onnxcomp.registry import Effect, leave, measured, register
from onnxcomp.targets import Target

# Shares of the greatest magnitude to which a row is clipped; what gains less is not worth it.
SHARES = np.linspace(1.0, 0.4, 25)
WORTH = 0.98


@register(Effect.LOSSY)
def clip_weights(model: ir.Model, target: Target, *, exclude: str = "") -> int:
    """Clip the rows of weights where that makes the steps between all others finer.

    The scale of a row of a Conv, Gemm or MatMul is max |w| / 127 (64 where the target has it, see
    `Target`), so one large weight blurs all of them. Each row is clipped to the reach t that
    minimizes sum (w - t / 127 * round(127 w / t))^2, clipped to the grid, over shares of max |w|
    from 1 to 0.4. Sources: Banner et al., 2019 (arXiv 1810.05723); Sung et al., 2015
    (arXiv 1511.06488).

    `exclude` names nodes to leave as they are: globs, separated by commas.

    Left alone where the error falls by less than two per cent, and when the weight is shared.
    """
    layers = find_layers(model.graph, exclude)
    return sum(_clip(model.graph, layer, target.weight_max) for layer in layers)


def _clip(graph: ir.Graph, layer: Layer, largest: int) -> bool:
    weight = layer.matrices
    if is_shared(layer):
        leave(layer.node, "its weight is shared")
        return False
    if not np.isfinite(weight).all():
        leave(layer.node, "its weight is not finite")
        return False
    scale = scale_of_rows(weight, largest, per_channel=True)
    plain = best = _errors(weight, scale, largest)
    share = np.ones(best.shape)
    for candidate in SHARES[1:]:
        error = _errors(weight, scale * np.float32(candidate), largest)
        better = error < WORTH * best
        best, share = np.where(better, error, best), np.where(better, candidate, share)
    if (share == 1).all():
        return False
    reach = np.abs(weight).max(axis=-1, keepdims=True) * share.astype(np.float32)
    replace_weight(graph, layer, np.clip(weight, -reach, reach), "clipped")
    signal = float(np.square(weight, dtype=np.float64).sum())
    measured(layer.node, decibels(signal, plain.sum()), decibels(signal, best.sum()))
    return True


def _errors(weight: Array, scale: Array, largest: int) -> Array:
    """Return the sum of squared errors of each row on its grid, [groups, rows, 1]."""
    error = weight - scale * to_nearest(weight / scale, largest)
    return np.asarray(np.square(error, dtype=np.float64).sum(axis=-1, keepdims=True))
