"""Vocabulary over `onnx_ir`: the questions that passes ask of a graph."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[Any]

STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
KNOWN_DOMAINS = frozenset({"ai.onnx.ml", "com.microsoft"})
RANDOM_OPS = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
    | {"Bernoulli", "Multinomial"}
    | {"Sampling", "BiasDropout", "BitmaskDropout", "BitmaskBiasDropout"}  # com.microsoft
)
CONTROL_FLOW_OPS = frozenset({"If", "Loop", "Scan", "SequenceMap"})
QUANTIZATION_OPS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})


# ---------------------------------------------------------------- graphs and nodes
def all_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """Yield the main graph, the function bodies, and every subgraph of them."""
    for graph in chain([model.graph], (f.graph for f in model.functions.values())):
        yield from _with_subgraphs(graph)


def _with_subgraphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    yield graph
    for node in graph:
        if node.op_type not in CONTROL_FLOW_OPS and node.domain in STANDARD_DOMAINS:
            continue  # this runs after every pass: no look at the attributes of most nodes
        for attr in node.attributes.values():
            if attr.type is ir.AttributeType.GRAPH:
                yield from _with_subgraphs(attr.as_graph())
            elif attr.type is ir.AttributeType.GRAPHS:
                for inner in attr.as_graphs():
                    yield from _with_subgraphs(inner)


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yield every node, subgraphs and functions included."""
    return (node for graph in all_graphs(model) for node in graph)


def count_nodes(model: ir.Model) -> int:
    """Count the nodes, subgraphs and functions included."""
    return sum(len(graph) for graph in all_graphs(model))


def opset_version(model: ir.Model) -> int:
    """Return the version of the standard operator set that the model imports."""
    imports = model.opset_imports
    return imports.get("") or imports.get("ai.onnx") or 1


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Say whether a node is one of these operators of the standard domain.

    A node with an attribute that is an argument of the function around it is none: what it does is
    not known here.
    """
    if node is None or node.op_type not in op_types or node.domain not in STANDARD_DOMAINS:
        return False
    return not has_references(node)


def label(node: ir.Node) -> str:
    """Name a node for people: its name, or its operator and first output."""
    if node.name:
        return node.name
    outputs = [output.name for output in node.outputs if output.name]
    return f"{node.op_type} -> {outputs[0]}" if outputs else node.op_type


def is_random(node: ir.Node) -> bool:
    """Say whether two runs of this node may differ (random ops, training Dropout)."""
    if is_op(node, "Dropout"):
        return not dropout_is_inference(node)
    return node.op_type in RANDOM_OPS


def dropout_is_inference(node: ir.Node) -> bool:
    """Say whether a Dropout surely passes its input through: no `training_mode`, or false."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return node.attributes.get_int("is_test", 1) == 1
    mode = array(node.inputs[2])
    return mode is not None and not mode.any()


def has_subgraph(node: ir.Node) -> bool:
    """Say whether a node carries graphs as attributes."""
    if node.op_type not in CONTROL_FLOW_OPS and node.domain in STANDARD_DOMAINS:
        return False
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(attr.type in kinds for attr in node.attributes.values())


def has_references(node: ir.Node) -> bool:
    """Say whether an attribute refers to one of the enclosing function, so is not known here."""
    for attr in node.attributes.values():  # noqa: SIM110 (a generator takes twice as long)
        if attr.ref_attr_name is not None:
            return True
    return False


def subgraphs_of(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs that a node carries as attributes, but not those inside them."""
    return inner_graphs(node, deep=False)


def inner_graphs(node: ir.Node, *, deep: bool = True) -> Iterator[ir.Graph]:
    """Yield the graphs that a node carries, and, if `deep`, those inside them."""
    if node.op_type not in CONTROL_FLOW_OPS and node.domain in STANDARD_DOMAINS:
        return
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH:
            found = [attr.as_graph()]
        elif attr.type == ir.AttributeType.GRAPHS:
            found = list(attr.as_graphs())
        else:
            continue
        for graph in found:
            yield graph
            if deep:
                yield from graph.subgraphs()


# ---------------------------------------------------------------- values
def tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the constant tensor behind a value without reading its data, or None."""
    if value is None or value.is_graph_input():
        return None
    if value.producer() is None:
        return value.const_value if value.is_initializer() else None
    node = value.producer()
    if not is_op(node, "Constant") or node is None or has_references(node):
        return None
    if "value" in node.attributes:
        return node.attributes["value"].value  # type: ignore[no-any-return]
    if "sparse_value" in node.attributes:
        return None
    if "value_string" in node.attributes:
        return make_tensor(np.array(node.attributes.get_string("value_string"), dtype=object))
    if "value_strings" in node.attributes:
        return make_tensor(np.array(node.attributes.get_strings("value_strings"), dtype=object))
    return ir.convenience.get_const_tensor(value)


def array(value: ir.Value | None) -> Array | None:
    """Return the array of a constant value (initializer or Constant node), or None."""
    found = tensor(value)
    return None if found is None else np.asarray(found.numpy())


def scalar(value: ir.Value | None) -> float | None:
    """Return a constant of exactly one element as a Python number, or None."""
    found = tensor(value)
    if found is None or found.size != 1 or found.dtype == ir.DataType.STRING:
        return None
    return np.asarray(found.numpy()).reshape(()).item()  # type: ignore[no-any-return]


def saturation(node: ir.Node) -> tuple[float, float] | None:
    """Return the interval that a Relu or Clip maps to, if it is known and includes zero."""
    if is_op(node, "Relu"):
        return 0.0, math.inf
    if not is_op(node, "Clip"):
        return None
    low: float | None = node.attributes.get_float("min", -math.inf)
    high: float | None = node.attributes.get_float("max", math.inf)
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        low = scalar(node.inputs[1])
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        high = scalar(node.inputs[2])
    if low is None or high is None or not low <= 0.0 <= high or low == high:
        return None
    return float(low), float(high)


def integers(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return a constant integer tensor as a flat tuple, or None."""
    found = tensor(value)
    if found is None or found.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
        return None
    return tuple(int(item) for item in found.numpy().reshape(-1))


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return the shape of a value when every dim is a known number, or None."""
    found = tensor(value)
    shape = found.shape if found is not None else (value.shape if value is not None else None)
    if shape is None or not all(isinstance(dim, int) and dim >= 0 for dim in shape):
        return None  # some exporters write -1 for an open dim
    return tuple(int(dim) for dim in shape)  # type: ignore[arg-type]


def rank(value: ir.Value | None) -> int | None:
    """Return the number of dims of a value, or None when it is not known."""
    if value is None or value.shape is None:
        found = tensor(value)
        return None if found is None else len(found.shape)
    return len(value.shape)


def same_shape(first: ir.Value | None, second: ir.Value | None) -> bool:
    """Say whether two values surely have equal shapes: equal numbers or equal named dims."""
    if first is None or second is None or first.shape is None or second.shape is None:
        return False
    if len(first.shape) != len(second.shape):
        return False
    return all(same_dim(a, b) for a, b in zip(first.shape, second.shape, strict=True))


def same_dim(first: int | ir.SymbolicDim, second: int | ir.SymbolicDim) -> bool:
    """Say whether two dims are surely equal; an unnamed, `?` or -1 dim equals nothing."""
    if isinstance(first, int) or isinstance(second, int):
        return isinstance(first, int) and isinstance(second, int) and first == second >= 0
    return first.value not in (None, "", "?") and first.value == second.value


def sole_consumer(value: ir.Value) -> ir.Node | None:
    """Return the one node that reads a value, or None.

    None also when the value is a graph output, is read twice, or is read in another graph (a
    subgraph that captures it).
    """
    uses = list(value.uses())
    if value.is_graph_output() or len(uses) != 1:
        return None
    reader, producer = uses[0].node, value.producer()
    if producer is not None and reader.graph is not producer.graph:
        return None
    return reader


def sole_producer(value: ir.Value | None, reader: ir.Node) -> ir.Node | None:
    """Return the node that makes a value only for this reader, in the same graph, or None."""
    if value is None or value.producer() is None or sole_consumer(value) is not reader:
        return None
    return value.producer()


def only_first_output(node: ir.Node) -> bool:
    """Say whether no output but the first is read or returned."""
    return not any(out.uses() or out.is_graph_output() for out in node.outputs[1:])


def make_tensor(data: Array, name: str | None = None) -> ir.TensorProtocol:
    """Return a tensor of an array's type and shape; arrays of objects hold strings."""
    if data.dtype.kind not in "OUS":
        return ir.Tensor(np.ascontiguousarray(data).reshape(data.shape), name=name)
    items = [item if isinstance(item, bytes) else str(item).encode() for item in data.flat]
    return ir.StringTensor(items, shape=ir.Shape(data.shape), name=name)
