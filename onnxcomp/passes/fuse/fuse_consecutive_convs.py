"""Conv after Conv."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import add_constant, attributes_except, node_like, replace
from onnxcomp.graph import Array, is_op, sole_producer, tensor
from onnxcomp.passes.fuse._weights import Kernel, fitted, has_padding, kernel_of
from onnxcomp.registry import Effect, leave, register


@register(Effect.CLOSE, ops=["Conv"])
def fuse_consecutive_convs(graph: ir.Graph) -> int:
    """Multiply the kernels of two Convs, one of which is 1x1.

    W[o, i, k] = sum over m of W2[o, m, k] W1[m, i, k]: a 1x1 Conv is a matrix at every pixel. Where
    the second is 1x1 the strides multiply. Where the first is, and the second has padding, the
    first must have no bias: the padding of the second is 0 and not that bias. In float64.

    Left alone when the value in between is read elsewhere, when a Conv has groups or a weight is
    not constant or shared, when strides would change a padding that follows from an unknown size
    (`auto_pad` SAME), and when the merged kernel is larger than the two: then they are a low-rank
    factorization, which takes fewer multiplications.
    """
    fused = 0
    for second in graph:
        if not is_op(second, "Conv"):
            continue
        first = sole_producer(second.inputs[0], second)
        if first is None or not is_op(first, "Conv"):
            continue
        one, two = kernel_of(first, second), kernel_of(second, second)
        if one is None or two is None or one.group != 1 or two.group != 1:
            continue
        if one.channels_in * two.weight.shape[0] * _area(one) * _area(two) > (
            one.weight.size + two.weight.size
        ):
            leave(second, "the merged kernel would be larger than the two")
            continue
        if not _can_merge(first, one, second, two):
            leave(second, "neither is 1x1, or the padding lies between them")
            continue
        kind = tensor(first.inputs[1])
        assert kind is not None
        bias = (
            two.bias
            + two.weight.astype(np.float64).sum(tuple(range(2, two.weight.ndim))) @ one.bias
        )
        data = fitted(second, kind.dtype, _product(one, two), bias)
        if data is None:
            continue
        name = second.outputs[0].name
        inputs = [first.inputs[0], add_constant(graph, data[0], f"{name}.weight")]
        if data[1].any():
            inputs.append(add_constant(graph, data[1], f"{name}.bias"))
        replace([first, second], node_like(second, inputs, _attributes(first, second, two)))
        fused += 1
    return fused


def _area(kernel: Kernel) -> int:
    return int(np.prod(kernel.weight.shape[2:]))


def _can_merge(first: ir.Node, one: Kernel, second: ir.Node, two: Kernel) -> bool:
    if _area(two) == 1 and not has_padding(second):
        return not (_pads_by_size(first) and _has_strides(second))
    if _area(one) != 1 or has_padding(first) or _has_strides(first):
        return False
    return not has_padding(second) or not one.bias.any()


def _has_strides(conv: ir.Node) -> bool:
    return any(step != 1 for step in conv.attributes.get_ints("strides", ()))


def _pads_by_size(conv: ir.Node) -> bool:
    """Say whether the padding follows from the size and the strides, so that it changes with them.

    Where the size is known, auto_pad has been written as pads.
    """
    return conv.attributes.get_string("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")


def _product(one: Kernel, two: Kernel) -> Array:
    left = two.weight.astype(np.float64).reshape(*two.weight.shape[:2], -1)
    right = one.weight.astype(np.float64).reshape(*one.weight.shape[:2], -1)
    spatial = one.weight.shape[2:] if _area(two) == 1 else two.weight.shape[2:]
    product: Array = np.einsum("omk,mil->oikl", left, right)
    return product.reshape(two.weight.shape[0], one.weight.shape[1], *spatial)


def _attributes(first: ir.Node, second: ir.Node, two: Kernel) -> list[ir.Attr]:
    """Return the attributes of the Conv with the larger kernel or padding, with both strides."""
    if _area(two) != 1 or has_padding(second):  # then the first has no strides
        return list(second.attributes.values())
    ones = [1] * (two.weight.ndim - 2)
    steps = [node.attributes.get_ints("strides", ones) for node in (first, second)]
    strides = [a * b for a, b in zip(*steps, strict=True)]
    return [*attributes_except(first, "strides"), ir.AttrInt64s("strides", strides)]
