"""Mul of a value and its HardSigmoid."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import replace
from onnxcomp.graph import is_op, sole_consumer
from onnxcomp.passes.fuse._patterns import is_near, other_operand
from onnxcomp.registry import Effect, leave, register

HARD_SWISH_FROM = 14


@register(Effect.CLOSE, ops=["HardSigmoid"])
def fuse_hard_swish(graph: ir.Graph, opset: int) -> int:
    """Replace the product of a value and its HardSigmoid by HardSwish.

    x * HardSigmoid(x) = HardSwish(x) for alpha = 1/6 and beta = 1/2. fuse-hard-sigmoid makes the
    HardSigmoid where the model spells it out.

    Left alone when alpha or beta is another number, when the HardSigmoid is read elsewhere, and
    before opset 14.
    """
    fused = 0
    for gate in graph:
        if not is_op(gate, "HardSigmoid") or opset < HARD_SWISH_FROM:
            continue
        source, last = gate.inputs[0], sole_consumer(gate.outputs[0])
        if source is None or last is None or not is_op(last, "Mul"):
            continue
        if other_operand(last, gate.outputs[0]) is not source:
            continue
        alpha, beta = (
            gate.attributes.get_float("alpha", 0.2),
            gate.attributes.get_float("beta", 0.5),
        )
        if not is_near(alpha, 1 / 6) or beta != 0.5:
            leave(last, "the HardSigmoid is not that of HardSwish")
            continue
        replace([gate, last], ir.Node("", "HardSwish", [source], name=last.name))
        fused += 1
    return fused
