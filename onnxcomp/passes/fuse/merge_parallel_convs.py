"""Convolutions of one input whose results are added (RepVGG's branches)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, node_like, replace
from onnxcomp.graph import Array, is_op, sole_producer, tensor
from onnxcomp.passes.fuse._weights import Kernel, fitted, kernel_of
from onnxcomp.registry import Effect, leave, register


@register(Effect.CLOSE, ops=["Conv"])
def merge_parallel_convs(graph: ir.Graph) -> int:
    """Merge two Convs of one input that are added, or a Conv and its own input.

    Convolution is linear in its weight: W1 * x + W2 * x = (W1 + W2) * x. The smaller kernel is put
    in the larger one's frame of zeros, so that each pixel is read at its place: kernel k with pads
    p reads from -p to k - 1 - p. The input itself is a kernel of one 1 per channel.

    Left alone when a branch is read elsewhere, when strides, dilations or groups differ, when the
    smaller kernel reaches out of the larger, and when a weight is not constant or shared.
    """
    merged = 0
    for add in graph:
        if not is_op(add, "Add", "Sum") or len(add.inputs) != 2 or "axis" in add.attributes:
            continue
        branches = [sole_producer(value, add) for value in add.inputs]
        convs = [conv for conv in branches if conv is not None and is_op(conv, "Conv")]
        if len(convs) == 2 and convs[0] is not convs[1]:
            merged += _merge(graph, add, convs[0], convs[1])
        elif len(convs) == 1 and convs[0].inputs[0] in add.inputs:
            merged += _merge(graph, add, convs[0], None)
    return merged


@dataclass(frozen=True)
class _Window:
    """Where a kernel reads: strides, and the first and last offset on each axis.

    `spare` is pads - kernel, from which the result's size follows.
    """

    strides: tuple[int, ...]
    spare: tuple[int, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]


def _merge(graph: ir.Graph, add: ir.Node, conv: ir.Node, other: ir.Node | None) -> int:
    if other is not None and other.inputs[0] is not conv.inputs[0]:
        return 0
    first = kernel_of(conv, add)
    if first is None:
        return 0
    second = kernel_of(other, add) if other is not None else _identity(first)
    if second is None or first.group != second.group:
        return 0
    one = _window(conv, first)
    two = _window(other, second) if other is not None else _identity_window(first)
    if one is None or two is None or (one.strides, one.spare) != (two.strides, two.spare):
        leave(add, "the two convolutions do not read alike")
        return 0
    large = conv
    if other is not None and first.weight[0].size < second.weight[0].size:
        first, second, one, two, large = second, first, two, one, other
    frame = _framed(second.weight, one, two)
    if frame is None or frame.shape != first.weight.shape:
        leave(add, "one kernel reaches out of the other")
        return 0
    kind = tensor(large.inputs[1])
    assert kind is not None
    weight, bias = first.weight.astype(np.float64) + frame, first.bias + second.bias
    data = fitted(add, kind.dtype, weight, bias)
    if data is None:
        return 0
    name = add.outputs[0].name
    inputs = [large.inputs[0], add_constant(graph, data[0], f"{name}.weight")]
    if data[1].any():
        inputs.append(add_constant(graph, data[1], f"{name}.bias"))
    replace([node for node in (conv, other, add) if node is not None], node_like(large, inputs))
    return 1


def _identity(like: Kernel) -> Kernel | None:
    """Return the kernel that gives its input, in the groups of another kernel, or None."""
    if like.channels_in != like.channels_out:
        return None
    per_group = like.channels_out // like.group
    weight = np.tile(np.eye(per_group), (like.group, 1))
    spatial = (1,) * (like.weight.ndim - 2)
    weight = weight.reshape(*weight.shape, *spatial)
    return Kernel(weight, np.zeros(like.channels_out), like.group, transposed=False)


def _identity_window(like: Kernel) -> _Window:
    count = like.weight.ndim - 2
    return _Window((1,) * count, (-1,) * count, (0,) * count, (0,) * count)


def _window(conv: ir.Node, kernel: Kernel) -> _Window | None:
    sizes = kernel.weight.shape[2:]
    count = len(sizes)
    auto = conv.attributes.get_string("auto_pad", "NOTSET")
    if auto not in ("NOTSET", "VALID"):
        return None
    if any(step != 1 for step in conv.attributes.get_ints("dilations", ())):
        return None
    given = conv.attributes.get_ints("pads") if auto == "NOTSET" else None
    pads = given or (0,) * 2 * count
    axes = list(zip(pads[:count], pads[count:], sizes, strict=True))
    return _Window(
        tuple(conv.attributes.get_ints("strides", [1] * count)),
        tuple(start + end - size for start, end, size in axes),
        tuple(-start for start, _, _ in axes),
        tuple(size - 1 - start for start, _, size in axes),
    )


def _framed(weight: Array, outer: _Window, inner: _Window) -> Array | None:
    """Return a kernel with zeros around it up to another's window, or None if it reaches out."""
    before = [i - o for i, o in zip(inner.first, outer.first, strict=True)]
    behind = [o - i for i, o in zip(inner.last, outer.last, strict=True)]
    if min(*before, *behind) < 0:
        return None
    return np.pad(weight, [(0, 0), (0, 0), *zip(before, behind, strict=True)])
