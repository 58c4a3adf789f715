"""What layers that multiply do to channels: a weight's rows make them, its columns read them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.channels.elementwise_rules import tie_broadcast
from onnxcomp.channels.ids import HEAD, SHIFTED, SUMMED, Axes, Axis, Ids, UnruledError
from onnxcomp.graph import tensor

SPATIAL = "it slides over these places"


def _conv(node: ir.Node, ids: Ids) -> list[Axes]:
    source, weight = ids.of(node.inputs[0]), ids.of(node.inputs[1])
    groups, channels = node.attributes.get_int("group", 1), _size(node.inputs[0], 1, ids)
    _need_constant(node.inputs[1])
    ids.pin([*source[2:], *weight[2:]], node, SPATIAL)
    if groups == 1:
        ids.tie(source[1], weight[1])
        ids.mark("reader", node, node.inputs[1], 1)
        ids.mark("maker", node, node.inputs[1], 0)
    elif groups == channels:
        _tie_blocks(ids, weight[0], source[1], groups)
        ids.mark("depthwise", node, node.inputs[1], 0)
    else:
        rows, columns = _by_group(source[1], groups), _by_group(weight[0], groups)
        ids.tie_rows(rows)
        ids.tie_rows(columns)
        _tie_or_pin(ids, rows[0], weight[1], node)
        ids.mark("reader", node, node.inputs[1], 1)
        ids.mark("maker", node, node.inputs[1], 0)
    _tie_bias(node, ids, weight[0])
    return [[source[0], weight[0], *_spatial(node, ids)]]


def _conv_transpose(node: ir.Node, ids: Ids) -> list[Axes]:
    source, weight = ids.of(node.inputs[0]), ids.of(node.inputs[1])
    groups, channels = node.attributes.get_int("group", 1), _size(node.inputs[0], 1, ids)
    _need_constant(node.inputs[1])
    ids.pin([*source[2:], *weight[2:]], node, SPATIAL)
    ids.tie(source[1], weight[0])
    made = weight[1]
    if groups == channels and groups > 1:
        ids.pin(weight[1], node, "several results of each channel share it")
        times = _size(node.inputs[1], 1, ids)
        made = None if source[1] is None else np.repeat(source[1], times)
        ids.mark("depthwise", node, node.inputs[1], 0)
    else:
        if groups > 1:
            ids.tie_rows(_by_group(source[1], groups))
            made = None if weight[1] is None else np.tile(weight[1], groups)
            made = ids.fixed((groups,), node, "one channel per block")[0] if made is None else made
        ids.mark("reader", node, node.inputs[1], 0)
        ids.mark("maker", node, node.inputs[1], 1)
    _tie_bias(node, ids, made)
    return [[source[0], made, *_spatial(node, ids)]]


def _gemm(node: ir.Node, ids: Ids) -> list[Axes]:
    turned, across = (node.attributes.get_int(name, 0) for name in ("transA", "transB"))
    made = _multiply(node, ids, (1, 0) if turned else (0, 1), (1, 0) if across else (0, 1))
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        shape = ids.facts.shape(node.outputs[0])
        if shape is None:
            raise UnruledError("the shape of its result is not known")
        _note_free(ids, made, ids.of(node.inputs[2]))
        tie_broadcast(ids, node, [node.inputs[2]], made, shape)
    return [made]


def _matmul(node: ir.Node, ids: Ids) -> list[Axes]:
    ranks = [len(ids.of(value)) for value in node.inputs]
    if min(ranks) < 2:
        raise UnruledError("a vector is multiplied")
    places = [(rank - 2, rank - 1) for rank in ranks]
    made = _multiply(node, ids, places[0], places[1])
    shape = ids.facts.shape(node.outputs[0])
    if shape is None:
        raise UnruledError("the shape of its result is not known")
    batch: Axes = [None] * (len(shape) - 2)
    for value in node.inputs:
        axes = ids.of(value)[:-2]
        tie_broadcast(ids, node, [value], batch, shape[:-2], drop=2)
        if not any(_is_constant(each) for each in node.inputs):
            for axis in axes:
                ids.note(axis, HEAD)
    return [[*batch, *made]]


def _multiply(node: ir.Node, ids: Ids, first: tuple[int, int], second: tuple[int, int]) -> Axes:
    """Tie the axis that is summed over; return the ids of the result's rows and columns."""
    left, right = node.inputs[0], node.inputs[1]
    a, b = ids.of(left), ids.of(right)
    ids.tie(a[first[1]], b[second[0]])
    if _is_constant(right):
        ids.mark("reader", node, right, second[0])
        ids.mark("maker", node, right, second[1])
    elif _is_constant(left):
        ids.mark("reader", node, left, first[1])
        ids.mark("maker", node, left, first[0])
    else:
        ids.note(a[first[1]], SUMMED)
    return [a[first[0]], b[second[1]]]


def _is_constant(value: ir.Value | None) -> bool:
    """Say whether a weight is a constant, or computed of nothing but constants."""
    if value is None or tensor(value) is not None:
        return value is not None
    node = value.producer()
    if node is None or not node.inputs or node.op_type == "If":
        return False
    return all(each is None or _is_constant(each) for each in node.inputs)


def _need_constant(value: ir.Value | None) -> None:
    if not _is_constant(value):
        raise UnruledError("its weight is computed")


def _size(value: ir.Value | None, axis: int, ids: Ids) -> int:
    """Return a dim that is a number; raise where it is not."""
    shape = ids.facts.shape(value)
    found = shape[axis] if shape is not None else None
    if not isinstance(found, int):
        raise UnruledError("the number of its channels is not known")
    return found


def _by_group(axis: Axis, groups: int) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    if axis is None or len(axis) % groups:
        raise UnruledError("its channels do not divide into its groups")
    return axis.reshape(groups, -1)


def _tie_blocks(ids: Ids, made: Axis, source: Axis, groups: int) -> None:
    """Tie each channel to the results that a depthwise layer makes of it."""
    if source is None and made is None:
        return
    if source is None:
        raise UnruledError("it makes several results of one channel")
    for column in _by_group(made, groups).T:
        ids.tie(source, column)


def _tie_or_pin(ids: Ids, source: Axis, weight: Axis, node: ir.Node) -> None:
    if weight is None:
        ids.pin(source, node, "one channel per block")
    else:
        ids.tie(source, weight)


def _tie_bias(node: ir.Node, ids: Ids, made: Axis) -> None:
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        ids.tie(ids.of(node.inputs[2])[0], made)


def _note_free(ids: Ids, made: Axes, bias: Axes) -> None:
    padded: Axes = [*[None] * (len(made) - len(bias)), *bias]
    for axis, own in zip(made, padded, strict=True):
        if own is None:
            ids.note(axis, SHIFTED)


def _spatial(node: ir.Node, ids: Ids) -> Axes:
    shape = ids.facts.shape(node.outputs[0])
    if shape is None:
        raise UnruledError("the shape of its result is not known")
    return ids.fixed(shape[2:], node, SPATIAL)


LINEAR_RULES = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
