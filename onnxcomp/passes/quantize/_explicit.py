"""Which values TensorRT wants quantized: what its weighted layers read, and residual inputs."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.graph import array, is_op, sole_producer
from onnxcomp.passes.quantize._eligibility import (
    FLOAT_MAC_OPS,
    MAC_OPS,
    activations,
    is_float32,
    mac_problem,
    nearest_range,
)
from onnxcomp.passes.quantize._facts import Facts
from onnxcomp.passes.quantize._numbers import Grid, range_of_array, symmetric_grid
from onnxcomp.passes.quantize._placement import Plan
from onnxcomp.registry import leave


def make_explicit_plan(graph: ir.Graph, facts: Facts) -> Plan:
    """Choose the nodes that read int8, each input once; nothing is quantized behind them.

    Where a convolution's result is added to a residual, TensorRT computes both at once if the
    residual is int8. Nothing is folded: TensorRT does that. Source: its guide to explicit
    quantization.
    """
    nodes: dict[ir.Node, None] = {}
    grids: dict[ir.Value, Grid] = {}
    for node in graph:
        values = _int8_inputs(node, facts, nodes)
        if values:
            nodes[node] = None
            grids.update({value: _grid(value, facts) for value in values})
    return Plan(nodes, {}, grids, {})


def _int8_inputs(node: ir.Node, facts: Facts, nodes: dict[ir.Node, None]) -> list[ir.Value]:
    if is_op(node, *FLOAT_MAC_OPS):
        leave(node, f"{node.op_type} is not quantized for TensorRT")
    if is_op(node, *MAC_OPS):
        problem = mac_problem(node, facts)
        if problem:
            leave(node, problem)
        return [] if problem else activations(node)
    if not is_op(node, "Add") or node in facts.excluded:
        return []
    residual = _residual(node, nodes)
    if residual is None or not is_float32(residual, facts):
        return []
    return [residual] if nearest_range(residual, facts) is not None else []


def _residual(add: ir.Node, nodes: dict[ir.Node, None]) -> ir.Value | None:
    """Return what an Add adds to the result of an int8 convolution that it alone reads."""
    first, second = add.inputs
    for value, other in ((second, first), (first, second)):
        maker = sole_producer(value, add)
        if maker in nodes and is_op(maker, "Conv") and array(other) is None:
            return other
    return None


def _grid(value: ir.Value, facts: Facts) -> Grid:
    data = array(value)
    found = nearest_range(value, facts) if data is None else range_of_array(data)
    assert found is not None
    return symmetric_grid(found)
