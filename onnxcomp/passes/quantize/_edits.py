"""The rewrite to int8: a plan carried out, node by node and then value by value."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.edits import replace
from onnxcomp.graph import is_op, label
from onnxcomp.passes.quantize._activations import (
    fold_tail,
    keep_from_gemm,
    pad_bytes,
    quantize_value,
    spell_out_axes,
    to_table,
)
from onnxcomp.passes.quantize._editor import Editor
from onnxcomp.passes.quantize._parameters import quantize_parameters


def apply_plan(editor: Editor) -> None:
    """Carry out a plan: weights and biases first, then every value that is quantized."""
    explicit = editor.target.explicit
    for node in editor.graph:
        if is_op(node, "Pad"):
            spell_out_axes(editor, node)
    for node in editor.plan.nodes:
        node.name = label(node)  # outputs get other names, and reports speak of nodes
        quantize_parameters(editor, node)
    for node, tail in editor.plan.tails.items():
        fold_tail(node, tail.nodes)
        to_table(node)
    ends = {tail.end: node.outputs[0] for node, tail in editor.plan.tails.items()}
    for value in editor.plan.grids:
        quantize_value(editor, value, ends.get(value, value))
    for node in editor.plan.nodes:
        if is_op(node, "Pad"):
            pad_bytes(editor, node)
        elif is_op(node, "MatMul") and node not in editor.plan.tails and not explicit:
            keep_from_gemm(editor, node)


def open_hard_swish(node: ir.Node) -> None:
    """Write HardSwish as x * HardSigmoid(x): both factors can be int8."""
    source, graph = node.inputs[0], node.graph
    assert graph is not None
    node.name = label(node)
    attributes = [ir.AttrFloat32("alpha", 1 / 6), ir.AttrFloat32("beta", 0.5)]
    gate = ir.Node("", "HardSigmoid", [source], attributes, name=f"{node.name}.gate")
    gate.outputs[0].name = f"{node.outputs[0].name}.gate"
    gate.outputs[0].shape, gate.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
    graph.insert_before(node, gate)
    product = ir.Node("", "Mul", [source, gate.outputs[0]], name=node.name)
    replace([node], product)
