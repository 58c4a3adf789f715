"""Pad followed by AveragePool or MaxPool."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcomp.edits import attributes_except, node_like, replace
from onnxcomp.graph import Array, is_op, only_first_output, sole_consumer
from onnxcomp.passes.fuse._pads import added_pads, fill_of
from onnxcomp.registry import Effect, leave, register

COUNTS_PADS_FROM = 7


@register(Effect.CLOSE, ops=["Pad"])
def fuse_pad_into_pool(graph: ir.Graph, opset: int) -> int:
    """Fold a Pad into the padding of the pool that alone reads it.

    An AveragePool pads with zeros, which count where `count_include_pad` is 1; a MaxPool pads with
    what is below every number, so a Pad with -infinity (the least number of integers) folds into
    it, and one with zeros does not.

    Left alone when the Pad adds something else, or pads the batch or channel axis; when the average
    leaves out pads of its own; when a pad would be as wide as the kernel, which runtimes refuse;
    when the pool rounds its size up, dilates, pads by itself (`auto_pad` SAME) or returns indices.
    """
    fused = 0
    for pad in graph:
        if not is_op(pad, "Pad") or pad.inputs[0] is None:
            continue
        pool = sole_consumer(pad.outputs[0])
        if pool is None or not is_op(pool, "AveragePool", "MaxPool"):
            continue
        fill, added = fill_of(pad, pad.inputs[0].dtype), added_pads(pad)
        if fill is None or added is None or not _pads_with(fill, pool):
            leave(pad, "it does not pad with what the pool pads with")
            continue
        own = _own_pads(pool, opset)
        if own is None:
            leave(pad, "the pool computes its pads or its size in a way of its own")
            continue
        half = len(added) // 2
        if any((*added[:2], *added[half : half + 2])):
            leave(pad, "it pads the batch or channel axis")
            continue
        pads = [a + b for a, b in zip(own, (*added[2:half], *added[half + 2 :]), strict=True)]
        kernel = pool.attributes.get_ints("kernel_shape", ())
        if any(size >= width for size, width in zip(pads, [*kernel, *kernel], strict=True)):
            leave(pad, "its pads are as wide as the kernel")
            continue
        attributes = attributes_except(pool, "pads", "auto_pad", "count_include_pad")
        attributes.append(ir.AttrInt64s("pads", pads))
        if pool.op_type == "AveragePool":
            attributes.append(ir.AttrInt64("count_include_pad", 1))
        replace([pad, pool], node_like(pool, [pad.inputs[0]], attributes))
        fused += 1
    return fused


def _pads_with(fill: Array, pool: ir.Node) -> bool:
    if pool.op_type == "AveragePool":
        return not fill.any()
    if fill.dtype.kind in "iu":
        return bool(fill == np.iinfo(fill.dtype).min)
    return bool(np.isneginf(fill))


def _own_pads(pool: ir.Node, opset: int) -> list[int] | None:
    """Return the pads of a pool that more of the same may be added to, or None."""
    auto_pad = pool.attributes.get_string("auto_pad", "NOTSET")
    dilations = pool.attributes.get_ints("dilations", ())
    if auto_pad not in ("NOTSET", "VALID") or pool.attributes.get_int("ceil_mode", 0) != 0:
        return None
    if not only_first_output(pool) or set(dilations) - {1}:
        return None
    own = pool.attributes.get_ints("pads", ()) if auto_pad == "NOTSET" else ()
    if pool.op_type == "AveragePool":
        counted = pool.attributes.get_int("count_include_pad", 0)
        if opset < COUNTS_PADS_FROM or (any(own) and not counted):
            return None
    return list(own) or [0] * (2 * len(pool.attributes.get_ints("kernel_shape", ())))
