"""What an optimization did to a graph, for people: operators, passes, and a diff of the nodes."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

import onnx_ir as ir

from onnxcomp.graph import STANDARD_DOMAINS, is_op, opset_version, tensor
from onnxcomp.opset_lower import is_default, schema_of
from onnxcomp.report import Report, StepReport
from onnxcomp.runtime import value_spec

# Lines of unchanged nodes around a change.
CONTEXT = 2
# Longer lists and texts in attributes are cut.
LONGEST = 8


def diff_lines(before: ir.Model, after: ir.Model, report: Report) -> Iterator[str]:
    """Yield the change of the operators, a line per pass that did something, and the node diff."""
    yield op_changes(report.before.cost.ops, report.after.cost.ops)
    for change in report.interface:
        yield f"interface: {change} (as asked)"
    for step in report.steps:
        if step.status == "applied":
            yield _step_line(step)
    yield from difflib.unified_diff(
        list(graph_lines(before)),
        list(graph_lines(after)),
        report.before.path or "before",
        report.after.path or "after",
        n=CONTEXT,
        lineterm="",
    )


def op_changes(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """Write how many nodes of each operator went, came, and stayed: `-4 Relu  +1 Gemm  9 Conv`."""
    change = {op: after.get(op, 0) - before.get(op, 0) for op in before.keys() | after.keys()}
    went = [
        f"{change[op]} {op}"
        for op in sorted(change, key=lambda op: (change[op], op))
        if change[op] < 0
    ]
    came = [
        f"+{change[op]} {op}"
        for op in sorted(change, key=lambda op: (-change[op], op))
        if change[op] > 0
    ]
    stayed = [f"{before[op]} {op}" for op in sorted(change) if not change[op]]
    return "  ".join([*went, *came, *stayed])


def _step_line(step: StepReport) -> str:
    was, now = step.nodes
    sites = f"{step.sites} site{'' if step.sites == 1 else 's'}"
    return f"{step.name}: {sites}, {was} -> {now} nodes"


def graph_lines(model: ir.Model) -> Iterator[str]:
    """Yield a line per input, output and node, the nodes of subgraphs indented, in graph order.

    A node is `Op(inputs) {attributes that are not the default} -> outputs`; a constant is its type
    and shape, and has no line of its own.
    """
    for kind, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for value in values:
            yield f"{kind} {value_spec(value)}"
    version = opset_version(model)
    yield from _lines(model.graph, "", version)
    for function in model.functions.values():
        yield f"function {function.domain}.{function.name}"
        yield from _lines(function.graph, "  ", version)


def _lines(graph: ir.Graph, indent: str, version: int) -> Iterator[str]:
    for node in graph:
        if is_op(node, "Constant"):
            continue
        inputs = ", ".join(_operand(value) for value in node.inputs)
        outputs = ", ".join(value.name or "_" for value in node.outputs)
        domain = f"{node.domain}." if node.domain not in STANDARD_DOMAINS else ""
        yield f"{indent}{domain}{node.op_type}({inputs}){_attributes(node, version)} -> {outputs}"
        for attr in node.attributes.values():
            if attr.type == ir.AttributeType.GRAPH and not attr.is_ref():
                yield f"{indent}  {attr.name}:"
                yield from _lines(attr.as_graph(), f"{indent}    ", version)


def _operand(value: ir.Value | None) -> str:
    if value is None:
        return "_"
    found = tensor(value)
    return (value.name or "_") if found is None else _kind(found)


def _kind(found: ir.TensorProtocol) -> str:
    return f"{found.dtype.name.lower()}[{','.join(str(dim) for dim in found.shape)}]"


def _attributes(node: ir.Node, version: int) -> str:
    """Write the attributes that are not the default."""
    schema = schema_of(node.op_type, version) if node.domain in STANDARD_DOMAINS else None
    parts = [
        f"{name}={_attribute(attr)}"
        for name, attr in sorted(node.attributes.items())
        if attr.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        and not (schema is not None and is_default(attr, schema))
    ]
    return f" {{{', '.join(parts)}}}" if parts else ""


def _attribute(attr: ir.Attr) -> str:
    if attr.is_ref():
        return f"@{attr.ref_attr_name}"
    if attr.type == ir.AttributeType.TENSOR:
        return _kind(attr.as_tensor())
    value = attr.value
    if isinstance(value, (list, tuple)):
        shown = ",".join(str(item) for item in value[:LONGEST])
        return f"[{shown}{',...' if len(value) > LONGEST else ''}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
