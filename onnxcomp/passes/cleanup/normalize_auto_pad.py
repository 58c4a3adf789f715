"""Padding that a node computes by itself."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxcomp.graph import is_op, static_shape
from onnxcomp.passes._slices import size_of
from onnxcomp.registry import Effect, leave, register


@register(Effect.EXACT, ops=["Conv", "ConvInteger", "MaxPool", "AveragePool"])
def normalize_auto_pad(graph: ir.Graph) -> int:
    """Write the pads that Conv, ConvInteger, MaxPool and AveragePool nodes compute by themselves.

    `auto_pad` VALID is no pads. SAME pads k - 1 - (n - 1) mod s in all, n being the size, k the
    kernel and s the stride: half before and half after, the odd one after for SAME_UPPER and
    before for SAME_LOWER. No node goes, but passes that know pads as numbers can then act.

    Left alone when SAME needs a size that is not known (it does not at stride 1), when the kernel
    is dilated or so short that SAME would crop, and when a pool rounds its size up.
    """
    changed = 0
    for node in graph:
        if not is_op(node, "Conv", "ConvInteger", "MaxPool", "AveragePool"):
            continue
        auto_pad = node.attributes.get_string("auto_pad", "NOTSET")
        if auto_pad not in ("VALID", "SAME_UPPER", "SAME_LOWER"):
            continue
        if node.attributes.get_int("ceil_mode", 0):
            leave(node, "it rounds its size up")
            continue
        totals = () if auto_pad == "VALID" else _totals(node)
        if totals is None:
            leave(node, "its pads depend on a size that is not known, or crop, or it is dilated")
            continue
        smaller = [total // 2 for total in totals]
        larger = [total - half for total, half in zip(totals, smaller, strict=True)]
        pads = [*larger, *smaller] if auto_pad == "SAME_LOWER" else [*smaller, *larger]
        node.attributes.pop("auto_pad")
        node.attributes.pop("pads", None)
        if any(pads):
            node.attributes["pads"] = ir.AttrInt64s("pads", pads)
        changed += 1
    return changed


def _totals(node: ir.Node) -> Sequence[int] | None:
    """Return what SAME adds to each spatial axis, or None when it is not known."""
    kernel = node.attributes.get_ints("kernel_shape")
    if kernel is None:  # of a convolution: pools must say it
        weight = static_shape(node.inputs[1])
        kernel = None if weight is None else weight[2:]
    if kernel is None or set(node.attributes.get_ints("dilations", ())) - {1}:
        return None
    strides = node.attributes.get_ints("strides") or [1] * len(kernel)
    totals = []
    for axis, (width, stride) in enumerate(zip(kernel, strides, strict=True), start=2):
        size = 1 if stride == 1 else size_of(node.inputs[0], axis)
        if size is None:
            return None
        totals.append(width - 1 - (size - 1) % stride)
    return totals if min(totals) >= 0 else None
