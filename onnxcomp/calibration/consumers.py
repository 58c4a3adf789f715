"""What the operators that read a value make of it, one number at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from onnxcomp.calibration.taps import SAME_NUMBERS
from onnxcomp.graph import Array, is_op, scalar

Function = Callable[[Array], Array]


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))


def _hard_sigmoid(x: Array, alpha: float = 1 / 6, beta: float = 0.5) -> Array:
    return np.asarray(np.clip(alpha * x + beta, 0.0, 1.0))


def _identity(x: Array) -> Array:
    return x


FUNCTIONS: Mapping[str, Function] = {
    "Relu": lambda x: np.maximum(x, 0.0),
    "Sigmoid": _sigmoid,
    "Tanh": np.tanh,
    "HardSwish": lambda x: x * _hard_sigmoid(x),
    "Softplus": lambda x: np.logaddexp(0.0, x),
    "Softsign": lambda x: x / (1.0 + np.abs(x)),
    "Exp": lambda x: np.exp(np.minimum(x, 80.0)),
    "Sqrt": lambda x: np.sqrt(np.maximum(x, 0.0)),
    "Abs": np.abs,
    "Erf": lambda x: np.tanh(1.1283791671 * x * (1.0 + 0.0895 * x * x)),  # within 0.001
}


def consumers_of(model: ir.Model) -> dict[str, tuple[Function, ...]]:
    """Return, by name, the functions that read each value of the main graph, each once.

    An operator that is no function of single numbers (a convolution, a sum) counts as linear, and
    so does a graph output: for these, and where nothing reads a value, the identity.
    """
    values = [*model.graph.inputs, *(out for node in model.graph for out in node.outputs)]
    found = {}
    for value in values:
        functions = dict(_readers(value))
        if value.is_graph_output() or not functions:
            functions["Identity"] = _identity
        found[value.name or ""] = tuple(functions[key] for key in sorted(functions))
    return found


def _readers(value: ir.Value) -> Iterator[tuple[str, Function]]:
    for node in dict.fromkeys(use.node for use in value.uses()):
        if is_op(node, *SAME_NUMBERS):
            yield from _readers(node.outputs[0])
        else:
            yield function_of(node, value)


def function_of(node: ir.Node, value: ir.Value | None) -> tuple[str, Function]:
    """Return what a node makes of one of its inputs, with a key that equal functions share."""
    if is_op(node, *FUNCTIONS):
        return node.op_type, FUNCTIONS[node.op_type]
    if is_op(node, "HardSigmoid"):
        alpha = node.attributes.get_float("alpha", 0.2)
        beta = node.attributes.get_float("beta", 0.5)
        return f"HardSigmoid {alpha} {beta}", lambda x: _hard_sigmoid(x, alpha, beta)
    if is_op(node, "LeakyRelu"):
        slope = node.attributes.get_float("alpha", 0.01)
        return f"LeakyRelu {slope}", lambda x: np.where(x < 0, slope * x, x)
    if is_op(node, "Clip"):
        low, high = (_bound(node, index) for index in (1, 2))
        return f"Clip {low} {high}", lambda x: np.clip(x, low, high)
    gate = _gate(node, value)
    if gate is not None:
        return f"x {gate[0]}", lambda x: x * gate[1](x)
    return "Identity", _identity


def _bound(node: ir.Node, index: int) -> float | None:
    if len(node.inputs) > index:
        return scalar(node.inputs[index])
    name = ("min", "max")[index - 1]
    return node.attributes.get_float(name, 0.0) if name in node.attributes else None


def _gate(node: ir.Node, value: ir.Value | None) -> tuple[str, Function] | None:
    """Return f where a node computes x f(x), as SiLU does."""
    if not is_op(node, "Mul"):
        return None
    for other in node.inputs:
        source = None if other is None else other.producer()
        if source is None or other is value or source.inputs[:1] != (value,):
            continue
        if is_op(source, "Sigmoid", "HardSigmoid", "Tanh"):
            return function_of(source, value)
    return None
