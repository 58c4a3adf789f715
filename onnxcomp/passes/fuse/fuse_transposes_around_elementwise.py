"""A Transpose that another undoes after elementwise nodes."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import can_take_over, remove, take_over
from onnxcomp.graph import is_op, only_first_output, sole_consumer, tensor
from onnxcomp.registry import Effect, leave, register

# Operators that treat every element alike, wherever it lies; further inputs must be scalars.
ELEMENTWISE = frozenset(
    {"Abs", "Add", "Cast", "Ceil", "Celu", "Clip", "Cos", "Div", "Elu", "Erf", "Exp", "Floor"}
    | {"Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg"}
    | {"Not", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus"}
    | {"Softsign", "Sqrt", "Sub", "Tanh", "ThresholdedRelu", "Identity"}
)


@register(Effect.EXACT, ops=["Transpose"])
def fuse_transposes_around_elementwise(graph: ir.Graph) -> int:
    """Remove two Transposes that undo each other, with only elementwise nodes between them.

    T'(f(T(x))) = f(x) when f treats every element alike: activations, and arithmetic with a
    constant of one element.

    Left alone when a value on the way is read elsewhere, when a node on the way tells axes apart,
    and when the second Transpose is another.
    """
    removed = 0
    for first in graph:
        if not is_op(first, "Transpose") or first.inputs[0] is None:
            continue
        chain, second = _way(first)
        if second is None or not chain:
            continue
        if not _undoes(first, second):
            leave(second, "it does not undo the Transpose before it")
            continue
        if not can_take_over(chain[-1].outputs[0], second.outputs[0]):
            continue
        for node in chain:
            node.outputs[0].shape = None  # inferred anew in the next round
            node.outputs[0].meta.clear()
        place = chain[0].inputs.index(first.outputs[0])
        chain[0].replace_input_with(place, first.inputs[0])
        take_over(chain[-1].outputs[0], second.outputs[0])
        remove(second)
        remove(first)
        removed += 1
    return removed


def _way(first: ir.Node) -> tuple[list[ir.Node], ir.Node | None]:
    """Return the elementwise nodes that alone read a Transpose, and the Transpose behind them."""
    chain: list[ir.Node] = []
    value = first.outputs[0]
    while True:
        node = sole_consumer(value)
        if node is not None and is_op(node, "Transpose"):
            return chain, node
        if node is None or not is_op(node, *ELEMENTWISE) or not only_first_output(node):
            return chain, None
        if any(item is not value and not _is_scalar(item) for item in node.inputs):
            return chain, None
        chain.append(node)
        value = node.outputs[0]


def _is_scalar(value: ir.Value | None) -> bool:
    """Say whether an operand is absent, or one number that adds no dim."""
    found = tensor(value)
    return value is None or (found is not None and found.size == 1 and len(found.shape) <= 1)


def _undoes(first: ir.Node, second: ir.Node) -> bool:
    perms = [node.attributes.get_ints("perm") for node in (first, second)]
    if perms == [None, None]:
        return True  # reversed twice
    count = max(len(perm) for perm in perms if perm is not None)
    p, q = (list(perm) if perm is not None else list(range(count))[::-1] for perm in perms)
    return [p[axis] for axis in q] == list(range(count))
