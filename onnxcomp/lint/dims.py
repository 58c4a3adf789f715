"""Findings about shapes: dims that are not fixed, and shapes that nobody knows."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence

import onnx_ir as ir

from onnxcomp.graph import (
    CONTROL_FLOW_OPS,
    QUANTIZATION_OPS,
    STANDARD_DOMAINS,
    has_subgraph,
    is_op,
    is_random,
    label,
    tensor,
)
from onnxcomp.lint.finding import Finding, Subject, count, labels
from onnxcomp.symbolic.dims import Dim
from onnxcomp.symbolic.facts import Facts


def open_dims(subject: Subject) -> Iterator[Finding]:
    """Yield input dims that are not fixed, where nodes only reckon with them."""
    dims = list(_open_dims(subject.model))
    blocked = _blocked_by_open_dims(subject) if dims else []
    if not blocked:
        return
    counts = _counts_by_name(subject, blocked, [name for _, _, name in dims if name])
    named = ", ".join(f"{name} {count}" for name, count in counts.items())
    shapes = " ".join(_shape_option(value) for value in dict.fromkeys(v for v, _, _ in dims))
    yield Finding(
        "open-dims",
        tuple(f"{value.name}[{axis}]" + (f" {name}" if name else "") for value, axis, name in dims),
        f"{count(blocked, 'node')} only to compute shapes from dims that are not fixed"
        + (f" ({named})" if named else ""),
        f"where these never change, {shapes} folds all of it; plain `onnxcomp optimize` folds what "
        "holds for every size",
    )


def _open_dims(model: ir.Model) -> Iterator[tuple[ir.Value, int, str]]:
    for value in model.graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            if not isinstance(dim, int) or dim < 0:
                name = None if isinstance(dim, int) else dim.value
                yield value, axis, "" if name in (None, "?") else str(name)


def _shape_option(value: ir.Value) -> str:
    dims = [
        str(dim) if isinstance(dim, int) and dim >= 0 else f"<{_dim_word(dim, axis)}>"
        for axis, dim in enumerate(value.shape or ())
    ]
    return f"--shape {value.name}:{','.join(dims)}"


def _dim_word(dim: int | ir.SymbolicDim, axis: int) -> str:
    name = None if isinstance(dim, int) else dim.value
    return f"dim{axis}" if name in (None, "?") else str(name)


def _blocked_by_open_dims(subject: Subject) -> list[ir.Node]:
    """Return the nodes of the main graph that are constant at fixed sizes and not before."""
    facts = subject.facts
    fixed = _constant_nodes(subject.model, lambda value: value in subject.shapes)
    known = _constant_nodes(subject.model, lambda value: _is_fixed(facts.shape(value)))
    return [node for node in fixed if node not in known and not _is_known(facts, node)]


def _is_fixed(shape: Sequence[int | Dim] | None) -> bool:
    return shape is not None and not any(isinstance(dim, Dim) for dim in shape)


def _constant_nodes(model: ir.Model, has_shape: Callable[[ir.Value], bool]) -> dict[ir.Node, None]:
    """Return the nodes of the main graph that constants and known shapes determine, in order."""
    found: dict[ir.Node, None] = {}
    for node in model.graph:
        if node.domain not in STANDARD_DOMAINS or has_subgraph(node) or is_random(node):
            continue
        if node.op_type in QUANTIZATION_OPS | CONTROL_FLOW_OPS or not node.inputs:
            continue
        source = node.inputs[0]
        of_shape = is_op(node, "Shape", "Size") and source is not None and has_shape(source)
        if of_shape or all(_is_constant(value, found) for value in node.inputs):
            found[node] = None
    return found


def _is_constant(value: ir.Value | None, found: Container[ir.Node | None]) -> bool:
    return value is None or value.producer() in found or tensor(value) is not None


def _is_known(facts: Facts, node: ir.Node) -> bool:
    content = facts.content(node.outputs[0])
    return content is not None and not any(isinstance(item, Dim) for item in content.flat)


def _counts_by_name(subject: Subject, nodes: list[ir.Node], names: Iterable[str]) -> dict[str, int]:
    """Count the nodes that hold a number which is reckoned from a dim of this name, if any do."""
    texts = [
        " ".join(dim.text for dim in content.flat if isinstance(dim, Dim))
        for node in nodes
        if (content := subject.facts.content(node.outputs[0])) is not None
    ]
    counts = {}
    for name in names:
        pattern = re.compile(rf"(?<![\w.]){re.escape(name)}(?![\w.])")
        counts[name] = sum(1 for text in texts if pattern.search(text))
    return {name: count for name, count in counts.items() if count}


def unknown_shapes(subject: Subject) -> Iterator[Finding]:
    """Yield values of which not even the number of dims is known."""

    def known(node: ir.Node) -> bool:
        return all(subject.facts.shape(out) is not None for out in node.outputs if out.name)

    unknown = [node for node in subject.model.graph if not known(node)]
    if unknown:  # what is left to onnx's own inference
        names = {out.name for node in unknown for out in node.outputs if out.name}
        unknown = [
            node
            for node in subject.inferred.graph
            if node.domain in STANDARD_DOMAINS
            and any(o.name in names and o.shape is None and _is_tensor(o) for o in node.outputs)
        ]
    if unknown:
        first = unknown[0]
        yield Finding(
            "unknown-shapes",
            labels(unknown),
            f"nothing is known of the output shapes of {count(unknown, 'node')}, from "
            f"{label(first)} ({first.op_type}) on",
            "rewrites that need shapes leave them alone; fix the input shapes with --shape, or "
            "declare shapes when exporting",
        )


def _is_tensor(value: ir.Value) -> bool:
    return value.type is None or isinstance(value.type, ir.TensorType)
