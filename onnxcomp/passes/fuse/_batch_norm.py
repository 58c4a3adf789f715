"""The affine map that a BatchNormalization in inference is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxcomp.graph import array, only_first_output
from onnxcomp.registry import leave

# Before this operator set a node trains unless `is_test` says otherwise.
TESTS_FROM = 7


@dataclass(frozen=True)
class Affine:
    """y = scale * x + shift per channel, in float64."""

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]


def affine_of(bn: ir.Node, opset: int) -> Affine | None:
    """Return scale = gamma / sqrt(var + epsilon) and shift = beta - mean * scale, each [channels].

    None, with the reason left at the node, when it trains, when a parameter is not constant, or
    when a statistic is returned (Ioffe and Szegedy, arXiv:1502.03167, section 3.1).
    """
    trains = bn.attributes.get_int("training_mode", 0) if opset >= 14 else _has_statistics(bn)
    tests = bn.attributes.get_int("is_test", int(opset >= TESTS_FROM))
    if trains or not tests or not only_first_output(bn):
        leave(bn, "it computes batch statistics (training mode)")
        return None
    if bn.attributes.get_int("spatial", 1) == 0:
        leave(bn, "spatial = 0 normalizes each position apart")
        return None
    parameters = [array(value) for value in bn.inputs[1:5]]
    if any(data is None for data in parameters):
        leave(bn, "a parameter of the normalization is not constant")
        return None
    gamma, beta, mean, var = (np.asarray(data, dtype=np.float64) for data in parameters)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = gamma / np.sqrt(var + bn.attributes.get_float("epsilon", 1e-5))
        shift = beta - mean * scale
    if not np.isfinite([scale, shift]).all():
        leave(bn, "its scale or shift is not finite")
        return None
    return Affine(scale, shift)


def _has_statistics(bn: ir.Node) -> bool:
    return len([output for output in bn.outputs if output.name]) > 1
