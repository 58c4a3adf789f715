"""Puts small layers in the place of one; the last of them is the node itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, take_over
from onnxcomp.graph import Array, array, is_op
from onnxcomp.linear.biases import find_bias, replace_bias
from onnxcomp.linear.layers import Layer
from onnxcomp.passes.factorize._forms import Chain, Part

# From here on Gemm's C may be left out.
BIAS_UNTIL = 11


def can_shift(layer: Layer) -> bool:
    """Say whether a number per channel can be added to what a layer makes."""
    return is_op(layer.node, "MatMul") or own_bias(layer) is not None


def own_bias(layer: Layer) -> Array | None:
    """Return what a node itself adds to each channel, or None where that is no constant vector."""
    bias = find_bias(layer.node)
    if is_op(layer.node, "MatMul") or bias is None:
        return np.zeros(layer.rows)
    vector = bias.vector(layer.rows)
    if vector is None:
        return None
    beta = layer.node.attributes.get_float("beta", 1.0) if is_op(layer.node, "Gemm") else 1.0
    return beta * vector.astype(np.float64)


def rewrite(graph: ir.Graph, layers: Sequence[Layer], chain: Chain, opset: int) -> None:
    """Write layers that share a weight as a chain; the new weights are shared in their place."""
    weight = layers[0].node.inputs[1]
    stem = weight.name if weight is not None else layers[0].node.outputs[0].name
    constants = [
        add_constant(graph, _float(part.weight), f"{stem}.{place}")
        for place, part in enumerate(chain.parts)
    ]
    for layer, shift in zip(layers, chain.shifts, strict=True):
        _put(graph, layer, chain.parts, constants, opset)
        if shift is not None and shift.any():
            _shift(graph, layer, shift)


def _put(
    graph: ir.Graph,
    layer: Layer,
    parts: Sequence[Part],
    constants: Sequence[ir.Value],
    opset: int,
) -> None:
    node, source = layer.node, layer.source
    for place, (part, constant) in enumerate(zip(parts[:-1], constants[:-1], strict=True)):
        inputs = [source, constant]
        if part.op == "Gemm" and opset < BIAS_UNTIL:
            zero = np.zeros(part.weight.shape[1], dtype=np.float32)
            inputs.append(add_constant(graph, zero, f"{constant.name}.zero"))
        name = f"{node.name}.{place}" if node.name else None
        new = ir.Node("", part.op, inputs, list(part.attributes), name=name)
        new.outputs[0].name = f"{node.outputs[0].name}.{place}"
        new.outputs[0].type = node.outputs[0].type
        graph.insert_before(node, new)
        source = new.outputs[0]
    if is_op(node, "Gemm"):
        _fold_beta(graph, node)
    node.replace_input_with(0, source)
    node.replace_input_with(1, constants[-1])
    for attr in list(node.attributes):
        if attr != "beta":
            del node.attributes[attr]
    for given in parts[-1].attributes:
        node.attributes[given.name] = given


def _fold_beta(graph: ir.Graph, node: ir.Node) -> None:
    """Multiply a constant C of Gemm with beta, so that neither factor is left (alpha is in W)."""
    beta = node.attributes.get_float("beta", 1.0)
    value = node.inputs[2] if len(node.inputs) > 2 else None
    data = array(value)
    if value is None or data is None:
        return
    if beta != 1.0:
        node.replace_input_with(2, add_constant(graph, _float(beta * data), f"{value.name}.scaled"))
    node.attributes.pop("beta", None)


def _shift(graph: ir.Graph, layer: Layer, shift: Array) -> None:
    bias = find_bias(layer.node)
    present = None if bias is None else bias.vector(layer.rows)
    if bias is not None and present is not None:
        layer.node.attributes.pop("beta", None)
        replace_bias(graph, bias, present + shift, "shifted")
        return
    made = layer.node.outputs[0]
    name = made.name
    add = ir.Node("", "Add", [made, add_constant(graph, _float(shift), f"{name}.shift")])
    graph.insert_after(layer.node, add)
    take_over(add.outputs[0], made)
    add.replace_input_with(0, made)
    if made.name is None:
        made.name = f"{name}.product"
    else:
        add.outputs[0].name = f"{name}.shifted"


def _float(data: Array) -> Array:
    return np.ascontiguousarray(data, dtype=np.float32)
