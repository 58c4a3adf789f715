"""The edits that passes make to a graph, each of which leaves it whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir

from onnxcomp.graph import (
    KNOWN_DOMAINS,
    STANDARD_DOMAINS,
    Array,
    all_graphs,
    all_nodes,
    inner_graphs,
    make_tensor,
)


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


def move_initializers(source: ir.Graph, target: ir.Graph) -> None:
    """Move the initializers of one graph to another, renamed where the name is taken."""
    for name in list(source.initializers):
        value = source.initializers.pop(name)
        stem, count = name, 1
        while value.name in target.initializers:
            value.name, count = f"{stem}_{count}", count + 1
        moved = add_tensor(target, value)
        if moved is not value:
            value.replace_all_uses_with(moved)


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
    for inner in inner_graphs(node):
        for reader in list(inner):
            for index in range(len(reader.inputs)):
                reader.replace_input_with(index, None)
    node.graph.remove(node, safe=True)


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
        for inner in inner_graphs(node, deep=False):
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
    while model.functions:  # one that only an unused one calls is unused too
        called = {node.op_identifier() for node in all_nodes(model)}
        unused = [key for key in model.functions if key not in called]
        for key in unused:
            del model.functions[key]
        removed += len(unused)
        if not unused:
            break
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
