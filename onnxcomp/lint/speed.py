"""Findings about speed: unfused layers, channel counts, double precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx_ir as ir

from onnxcomp.graph import all_graphs, all_nodes, is_op, label, sole_producer, static_shape, tensor
from onnxcomp.lint.finding import (
    SMALL_BYTES,
    Finding,
    Subject,
    amount,
    count,
    labels,
    operators,
    trains,
)

# Channel counts matter where the layers concerned do this part of the MACs.
WORTH_MENTIONING = 0.01
# Below this many channels a convolution is laid out in another way, and cannot be rounded.
SMALLEST_BLOCKED = 8
_DOUBLE = int(ir.DataType.DOUBLE)


def unfused_batch_norm(subject: Subject) -> Iterator[Finding]:
    """Yield normalizations that the layer before them could hold."""
    nodes = [
        node
        for node in all_nodes(subject.model)
        if is_op(node, "BatchNormalization")
        and not trains(node)
        and is_op(sole_producer(node.inputs[0], node), "Conv", "ConvTranspose", "Gemm", "MatMul")
        and all(tensor(value) is not None for value in node.inputs[1:])
    ]
    if nodes:
        yield Finding(
            "unfused-batch-norm",
            labels(nodes),
            f"{len(nodes)} BatchNormalization that the layer before could hold",
            "`onnxcomp optimize` folds them",
        )


def unaligned_channels(subject: Subject) -> Iterator[Finding]:
    """Yield convolutions whose channel counts fill no whole number of the target's blocks."""
    block = subject.target.channel_block
    shares = {layer.node: layer.macs_share for layer in subject.layers}
    nodes = [node for node in all_nodes(subject.model) if _is_unaligned(node, block)]
    share = sum(shares.get(label(node), 0.0) for node in nodes)
    if share < WORTH_MENTIONING:
        return
    nodes.sort(key=lambda node: -shares.get(label(node), 0.0))
    counts = Counter(static_shape(node.inputs[1])[0] for node in nodes)  # type: ignore[index]
    widths = ", ".join(str(width) for width, _ in counts.most_common(5))
    yield Finding(
        "unaligned-channels",
        labels(nodes),
        f"{len(nodes)} Conv ({share:.1%} of MACs) with a number of channels that is no multiple of "
        f"{block} ({widths}); each costs as much as the next multiple",
        f"choose widths that are multiples of {block} (target {subject.target.name}) when training",
    )


def _is_unaligned(node: ir.Node, block: int) -> bool:
    shape = static_shape(node.inputs[1]) if is_op(node, "Conv") else None
    if shape is None:
        return False
    return shape[0] >= SMALLEST_BLOCKED and shape[0] % block != 0


def float64(subject: Subject) -> Iterator[Finding]:
    """Yield nodes that compute in double precision, and weights stored in it."""
    nodes = [
        node
        for node in (all_nodes(subject.inferred) if _has_float64(subject.model) else ())
        if not is_op(node, "Constant", "Cast")
        and any(output.dtype == ir.DataType.DOUBLE for output in node.outputs)
    ]
    if nodes:
        yield Finding(
            "float64-nodes",
            labels(nodes),
            f"{operators(nodes)} in float64, at half the speed of float32 or less",
            "export in float32 (in PyTorch a Python float or numpy scalar often makes float64)",
        )
    values = [
        value
        for graph in all_graphs(subject.model)
        for value in graph.initializers.values()
        if value.const_value is not None
        and value.const_value.dtype == ir.DataType.DOUBLE
        and value.const_value.nbytes > SMALL_BYTES
    ]
    if values:
        size = sum(value.const_value.nbytes for value in values if value.const_value is not None)
        yield Finding(
            "float64-weights",
            tuple(value.name or "" for value in values),
            f"{count(values, 'weight')} in float64: {amount(size)}, twice what float32 takes",
            "export in float32",
        )


def _has_float64(model: ir.Model) -> bool:
    """Say whether anything that float64 can come from is there."""
    constants = (tensor(value) for node in all_nodes(model) for value in node.inputs)
    return (
        any(found is not None and found.dtype == ir.DataType.DOUBLE for found in constants)
        or any(value.dtype == ir.DataType.DOUBLE for value in model.graph.inputs)
        or any(
            attr.type == ir.AttributeType.INT and not attr.is_ref() and attr.as_int() == _DOUBLE
            for node in all_nodes(model)
            for attr in node.attributes.values()
            if attr.name in ("to", "dtype")
        )
    )
