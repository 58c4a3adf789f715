"""Vocabulary over `onnx_ir`: the questions that passes ask and the edits that they make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
        yield graph
        yield from graph.subgraphs()


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
    """Say whether a node is one of these operators of the standard domain."""
    return node is not None and node.op_type in op_types and node.domain in STANDARD_DOMAINS


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
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(attr.type in kinds for attr in node.attributes.values())


def has_references(node: ir.Node) -> bool:
    """Say whether an attribute refers to one of the enclosing function, so is not known here."""
    return any(attr.is_ref() for attr in node.attributes.values())


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
        return ir.tensor(np.ascontiguousarray(data).reshape(data.shape), name=name)
    items = [item if isinstance(item, bytes) else str(item).encode() for item in data.flat]
    return ir.StringTensor(items, shape=ir.Shape(data.shape), name=name)


# ---------------------------------------------------------------- edits
def add_constant(graph: ir.Graph, data: Array, name: str) -> ir.Value:
    """Add a new constant to a graph under a name made from `name`, and return its value."""
    stem, count = name, 1
    while name in graph.initializers:
        name, count = f"{stem}_{count}", count + 1
    tensor = make_tensor(data, name)
    value = ir.Value(
        name=name, shape=ir.Shape(data.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    return add_tensor(graph, value)


def add_tensor(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """Make a value with `const_value` part of a graph; a function body gets a Constant node."""
    if not _is_function_body(graph):
        graph.register_initializer(value)
        return value
    assert value.const_value is not None
    node = ir.Node("", "Constant", [], [ir.AttrTensor("value", value.const_value)])
    node.outputs[0].name, node.outputs[0].shape = value.name, value.shape
    node.outputs[0].type = value.type
    graph.insert_before(graph[0], node) if len(graph) else graph.append(node)
    return node.outputs[0]


def mark_function_bodies(model: ir.Model) -> None:
    """Note which graphs are function bodies: they cannot hold initializers."""
    for function in model.functions.values():
        function.graph.meta["function_body"] = True


def _is_function_body(graph: ir.Graph) -> bool:
    return bool(graph.meta.get("function_body"))


def take_over(new: ir.Value, old: ir.Value) -> None:
    """Put `new` in the place of `old`: its readers, its graph outputs and, for these, its name.

    `new` keeps its own type and shape where it has them, except that a graph output keeps the
    declared ones: they are part of the interface.
    """
    if old.is_graph_output():
        name, shape, type_ = old.name, old.shape, old.type
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name = None
        new.name, new.shape, new.type = name, shape, type_
        return
    new.shape = new.shape if new.shape is not None else old.shape
    new.type = new.type if new.type is not None else old.type
    old.replace_all_uses_with(new)


def can_take_over(new: ir.Value, old: ir.Value) -> bool:
    """Say whether an existing value may stand for `old` (see `take_over`).

    A graph output must be made by a node of that very graph and have one name, so an input, an
    initializer, a captured value or another output cannot take its place.
    """
    if not old.is_graph_output():
        return True
    producer = new.producer()
    if producer is None or new.is_graph_output():
        return False
    old_producer = old.producer()
    return old_producer is not None and producer.graph is old_producer.graph


def bypass(node: ir.Node, source: ir.Value | None = None) -> bool:
    """Remove a node whose first output equals its first input (or `source`), where that is legal.

    Returns False, and changes nothing, when the output is a graph output that the source cannot
    become.
    """
    source = source if source is not None else node.inputs[0]
    if source is None or not can_take_over(source, node.outputs[0]):
        return False
    take_over(source, node.outputs[0])
    remove(node)
    return True


def replace(old: Sequence[ir.Node], new: ir.Node) -> ir.Node:
    """Put one new node in the place of several, the last of which makes the result.

    The result keeps its name, type and shape; the other old nodes are removed when nothing else
    reads them.
    """
    last = old[-1]
    graph = last.graph
    assert graph is not None
    graph.insert_before(last, new)
    name = last.outputs[0].name
    new.outputs[0].shape, new.outputs[0].type = last.outputs[0].shape, last.outputs[0].type
    take_over(new.outputs[0], last.outputs[0])
    last.outputs[0].name, new.outputs[0].name = None, name
    for node in reversed(old):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            remove(node)
    return new


def remove(node: ir.Node) -> None:
    """Take a node that nothing reads out of its graph, with all that its subgraphs read."""
    assert node.graph is not None
    for inner in _inner_graphs(node):
        for reader in list(inner):
            for index in range(len(reader.inputs)):
                reader.replace_input_with(index, None)
    node.graph.remove(node, safe=True)


def subgraphs_of(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs that a node carries as attributes, but not those inside them."""
    return _inner_graphs(node, deep=False)


def _inner_graphs(node: ir.Node, *, deep: bool = True) -> Iterator[ir.Graph]:
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


def assign_unique_names(model: ir.Model) -> None:
    """Rename inner values whose name another value in scope has; inputs and outputs keep theirs."""
    _unique_names(model.graph, set())
    for function in model.functions.values():
        _unique_names(function.graph, set())


def _unique_names(graph: ir.Graph, outer: set[str]) -> None:
    fixed = {value.name for value in (*graph.inputs, *graph.outputs) if value.name}
    taken = outer | fixed
    for value in list(graph.initializers.values()):
        if value.name not in fixed:
            _rename(value, taken)
    made = [output for node in graph for output in node.outputs if output.name]
    for value in made:
        if value.name not in fixed or not value.is_graph_output():
            _rename(value, taken)
    for node in graph:
        for inner in _inner_graphs(node, deep=False):
            _unique_names(inner, taken)


def _rename(value: ir.Value, taken: set[str]) -> None:
    name, count = value.name or "value", 1
    while name in taken:
        name, count = f"{value.name}_{count}", count + 1
    if name != value.name:
        value.name = name
    taken.add(name)


def sweep(model: ir.Model) -> int:
    """Remove nodes, initializers and functions that nothing reads; return how many.

    Nodes of foreign domains stay: they may do more than compute their outputs.
    """
    removed = _sweep_functions(model)
    removed += sum(_sweep_nodes(graph) for graph in reversed(list(all_graphs(model))))
    removed += sum(_sweep_initializers(graph) for graph in all_graphs(model))
    return removed + _sweep_functions(model)


def _sweep_nodes(graph: ir.Graph) -> int:
    removed = 0
    for node in reversed(graph):
        if node.domain not in STANDARD_DOMAINS | KNOWN_DOMAINS:
            continue
        if any(output.uses() or output.is_graph_output() for output in node.outputs):
            continue
        remove(node)
        removed += 1
    return removed


def _sweep_initializers(graph: ir.Graph) -> int:
    unused = [
        name
        for name, value in graph.initializers.items()
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input()
    ]
    for name in unused:
        del graph.initializers[name]
    return len(unused)


def _sweep_functions(model: ir.Model) -> int:
    removed = 0
    while True:  # a function that only an unused one calls is unused too
        called = {node.op_identifier() for node in all_nodes(model)}
        unused = [key for key in model.functions if key not in called]
        for key in unused:
            del model.functions[key]
        removed += len(unused)
        if not unused:
            return removed


def attributes_except(node: ir.Node, *names: str) -> list[ir.Attr]:
    """Return the attributes of a node but those named."""
    return [attr for attr in node.attributes.values() if attr.name not in names]


def node_like(
    node: ir.Node, inputs: Iterable[ir.Value | None], attributes: Iterable[ir.Attr] | None = None
) -> ir.Node:
    """Make a node of the same operator and name with other inputs (and attributes)."""
    return ir.Node(
        node.domain,
        node.op_type,
        list(inputs),
        list(node.attributes.values()) if attributes is None else list(attributes),
        overload=node.overload,
        name=node.name,
        metadata_props=dict(node.metadata_props),
    )
