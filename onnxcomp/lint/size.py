"""Findings about size: what is stored twice, in the wrong place, or for nobody."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterator

import onnx_ir as ir

from onnxcomp.edits import sweep
from onnxcomp.graph import all_graphs, all_nodes, is_op, label, tensor
from onnxcomp.lint.finding import SMALL_BYTES, Finding, Subject, amount, count


def duplicate_weights(subject: Subject) -> Iterator[Finding]:
    """Yield weights whose bytes are those of another."""
    copies: list[ir.Value] = []
    for group in _same_kind(subject.model):
        seen: set[tuple[int, int]] = set()
        for value in group:
            key = _fingerprint(value)
            if key in seen:
                copies.append(value)
            seen.add(key)
    if copies:
        size = sum(value.const_value.nbytes for value in copies if value.const_value is not None)
        yield Finding(
            "duplicate-weights",
            tuple(value.name or "" for value in copies),
            f"{count(copies, 'weight')} ({amount(size)}) with the same content as another",
            "`onnxcomp optimize` keeps one of each",
        )


def _same_kind(model: ir.Model) -> list[list[ir.Value]]:
    """Return the weights that share type and shape and begin alike; others cannot be equal."""
    groups: dict[object, list[ir.Value]] = defaultdict(list)
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            data = value.const_value
            if data is not None and data.nbytes > SMALL_BYTES and data.dtype != ir.DataType.STRING:
                groups[data.dtype, tuple(data.shape)].append(value)
    alike: dict[object, list[ir.Value]] = defaultdict(list)
    for kind, group in groups.items():
        for value in group if len(group) > 1 else ():
            alike[kind, _first_items(value)].append(value)
    return [group for group in alike.values() if len(group) > 1]


def _first_items(value: ir.Value) -> bytes:
    assert value.const_value is not None
    return bytes(value.const_value.numpy().reshape(-1)[:16].tobytes())


def _fingerprint(value: ir.Value) -> tuple[int, int]:
    assert value.const_value is not None
    data = value.const_value.tobytes()
    return zlib.crc32(data), zlib.adler32(data)


def weights_in_constants(subject: Subject) -> Iterator[Finding]:
    """Yield weights that are Constant nodes: most tools do not see them."""
    nodes = [
        node
        for node in all_nodes(subject.model)
        if is_op(node, "Constant")
        and (found := tensor(node.outputs[0])) is not None
        and found.nbytes > SMALL_BYTES
    ]
    if nodes:
        yield Finding(
            "weights-in-constants",
            tuple(node.outputs[0].name or "" for node in nodes),
            f"{count(nodes, 'weight')} in Constant nodes, where many tools do not look for them",
            "`onnxcomp optimize` makes them initializers",
        )


def unused(subject: Subject) -> Iterator[Finding]:
    """Yield nodes and weights that nothing reads."""
    copy = subject.model.clone()
    before = [_named(graph) for graph in all_graphs(copy)]
    if not sweep(copy):
        return
    left = set().union(*(_named(graph) for graph in all_graphs(copy)))
    names = sorted(name for group in before for name in group - left if name)
    yield Finding(
        "unused",
        tuple(names),
        f"no output needs {len(names)} of the nodes and weights",
        "`onnxcomp optimize` removes them",
    )


def _named(graph: ir.Graph) -> set[str]:
    return {label(node) for node in graph} | set(graph.initializers)
