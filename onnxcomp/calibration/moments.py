"""How mean, variance and bounds of a value pass through operators, channel by channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.consumers import FUNCTIONS, Function, function_of
from onnxcomp.graph import Array, array, is_op

# Deviations from the mean beyond which no value is expected (DFQ's n).
DEVIATIONS = 6.0
# Nodes of the quadrature, and points at which a function is looked at for its bounds.
QUADRATURE, POINTS = 32, 129


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean, variance, least and greatest value, each of shape [C], or [1] for the whole tensor."""

    mean: Array
    variance: Array
    lo: Array
    hi: Array

    def collapsed(self) -> Moments:
        """Return the moments of the whole tensor: a mixture of the channels, equal in number."""
        mean = self.mean.mean()
        variance = self.variance.mean() + self.mean.var()
        return _moments(mean, variance, self.lo.min(), self.hi.max())


def normal(mean: Array, variance: Array) -> Moments:
    """Return the moments of a normal distribution, bounded at some deviations from the mean."""
    reach = DEVIATIONS * np.sqrt(variance)
    return _moments(mean, variance, mean - reach, mean + reach)


def _moments(mean: Array, variance: Array, lo: Array, hi: Array) -> Moments:
    parts = np.broadcast_arrays(*(np.atleast_1d(part) for part in (mean, variance, lo, hi)))
    return Moments(*(np.asarray(part, np.float64) for part in parts))


def of_function(function: Function, x: Moments) -> Moments:
    """Return the moments of f(x) for a normal x cut at its bounds, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite.hermgauss(QUADRATURE)
    spread = np.sqrt(2 * x.variance)[:, None] * nodes
    found = function(np.clip(x.mean[:, None] + spread, x.lo[:, None], x.hi[:, None]))
    weights = weights / np.sqrt(np.pi)
    mean = found @ weights
    variance = np.maximum(np.square(found) @ weights - np.square(mean), 0.0)
    seen = function(np.linspace(x.lo, x.hi, POINTS))
    return _moments(mean, variance, seen.min(axis=0), seen.max(axis=0))


def of_sum(x: Moments, y: Moments, sign: float = 1.0) -> Moments:
    """Return the moments of x + y, or x - y, that are independent."""
    ends = (y.lo, y.hi) if sign > 0 else (-y.hi, -y.lo)
    free = normal(x.mean + sign * y.mean, x.variance + y.variance)
    lo, hi = np.maximum(free.lo, x.lo + ends[0]), np.minimum(free.hi, x.hi + ends[1])
    return _moments(free.mean, free.variance, lo, hi)


def of_product(x: Moments, y: Moments) -> Moments:
    """Return the moments of x y that are independent."""
    second = (x.variance + np.square(x.mean)) * (y.variance + np.square(y.mean))
    mean = x.mean * y.mean
    free = normal(mean, np.maximum(second - np.square(mean), 0.0))
    corners = np.stack(np.broadcast_arrays(x.lo * y.lo, x.lo * y.hi, x.hi * y.lo, x.hi * y.hi))
    lo, hi = np.maximum(free.lo, corners.min(axis=0)), np.minimum(free.hi, corners.max(axis=0))
    return _moments(free.mean, free.variance, np.minimum(lo, hi), np.maximum(lo, hi))


def of_mean(x: Moments) -> Moments:
    """Return the moments of means over space, whose deviation is taken for half of x's.

    Neighbours are alike, so it falls far more slowly than with the number of points.
    """
    free = normal(x.mean, x.variance / 4)
    return _moments(free.mean, free.variance, np.maximum(free.lo, x.lo), np.minimum(free.hi, x.hi))


def of_constant(data: Array) -> Moments | None:
    """Return the moments of a constant that is one number, or one per channel of axis 1."""
    if data.size == 1:
        value = data.reshape(1).astype(np.float64)
    elif data.ndim > 2 and data.shape[-3] == data.size:
        value = data.reshape(-1).astype(np.float64)
    else:
        return None
    return _moments(value, np.zeros_like(value), value, value)


def of_linear(x: Moments, weight: Array, bias: Array | None, groups: int = 1) -> Moments:
    """Return the moments of a convolution or product with `weight`, of shape [M, C / groups, ...].

    The mean is exact but for padding; the variance takes what is summed for independent.
    """
    wide = weight.astype(np.float64).reshape(*weight.shape[:2], -1)
    sums, squares = wide.sum(axis=2), np.square(wide).sum(axis=2)
    count = weight.shape[0] // groups
    means = np.broadcast_to(x.mean, groups * weight.shape[1]).reshape(groups, 1, -1)
    variances = np.broadcast_to(x.variance, groups * weight.shape[1]).reshape(groups, 1, -1)
    mean = (sums.reshape(groups, count, -1) * means).sum(axis=2).reshape(-1)
    variance = (squares.reshape(groups, count, -1) * variances).sum(axis=2).reshape(-1)
    return normal(mean if bias is None else mean + bias.reshape(-1), variance)


# ---------------------------------------------------------------- rules
Operands = Sequence[Moments | None]
Rule = Callable[[ir.Node, Operands], Moments | None]


def _sum(node: ir.Node, operands: Operands) -> Moments | None:
    x, y = operands[0], operands[1]
    if x is None or y is None:
        return None
    return of_sum(x, y, -1.0 if is_op(node, "Sub") else 1.0)


def _product(node: ir.Node, operands: Operands) -> Moments | None:
    x, y = operands[0], operands[1]
    for value, moments in zip(node.inputs, operands, strict=True):  # x f(x), as SiLU has it
        key, function = function_of(node, value)
        if key.startswith("x ") and moments is not None:
            return of_function(function, moments)
    return None if x is None or y is None else of_product(x, y)


def _quotient(node: ir.Node, operands: Operands) -> Moments | None:
    divisor = array(node.inputs[1])
    if operands[0] is None or divisor is None or not divisor.all():
        return None
    factor = of_constant(1 / divisor)
    return None if factor is None else of_product(operands[0], factor)


def _conv(node: ir.Node, operands: Operands) -> Moments | None:
    x, weight = operands[0], array(node.inputs[1])
    bias = array(node.inputs[2]) if len(node.inputs) > 2 else None
    if x is None or weight is None or (len(node.inputs) > 2 and bias is None):
        return None
    return of_linear(x, weight, bias, node.attributes.get_int("group", 1))


def _gemm(node: ir.Node, operands: Operands) -> Moments | None:
    x, weight = operands[0], array(node.inputs[1])
    bias = array(node.inputs[2]) if len(node.inputs) > 2 else None
    scales = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    turned = [node.attributes.get_int(name, 0) != 0 for name in ("transA", "transB")]
    if x is None or weight is None or scales != [1.0, 1.0] or turned[0]:
        return None
    return of_linear(x, weight if turned[1] else weight.T, bias)


def _matmul(node: ir.Node, operands: Operands) -> Moments | None:
    x, weight = operands[0], array(node.inputs[1])
    if x is None or weight is None or weight.ndim != 2:
        return None
    return of_linear(x.collapsed(), weight.T, None).collapsed()


def _concat(node: ir.Node, operands: Operands) -> Moments | None:
    known = [each for each in operands if each is not None]
    if len(known) < len(operands):
        return None
    shapes = [value.shape for value in node.inputs if value is not None]
    counts = [shape[1] if shape is not None and len(shape) > 1 else None for shape in shapes]
    whole = [len(each.mean) == count for each, count in zip(known, counts, strict=True)]
    parts = ("mean", "variance", "lo", "hi")
    joined = Moments(*(np.concatenate([getattr(each, part) for each in known]) for part in parts))
    return joined if node.attributes.get_int("axis", 0) == 1 and all(whole) else joined.collapsed()


def _padded(_: ir.Node, operands: Operands) -> Moments | None:
    x = operands[0]
    if x is None:
        return None
    return _moments(x.mean, x.variance, np.minimum(x.lo, 0.0), np.maximum(x.hi, 0.0))


def _mixed(_: ir.Node, operands: Operands) -> Moments | None:
    return None if operands[0] is None else operands[0].collapsed()


def _same(_: ir.Node, operands: Operands) -> Moments | None:
    return operands[0]


def _mean(node: ir.Node, operands: Operands) -> Moments | None:
    x = operands[0]
    if x is None:
        return None
    return of_mean(x if is_op(node, "GlobalAveragePool") else x.collapsed())


def _function(node: ir.Node, operands: Operands) -> Moments | None:
    if operands[0] is None or node.inputs[0] is None:
        return None
    return of_function(function_of(node, node.inputs[0])[1], operands[0])


# Pools of a few points keep the moments of their input: neighbours are alike, bounds stay bounds.
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("Add", "Sub"), _sum),
    **dict.fromkeys((*FUNCTIONS, "HardSigmoid", "LeakyRelu", "Clip"), _function),
    **dict.fromkeys(("Identity", "Dropout", "Resize", "Upsample", "MaxPool"), _same),
    **dict.fromkeys(("AveragePool", "GlobalMaxPool"), _same),
    **dict.fromkeys(("GlobalAveragePool", "ReduceMean"), _mean),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"), _mixed),
    "Mul": _product,
    "Div": _quotient,
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Concat": _concat,
    "Pad": _padded,
}
