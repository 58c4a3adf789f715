"""Layers of a pruned or factorized model fitted to what the original makes."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.calibration.samples import Samples
from onnxcomp.graph import label
from onnxcomp.linear.layers import decibels, find_layers
from onnxcomp.linear.reconstruct import Fit, reconstruct
from onnxcomp.registry import Effect, leave, measured, register

OPS = ("Conv", "Gemm", "MatMul")


@register(Effect.LOSSY, ops=OPS)
def reconstruct_layers(
    model: ir.Model, original: ir.Model, samples: Samples, *, exclude: str = ""
) -> int:
    """Fit the weights of changed layers to the outputs of the original by least squares.

    What pruning or a low rank takes out of a layer can partly be made up for by the weights that
    are left: of all weights W and biases b, those are taken whose outputs W x + b are closest to
    the original's outputs of the node of the same name, before any activation. x is what the
    changed model itself makes, so that a layer also makes up for those before it; they are fitted
    from the inputs on. W = (Y X^T + l W0) (X X^T + l I)^-1 is pulled to the present weight W0, with
    the ridge l that is best on samples held out (every fourth). Where the output goes only into an
    Add, the sum is to be close. Conv and Gemm without a bias get one; zeros of a pruned weight stay
    zero. A layer whose weight cannot be solved for has the mean and deviation of each output
    channel matched to the original's. Source: He et al., 2017 (arXiv 1707.06168).

    Weights on a grid or in a codebook leave it: this comes before the passes that put them there.

    `exclude` names nodes to leave as they are: globs, separated by commas.

    Left alone where the error on the samples held out does not fall, where the output has another
    shape than the original's, where the weight is shared, and all when samples are random. Pads
    that are not numbers, more than 4700 columns, and the largest layers, once the work is more than
    a few seconds, leave only mean and deviation.
    """
    names = {label(node) for node in original.graph}
    nodes = {label(layer.node): layer.node for layer in find_layers(model.graph, exclude)}
    found = [name for name in nodes if name in names]
    if samples.synthetic:
        for name in found:
            leave(nodes[name], "random samples say nothing about its inputs")
        return 0
    fitted = reconstruct(model, original, [Fit(name) for name in found], samples)
    for each in fitted:
        measured(nodes[each.node], decibels(1.0, each.before), decibels(1.0, each.after))
    return len(fitted)
