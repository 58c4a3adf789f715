"""What a model must be before any run: the same interface, nodes in order, valid to the checker."""

from __future__ import annotations

import onnx_ir as ir

from onnxcomp.graph import label
from onnxcomp.runtime import INLINE_LIMIT, first_line, inline_bytes, weight_bytes
from onnxcomp.shapes import skeleton


def interface_problems(before: ir.Model, after: ir.Model) -> list[str]:
    """Say how inputs, outputs or metadata differ: names, order, types, symbolic dims."""
    problems = []
    for kind, old, new in (
        ("inputs", before.graph.inputs, after.graph.inputs),
        ("outputs", before.graph.outputs, after.graph.outputs),
    ):
        was, now = [_signature(value) for value in old], [_signature(value) for value in new]
        if was != now:
            problems.append(f"{kind} changed from {', '.join(was)} to {', '.join(now)}")
    if dict(before.metadata_props) != dict(after.metadata_props):
        problems.append("metadata_props changed")
    return problems


def _signature(value: ir.Value) -> str:
    return f"{value.name} {value.type}{value.shape if value.shape is not None else ''}"


def order_problems(model: ir.Model) -> list[str]:
    """Say which values are read before they are made, made twice, or not made at all."""
    problems: list[str] = []
    _check_graph(model.graph, set(), set(), problems)
    for function in model.functions.values():
        _check_graph(function.graph, set(), set(), problems)
    return problems[:5]


def _check_graph(
    graph: ir.Graph, outer: set[ir.Value], names: set[str], problems: list[str]
) -> None:
    scope, names = set(outer), set(names)
    for value in (*graph.inputs, *graph.initializers.values()):
        _define(value, scope, names, problems)
    for node in graph:
        problems += [
            f"{label(node)} reads {item.name}, which is not made before it"
            for item in node.inputs
            if item is not None and item not in scope
        ]
        for attr in node.attributes.values():
            if attr.type == ir.AttributeType.GRAPH and not attr.is_ref():
                _check_graph(attr.as_graph(), scope, names, problems)
        for value in node.outputs:
            if value.name:
                _define(value, scope, names, problems)
    problems += [f"output {v.name} is not made" for v in graph.outputs if v not in scope]


def _define(value: ir.Value, scope: set[ir.Value], names: set[str], problems: list[str]) -> None:
    if value.name in names and value not in scope:
        problems.append(f"two values are named {value.name}")
    scope.add(value)
    names.add(value.name or "")


def checker_problem(model: ir.Model) -> str | None:
    """Return what onnx's full checker finds wrong, or None."""
    try:
        large = weight_bytes(model) >= INLINE_LIMIT
        content = lean_content(model) if large else inline_bytes(model)
    except Exception as error:  # a model that cannot be serialized
        return f"the checker refuses it: {first_line(error)}"
    return check_content(content)


def lean_content(model: ir.Model) -> bytes:
    """Return a model without its large weights, as bytes for the checker."""
    return bytes(skeleton(model).SerializeToString())


def check_content(content: bytes) -> str | None:
    """Return what onnx's full checker finds wrong with a serialized model, or None."""
    import onnx

    try:
        onnx.checker.check_model(content, full_check=True)
    except Exception as error:  # the checker raises several unrelated types
        return f"the checker refuses it: {first_line(error)}"
    return None
