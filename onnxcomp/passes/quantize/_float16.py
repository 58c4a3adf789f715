"""Which nodes can compute in float16, and the edits that make them do so."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir

from onnxcomp.edits import add_constant
from onnxcomp.graph import STANDARD_DOMAINS, Array, array, has_subgraph, make_tensor, tensor
from onnxcomp.passes.quantize._naming import fresh_name

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
LARGEST = float(np.finfo(np.float16).max)
# Numbers below the least normal float16 lose digits.
SMALLEST = float(np.finfo(np.float16).tiny)
# A weight that float16 leaves less like itself than this (dB) stays float32.
LEAST_SQNR = 50.0
# Sums of many terms, or exponentials: they are standard in float16, and lose too much there.
SENSITIVE = frozenset(
    {"CumSum", "ReduceSumSquare", "ReduceL2", "ReduceLogSumExp", "ReduceProd", "Pow"}
    | {"MeanVarianceNormalization", "RandomNormalLike", "RandomUniformLike", "Range"}
)
DTYPE_ATTRIBUTES = {"Cast": "to", "RandomNormal": "dtype", "RandomUniform": "dtype"}


def weight_problem(data: Array) -> str:
    """Say why the numbers of a weight do not fit float16; nothing where they do."""
    if not np.isfinite(data).all():
        return "its weight is not finite"
    largest = float(np.abs(data).max(initial=0.0))
    if largest > LARGEST:
        return f"its weight reaches {largest:.3g}, beyond float16"
    error = data - data.astype(np.float16).astype(np.float32)
    signal, noise = (float(np.square(each, dtype=np.float64).sum()) for each in (data, error))
    if noise > signal * 10 ** (-LEAST_SQNR / 10):
        return f"its weight is so small ({largest:.3g}) that float16 loses its digits"
    return ""


def sqnr_of(data: Array) -> float:
    """Return the signal-to-noise ratio (dB) of numbers and their float16 form."""
    error = data - data.astype(np.float16).astype(np.float32)
    signal, noise = (float(np.square(each, dtype=np.float64).sum()) for each in (data, error))
    return float(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30)))


@cache
def float_slots(op: str, domain: str, opset: int) -> tuple[tuple[bool, ...], bool] | None:
    """Return which inputs of an operator may be float16, and whether the last repeats.

    None where the operator is not known, or its outputs cannot follow.
    """
    try:
        schema = onnx.defs.get_schema(op, opset, "" if domain in STANDARD_DOMAINS else domain)
    except onnx.defs.SchemaError:
        return None
    kinds = {each.type_param_str: each.allowed_type_strs for each in schema.type_constraints}

    def halves(formal: onnx.defs.OpSchema.FormalParameter) -> bool:
        return "tensor(float16)" in kinds.get(formal.type_str, ())

    def floats(formal: onnx.defs.OpSchema.FormalParameter) -> bool:
        return "tensor(float)" in kinds.get(formal.type_str, (formal.type_str,))

    if any(floats(output) and not halves(output) for output in schema.outputs):
        return None
    repeats = bool(schema.inputs) and (
        schema.inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    )
    return tuple(halves(formal) for formal in schema.inputs), repeats


def problem_of(node: ir.Node, opset: int) -> str:
    """Say why an operator stays float32; nothing where it can be float16."""
    if has_subgraph(node):
        return "it has graphs of its own"
    if node.domain not in STANDARD_DOMAINS or node.op_type in SENSITIVE:
        return f"{node.op_type} is computed in float32"
    if float_slots(node.op_type, "", opset) is None:
        return f"{node.op_type} has no float16"
    return ""


def is_half_cast(node: ir.Node) -> bool:
    """Say whether a node is a Cast from or to float16, which stays what it is."""
    if node.op_type != "Cast" or node.inputs[0] is None:
        return False
    return HALF in (node.inputs[0].dtype, node.attributes.get_int("to", 0))


def takes_half(node: ir.Node, index: int, opset: int) -> bool:
    """Say whether this input of a node that computes in float16 is float16 too."""
    found = float_slots(node.op_type, "", opset)
    assert found is not None
    slots, repeats = found
    return slots[min(index, len(slots) - 1) if repeats else index]


class HalfEditor:
    """Turns values of a graph into float16, with a Cast where a reader wants the other type."""

    def __init__(self, graph: ir.Graph, used: set[str]) -> None:
        self.graph, self._used = graph, used
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def as_type(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Return a value in another type: a constant converted, else behind a Cast."""
        key = (value, dtype)
        if key not in self._casts:
            data = array(value) if tensor(value) is not None else None
            self._casts[key] = (
                self._cast(value, dtype)
                if data is None
                else add_constant(
                    self.graph, data.astype(dtype.numpy()), f"{value.name}.{dtype.name.lower()}"
                )
            )
        return self._casts[key]

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", dtype)])
        output = node.outputs[0]
        output.name = fresh_name(self._used, f"{value.name}.{dtype.name.lower()}")
        output.shape, output.type = value.shape, ir.TensorType(dtype)
        producer = value.producer()
        if producer is not None:
            self.graph.insert_after(producer, node)
        elif len(self.graph):
            self.graph.insert_before(self.graph[0], node)
        return output


def convert(graph: ir.Graph, kept: Collection[ir.Node], opset: int, used: set[str]) -> int:
    """Make all nodes of a graph but `kept` compute in float16; return how many.

    Inputs and outputs keep their types.
    """
    editor, nodes, changed = HalfEditor(graph, used), list(graph), 0
    for node in nodes:
        half = node not in kept
        touched = False
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype not in (FLOAT, HALF):
                continue
            wanted = HALF if half and takes_half(node, index, opset) else FLOAT
            if value.dtype != wanted:
                node.replace_input_with(index, editor.as_type(value, wanted))
                touched |= half
        touched |= half and _retyped(node)
        if half:
            for output in node.outputs:
                if output.dtype == FLOAT:
                    output.type, touched = ir.TensorType(HALF), True
        changed += touched
    _restore_outputs(graph, used)
    return changed


def _retyped(node: ir.Node) -> bool:
    """Make what a node makes by an attribute float16."""
    name = DTYPE_ATTRIBUTES.get(node.op_type)
    if name is not None and node.attributes.get_int(name, 0) == FLOAT:
        node.attributes.add(ir.AttrInt64(name, HALF))
        return True
    if node.op_type not in ("Constant", "ConstantOfShape"):
        return False
    held = node.attributes.get("value")
    if held is None and node.op_type == "Constant":
        return False
    data = np.zeros(1, np.float32) if held is None else held.as_tensor().numpy()
    if data.dtype != np.float32:
        return False
    node.attributes.add(ir.AttrTensor("value", make_tensor(data.astype(np.float16))))
    return True


def _restore_outputs(graph: ir.Graph, used: set[str]) -> None:
    """Put a Cast to float32 in front of each output that became float16, under its name."""
    for index, output in enumerate(graph.outputs):
        if output.dtype != HALF or output.producer() is None:
            continue
        node = ir.Node("", "Cast", [output], [ir.AttrInt64("to", FLOAT)])
        result, name = node.outputs[0], output.name
        result.shape, result.type = output.shape, ir.TensorType(FLOAT)
        graph.append(node)
        graph.outputs[index] = result
        output.name = fresh_name(used, f"{name}.float16")
        result.name = name
