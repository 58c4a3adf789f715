"""Which layers may be factorized, those that share a weight together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxcomp.cost import Dims
from onnxcomp.exclusion import is_excluded, split_globs
from onnxcomp.graph import Array, array, is_op, label, sole_consumer, sole_producer, tensor
from onnxcomp.linear.layers import Layer, find_layers
from onnxcomp.registry import leave

# From here on Gemm broadcasts its C as it does today.
BROADCASTS_FROM = 7
# A covariance of more outputs takes too long to take apart.
ROWS = 4096


def find_groups(
    graph: ir.Graph,
    ops: Sequence[str],
    exclude: str,
    opset: int,
    shapes: Mapping[ir.Value, Dims],
) -> list[tuple[Layer, ...]]:
    """Return the layers of a graph by weight, without those that cannot be factorized."""
    layers = [layer for layer in find_layers(graph, exclude) if is_op(layer.node, *ops)]
    layers += _transposed(graph, exclude) if "Gemm" in ops else []
    places = {node: place for place, node in enumerate(graph)}
    layers.sort(key=lambda layer: places[layer.node])
    groups: dict[ir.Value, list[Layer]] = {}
    for layer in layers:
        weight = layer.node.inputs[1]
        assert weight is not None
        groups.setdefault(weight, []).append(layer)
    names = Counter(label(node) for node in graph)
    return [
        tuple(group)
        for weight, group in groups.items()
        if _fits(weight, group, opset, shapes, names)
    ]


def _transposed(graph: ir.Graph, exclude: str) -> list[Layer]:
    """Return the Gemms that transpose what they multiply."""
    globs = split_globs(exclude)
    found = []
    for node in graph:
        if not is_op(node, "Gemm") or not node.attributes.get_int("transA", 0):
            continue
        if is_excluded(node, globs):
            continue
        weight, source = tensor(node.inputs[1]), node.inputs[0]
        if weight is None or source is None or tensor(source) is not None:
            continue
        if weight.dtype != ir.DataType.FLOAT or len(weight.shape) != 2:
            continue
        rows = int(node.attributes.get_int("transB", 0) == 0)
        shape = weight.shape.numpy()
        found.append(Layer(node, 1, shape[rows], shape[1 - rows]))
    return found


def _fits(
    weight: ir.Value,
    group: Sequence[Layer],
    opset: int,
    shapes: Mapping[ir.Value, Dims],
    names: Mapping[str, int],
) -> bool:
    reason = next(_obstacles(weight, group, opset), "")
    if not reason and names[label(group[0].node)] > 1:
        reason = "another node has its name"
    if not reason and any(
        value not in shapes for layer in group for value in (layer.source, layer.node.outputs[0])
    ):
        reason = "its shape is not known"
    if reason:
        for layer in group:
            leave(layer.node, reason)
    return not reason


def _obstacles(weight: ir.Value, group: Sequence[Layer], opset: int) -> Iterator[str]:
    first = group[0]
    if first.groups > 1:
        yield "it has groups"
    if first.rows > ROWS:
        yield f"{first.rows} outputs are more than {ROWS}"
    if is_op(first.node, "Gemm") and opset < BROADCASTS_FROM:
        yield f"its operator set is older than {BROADCASTS_FROM}"
    readers = {use.node for use in weight.uses()}
    if readers != {layer.node for layer in group} or len(readers) < len(weight.uses()):
        yield "its weight is also used in another way"
    if any(_way(layer.node) != _way(first.node) for layer in group):
        yield "its weight is shared with a node of other attributes"
    if any(is_half(layer.node) for layer in group):
        yield "it is one of two layers without an activation between them"
    data: Array | None = array(weight)
    if data is None or not (abs(data) < float("inf")).all():
        yield "its weight is not finite"


def _way(node: ir.Node) -> tuple[str, str]:
    """Return what a node does with its weight."""
    attributes = sorted((name, str(attr.value)) for name, attr in node.attributes.items())
    return node.op_type, str(attributes)


def is_half(node: ir.Node) -> bool:
    """Say whether a layer stands before or behind another one, with nothing in between."""
    kinds = ("Conv",) if is_op(node, "Conv") else ("Gemm", "MatMul")
    before = sole_producer(node.inputs[0], node)
    if before is not None and is_op(before, *kinds) and tensor(before.inputs[1]) is not None:
        return True
    behind = sole_consumer(node.outputs[0])
    return (
        behind is not None
        and is_op(behind, *kinds)
        and behind.inputs[0] is node.outputs[0]
        and tensor(behind.inputs[1]) is not None
    )
