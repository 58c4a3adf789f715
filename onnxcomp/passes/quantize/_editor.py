"""What the edits of a plan share: the constants added so far, and how Q and DQ nodes are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant
from onnxcomp.graph import Array, label
from onnxcomp.passes.quantize._naming import fresh_name
from onnxcomp.passes.quantize._numbers import SIGNED_OFFSET, Grid
from onnxcomp.passes.quantize._placement import Plan
from onnxcomp.targets import Target


@dataclass
class Editor:
    """The constants that were added so far, so that equal ones are shared."""

    graph: ir.Graph
    plan: Plan
    target: Target
    per_channel: bool
    names: set[str]
    grids: dict[Grid, tuple[ir.Value, ir.Value]] = field(default_factory=dict)
    weights: dict[tuple[object, ...], ir.Value] = field(default_factory=dict)

    @property
    def byte(self) -> ir.DataType:
        """The type of quantized activations."""
        return ir.DataType.INT8 if self.target.signed else ir.DataType.UINT8

    def as_bytes(self, steps: Array) -> Array:
        """Return numbers of a uint8 grid as the type of activations has them."""
        if not self.target.signed:
            return steps.astype(np.uint8)
        return (steps.astype(np.int16) - SIGNED_OFFSET).astype(np.int8)


def new_constant(editor: Editor, data: Array, stem: str) -> ir.Value:
    return add_constant(editor.graph, data, fresh_name(editor.names, stem))


def new_node(
    editor: Editor,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    stem: str,
    dtype: ir.DataType,
    axis: int | None = None,
) -> ir.Node:
    attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
    node = ir.Node("", op_type, inputs, attributes)
    node.outputs[0].name = fresh_name(editor.names, stem)
    node.outputs[0].type = ir.TensorType(dtype)
    return node


def shared(editor: Editor, key: tuple[object, ...], data: Array, stem: str) -> ir.Value:
    if key not in editor.weights:
        editor.weights[key] = new_constant(editor, data, stem)
    return editor.weights[key]


def replace_input(
    editor: Editor, node: ir.Node, value: ir.Value, inputs: list[ir.Value], axis: int | None
) -> None:
    dequantize = add_dequantize(editor, node, inputs, value.name or label(node), axis)
    for index, found in enumerate(node.inputs):
        if found is value:
            node.replace_input_with(index, dequantize.outputs[0])


def add_dequantize(
    editor: Editor, node: ir.Node, inputs: list[ir.Value], stem: str, axis: int | None
) -> ir.Node:
    made = new_node(editor, "DequantizeLinear", inputs, f"{stem}.dq", ir.DataType.FLOAT, axis)
    made.outputs[0].shape = inputs[0].shape
    editor.graph.insert_before(node, made)
    return made


def insert_behind(graph: ir.Graph, value: ir.Value, nodes: Sequence[ir.Node]) -> None:
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], nodes)
    else:
        graph.insert_after(producer, nodes)


def grid_constants(editor: Editor, grid: Grid, stem: str) -> tuple[ir.Value, ir.Value]:
    """Return scale and zero point of a grid; equal grids share them."""
    if grid not in editor.grids:
        scale = new_constant(editor, np.asarray(grid.scale, dtype=np.float32), f"{stem}.scale")
        zero = new_constant(editor, editor.as_bytes(np.asarray(grid.zero_point)), f"{stem}.zero")
        editor.grids[grid] = scale, zero
    return editor.grids[grid]
